"""Inputs are found, and cut into shards by their names and sizes alone."""

import pytest

from bert_jax.data.preparation import sources
from bert_jax.errors import UserError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}/*.txt", "no file matches"),
        ("{}", "it is a folder without such a file"),
        ("{}/a.csv", "unknown kind of file"),
        ("", "empty; expected a glob"),
        ("tfds:name", "expected tfds:NAME"),
        ("tfds:no_such_dataset:train", "no dataset of this name"),
    ],
)
def test_specs_that_name_nothing_are_refused(tmp_path, spec, message):
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(UserError, match=message) as error:
        sources.plan(spec.format(tmp_path), sources.Options(data_dir=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_plan_depends_on_the_inputs_alone(tmp_path):
    (tmp_path / "a.txt").write_text("One line.\n")
    first = sources.plan(f"{tmp_path}/a.txt", sources.Options())
    assert sources.plan(f"{tmp_path}/a.txt", sources.Options()) == first
    (tmp_path / "a.txt").write_text("One line.\n\nMore.\n")
    assert sources.plan(f"{tmp_path}/a.txt", sources.Options()).state != first.state
