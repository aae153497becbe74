"""A run that goes on from its workdir alone: the config is the workdir's, with what may change."""

import json
import os
import subprocess
import sys

import pytest

from bert_jax import config as config_lib
from bert_jax.config import finetuning
from bert_jax.errors import UserError
from bert_jax.runs import stored, workdir
from tests.commands import ROOT, finish, logged_rows, shared_programs, start
from tests.training.conftest import make_config, make_corpus, write_recipe

PARSE = """
import json, sys
from absl import app, flags
from bert_jax import command
command.define_config_flag(schema=sys.argv[1], continues=True)
command.define_process_flags()
flags.DEFINE_string("workdir", None, "")
arguments = sys.argv[2:]
sys.argv = ["program", *arguments]
command.run(lambda argv: print(json.dumps([flags.FLAGS.config.to_dict(), sorted(command.config_changes()[1])])))
"""


def parsed(schema, *arguments):
    """The config that a command gets, as JSON, and the keys that it takes for changes of a recipe."""
    line = [sys.executable, "-c", PARSE, schema, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        return done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["pretraining", "finetuning"])
def run(request, tmp_path_factory):
    """(kind, workdir, config) of a run with changes of every type of value."""
    folder = tmp_path_factory.mktemp("run") / "with: a colon"
    config = (config_lib if request.param == "pretraining" else finetuning).base()
    config.seed, config.optimizer.learning_rate, config.data.packing = 7, 2e-3, True
    if request.param == "pretraining":
        config.data.corpus, config.data.phases = "a,b", ({"share": 0.5, "batch_size": 8}, {"share": 0.5})
        config.model.vocab_size = 400
    else:
        config.task.train, config.task.labels = "x.csv", ("no", "yes")
    folder.mkdir()
    workdir.write_run(folder, config, {}, lambda directory: directory.mkdir(exist_ok=True))
    return request.param, folder, config


@pytest.mark.parametrize("form", [["--workdir={}"], ["--workdir", "{}"], ["-workdir={}"]])
def test_the_config_is_that_of_the_workdir(run, form):
    kind, folder, config = run
    expected = json.loads(json.dumps(config.to_dict()))
    assert stored.get_config(str(folder)).to_dict() == config.to_dict()
    assert parsed(kind, *(word.format(folder) for word in form)) == [expected, []]


def test_keys_may_be_changed(run):
    kind, folder, config = run
    values, changed = parsed(kind, f"--workdir={folder}", "--config.train.num_steps=9", "--config.seed", "3")
    assert values["train"]["num_steps"] == 9 and values["seed"] == 3
    assert values["data"] == json.loads(json.dumps(config.data.to_dict())) and not changed
    message = parsed(kind, f"--workdir={folder}", "--config.data.batchsize=9")
    assert message == "error: config.data.batchsize: unknown key, expected a known key; did you mean data.batch_size?\n"


def test_a_damaged_config_is_told_with_its_path(run, tmp_path):
    (tmp_path / "run.json").write_bytes((run[1] / "run.json").read_bytes())
    (tmp_path / "config.json").write_text('{"mlm_loss": 4}')
    with pytest.raises(UserError, match=r"config.json: config.mlm_loss: unknown key"):
        workdir.read(tmp_path)


def test_a_workdir_without_such_a_run_is_named(run, tmp_path):
    kind, folder, _ = run
    other = {"pretraining": "finetuning", "finetuning": "pretraining"}[kind]
    words = {"pretraining": "pre-training", "finetuning": "fine-tuning"}[kind]
    assert f"--workdir={folder}: holds a run of {words}; expected " in parsed(other, f"--workdir={folder}")
    for place in (tmp_path, tmp_path / "none"):
        assert f"--workdir={place} holds no run to continue" in parsed(kind, f"--workdir={place}")
    (tmp_path / "config.json").write_text("{")
    assert f"{tmp_path}: not the workdir of a run" in parsed(kind, f"--workdir={tmp_path}")


@pytest.mark.full
def test_a_run_goes_on_from_its_workdir_alone(tmp_path):
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"} | shared_programs(tmp_path / "programs")
    config = make_config(make_corpus(tmp_path / "corpus"))
    config.train.update(num_steps=8, eval_every=4, checkpoint_every=4, progress=False, tensorboard=False)
    recipe = write_recipe(tmp_path / "recipe.py", config)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start("bert_jax.pretrain", f"--config={recipe}", f"--workdir={whole}", environment=environment))
    four = f"--config={recipe}", "--config.train.num_steps=4", "--config.optimizer.decay_steps=8"
    finish(start("bert_jax.pretrain", *four, f"--workdir={cut}", environment=environment))
    recipe.unlink()
    output = finish(
        start("bert_jax.pretrain", f"--workdir={cut}", "--config.train.num_steps=8", environment=environment)
    )
    assert "done: step 8" in output
    assert logged_rows(cut)[-1]["step"] == logged_rows(whole)[-1]["step"] == 8
    output = finish(
        start("bert_jax.pretrain", f"--workdir={cut}", "--config.model.hidden_size=64", environment=environment), 2
    )
    assert "its run began with config.model.hidden_size=" in output
