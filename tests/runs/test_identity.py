"""Tests that a run continues with keys that may change, and is refused, by key, with others."""

import ast
import re
import shlex

import pytest

from bert_jax import config as config_lib
from bert_jax import storage
from bert_jax.config import finetuning
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
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
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


def test_the_old_values_can_be_typed_as_they_are_told(run):
    """A recipe that came to have other phases: the flags of the message, read by a shell, are the run's own values."""
    phases = ({"share": 0.75, "batch_size": 32, "sequence_length": 64}, {"share": 0.25, "weights": [0.5, 2.0]})
    old = {"data.phases": phases, "optimizer.decay_shape": "sqrt", "init_from": "the 'books'/$1"}
    storage.write_json(run / "config.json", make_config(**old).to_dict())
    with pytest.raises(UserError) as error:
        identity.check_config(run, make_config(**{"optimizer.schedule": "constant", "data.format": "doc_sentences"}))
    told = re.search(r"; give the old value \((.*)\), or another --workdir$", str(error.value))[1]
    values = dict(flag.removeprefix("--config.").split("=", 1) for flag in shlex.split(told))
    assert ast.literal_eval(values["data.phases"]) == phases and values["optimizer.decay_shape"] == "sqrt"
    assert values["data.format"] == make_config().data.format and values["init_from"] == old["init_from"]
    assert '--config.data.phases="(' in told
    config = make_config()
    config.update_from_flattened_dict(
        {key: ast.literal_eval(value) if value.startswith("(") else value for key, value in values.items()}
    )
    assert identity.check_config(run, config)


def test_a_run_without_a_checkpoint_refuses_no_other(run):
    (run / "checkpoints" / "4").rmdir()
    assert identity.check_config(run, make_config(seed=3)) is None


def test_a_run_older_than_a_key_goes_on_without_it(run):
    """A recipe that came to set new keys, and a key whose default is not what runs did before it."""
    older = make_config().to_dict()
    del older["optimizer"]["bias_correction"], older["model"]["initializer"], older["train"]["log_norms"]
    storage.write_json(run / "config.json", older)
    changes = {"optimizer.bias_correction": False, "model.initializer": "normal", "train.log_norms": True}
    config = make_config(**changes)
    with pytest.raises(UserError, match="config.optimizer.bias_correction=True, found False"):
        identity.check_config(run, config)
    kept = identity.keep_values_before(run, config)
    assert "config.optimizer.bias_correction=True" in kept and "config.model.initializer=truncated_normal" in kept
    assert config.train.log_norms  # which may change
    assert identity.check_config(run, config)
    assert identity.keep_values_before(run, config) == identity.keep_values_before(run / "none", config) == ""


def test_an_old_fine_tuning_run_keeps_its_layer_decay(tmp_path):
    older = finetuning.base().to_dict()
    del older["optimizer"]["layer_decay_offset"]
    storage.write_json(tmp_path / "config.json", older)
    config = finetuning.base()
    assert config.optimizer.layer_decay_offset == 2
    assert workdir.config_from_json(older).optimizer.layer_decay_offset == 0
    assert "config.optimizer.layer_decay_offset=0" in identity.keep_values_before(tmp_path, config)
    assert config.optimizer.layer_decay_offset == 0


def test_a_prepared_corpus_is_no_workdir(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(UserError, match="holds a prepared corpus"):
        identity.check_kind(tmp_path)


def test_processes_compare_the_checkpoint_that_they_start_from(tmp_path, monkeypatch):
    """A run that still trains may save between two processes' looks at its newest checkpoint."""
    compared = []
    monkeypatch.setattr(identity.distributed, "check_same", compared.append)
    identity.check_same_run(tmp_path, make_config(), source_step=4)
    identity.check_same_run(tmp_path, make_config())
    assert [values.get("config.init_from (step)") for values in compared] == [4, None]
