"""A config that may not continue a run is refused without jax, before its vocabulary is known."""

import json
import subprocess
import sys

import pytest

from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.runs import continuation


def begin(workdir, config, checkpoint=True):
    """Writes the files of a run that began with the config."""
    workdir.mkdir()
    (workdir / "run.json").write_text(json.dumps({"format_version": 1, "corpora": []}))
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    if checkpoint:
        (workdir / "checkpoints" / "5").mkdir(parents=True)
    return workdir


def test_keys_that_may_not_change_are_refused(tmp_path):
    config = config_lib.load_recipe("small")
    config.model.vocab_size = 100
    run, begun = begin(tmp_path / "run", config), begin(tmp_path / "begun", config, checkpoint=False)
    config.model.vocab_size = 0  # the corpus says it
    config.train.log_every = 7
    continuation.check_pretraining(run, config)
    assert config.model.vocab_size == 0
    config.model.hidden_size, config.seed = 64, 5
    with pytest.raises(UserError, match=r"its run began with .*hidden_size=\d+, found 64.*; give the old value"):
        continuation.check_pretraining(run, config)
    continuation.check_pretraining(begun, config)
    config.model.vocab_size = 100
    assert continuation.compare(begun, config)[1] == ["model.hidden_size", "seed"]
    assert continuation.compare(tmp_path / "none", config) == (None, [])


def test_no_jax_is_imported():
    program = "import sys; from bert_jax.runs import continuation; sys.exit(len({'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
