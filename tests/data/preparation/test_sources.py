"""Inputs are found, and cut into shards by their names and sizes alone."""

import re

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


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        (
            "a.txt",
            "Text.\n",
            {"text_field": "body"},
            "--text_field=body: read for none of --input; expected it with .jsonl",
        ),
        ("a.txt", "Text.\n", {"data_dir": "here"}, "--data_dir=here: read for none of --input; expected it with tfds:"),
        (
            "a.jsonl",
            '{"text": "a"}\n',
            {"documents": "line"},
            "--documents=line: read for none of --input; expected it with",
        ),
    ],
)
def test_options_that_no_input_reads(tmp_path, name, text, options, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        sources.plan(str(tmp_path / name), sources.Options(**options))
    (tmp_path / "b.txt").write_text("Text.\n")
    (tmp_path / "b.jsonl").write_text('{"body": "a"}\n')
    if "data_dir" not in options:  # read for one of several
        sources.plan(f"{tmp_path}/b.txt,{tmp_path}/b.jsonl", sources.Options(**options))
