"""Tests that a run continues with keys that may change, and is refused, by key, with others."""

import pytest

from bert_jax import config as config_lib
from bert_jax import storage
from bert_jax.errors import UserError
from bert_jax.runs import identity, workdir


def make_config(**changes):
    config = config_lib.base()
    config.model.vocab_size = 100
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def run(tmp_path):
    storage.write_json(tmp_path / "run.json", {"format_version": workdir.FORMAT_VERSION, "corpora": []})
    storage.write_json(tmp_path / "config.json", make_config().to_dict())
    return tmp_path


def test_layout_and_length_may_change(run, tmp_path):
    changes = {"mesh.fsdp": 2, "train.num_steps": 7, "train.microbatches": 2, "data.workers": 1}
    assert identity.check_config(run, make_config(**changes))["corpora"] == []
    assert identity.check_config(tmp_path / "none", make_config()) is None


def test_what_changed_is_named(run):
    with pytest.raises(UserError) as error:
        identity.check_config(run, make_config(**{"optimizer.learning_rate": 0.5, "seed": 3}))
    message = str(error.value)
    assert "config.seed=0, found 3" in message and "found 0.5" in message and "; give the old value" in message


def test_a_prepared_corpus_is_no_workdir(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="holds a prepared corpus"):
        identity.check_config(tmp_path, make_config())
