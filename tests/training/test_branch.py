"""Branches: runs that begin with parameters and moments of another run's checkpoint, and phases that carry both."""

import json
import shutil

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.runs import checkpoints, models
from bert_jax.runs.loggers import TIMINGS
from bert_jax.training import branch, pretraining
from bert_jax.training import optimizer as optimizer_lib


@pytest.fixture(scope="module")
def recipe(corpus):
    """Eight steps, rotary positions; from step 4 on another base, a rate of its own that falls, and other masks."""
    from tests.training.conftest import make_config

    config = make_config(corpus)
    config.model.positions = "rotary"
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    second = {"share": 0.5, "model.rotary_base": 500.0, "mask_rate": 0.3, "optimizer.learning_rate": 5e-4}
    second |= {"optimizer.schedule": "linear", "optimizer.weight_decay": 0.1}
    config.data.phases = ({"share": 0.5}, second)
    config.train.update(num_steps=8, eval_every=0, checkpoint_every=2, keep_newest=9)
    return config


@pytest.fixture(scope="module")
def trunk(recipe, compiled, tmp_path_factory):
    """The workdir of the finished run; not to be trained in."""
    workdir = tmp_path_factory.mktemp("trunk") / "run"
    pretraining.pretrain(recipe.copy_and_resolve_references(), workdir)
    return workdir


def rows_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMINGS} for line in lines]


def without_checkpoints_after(workdir, step, copy):
    shutil.copytree(workdir, copy)
    for checkpoint in (copy / "checkpoints").iterdir():
        if checkpoint.name.isdigit() and int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    return copy


def branch_of(recipe, trunk, **changes):
    config = recipe.copy_and_resolve_references()
    config.update({"init_from": f"{trunk}@4", "init_state": "run"} | changes)
    return config


@pytest.mark.more
def test_a_phase_may_set_positions_and_begin_a_schedule(recipe, trunk, tmp_path):
    rates = [row["learning_rate"] for row in rows_of(trunk)]
    np.testing.assert_allclose(
        rates, [0, 2.5e-4, 5e-4, 7.5e-4, *(5e-4 * (1 - t / 4) for t in range(4))], rtol=1e-5, atol=1e-9
    )
    schedule = optimizer_lib.run_schedule(recipe, 8)
    np.testing.assert_allclose([float(schedule(step)) for step in range(8)], rates, rtol=1e-6)
    for step, base in ((2, 10_000.0), (4, 10_000.0), (6, 500.0), (None, 500.0)):
        assert models.open_model(trunk, step).model.spec.rotary_base == base
    # At the border, and inside the second phase: the run that goes on has the bits of the one that was never stopped.
    for step in (4, 6):
        resumed = without_checkpoints_after(trunk, step, tmp_path / f"resumed-{step}")
        pretraining.pretrain(recipe.copy_and_resolve_references(), resumed)
        assert rows_of(resumed) == rows_of(trunk)


@pytest.mark.more
def test_a_branch_of_the_same_config_goes_on_as_its_trunk(recipe, trunk, tmp_path, capsys):
    """Rewinding: nothing in the trunk changes, and the branch has its bits, also where it is stopped and goes on."""
    before = sorted(path.name for path in (trunk / "checkpoints").iterdir())
    config = branch_of(recipe, trunk)
    pretraining.pretrain(config, tmp_path / "branch")
    changed = "rotary_base from 10,000 to 500; local_rotary_base from 10,000 to 500"  # step 4 begins the second phase
    assert f"branches from {trunk}, step 4, with its moments; {changed}; goes on at step 4" in capsys.readouterr().out
    assert rows_of(tmp_path / "branch") == rows_of(trunk)[4:]
    assert checkpoints.saved_steps(tmp_path / "branch" / "checkpoints") == [4, 6, 8]
    assert sorted(path.name for path in (trunk / "checkpoints").iterdir()) == before
    branched_from = {"workdir": str(trunk), "step": 4}
    assert json.loads((tmp_path / "branch" / "run.json").read_text())["branched_from"] == branched_from
    # Killed after its own first checkpoint, it needs the trunk no more.
    again = without_checkpoints_after(tmp_path / "branch", 4, tmp_path / "again")
    shutil.rmtree(again / "tensorboard")
    config.init_from = str(tmp_path / "gone@4")
    with pytest.raises(UserError, match="its run began with config.init_from"):
        pretraining.pretrain(config, again)
    config.init_from = f"{trunk}@4"
    shutil.move(trunk, tmp_path / "away")
    try:
        pretraining.pretrain(config, again)
    finally:
        shutil.move(tmp_path / "away", trunk)
    assert rows_of(again) == rows_of(trunk)[4:]
    assert json.loads((again / "run.json").read_text())["branched_from"] == branched_from


def test_a_branch_of_another_length_says_in_which_phase_it_goes_on(recipe):
    """Phases are shares of the run's steps: their borders move with its length."""
    longer = recipe.copy_and_resolve_references()
    longer.train.num_steps = 20
    said = branch._goes_on(longer, recipe, 6)
    assert said == "goes on at step 6, in phase 1 of 2 (steps 0 to 10), after phase 2 of 2 (steps 4 to 8)"
    longer.data.phases = ()
    assert "in phase 1 of 1 (steps 0 to 20), after phase 1 of 2 (steps 0 to 4)" in branch._goes_on(longer, recipe, 4)
    assert branch._goes_on(recipe, recipe, 4) == "goes on at step 4"


def test_a_branch_onto_another_schedule_and_mixture(recipe, trunk, tmp_path):
    """A decay branch goes on with the trunk's rows; one that takes moments alone begins at step 0 with its own."""
    config = branch_of(recipe, trunk, init_state="moments")
    config.data.update(phases=(), mask_rate=0.5)
    config.optimizer.update(schedule="constant", warmup_steps=0, learning_rate=2e-4)
    config.train.update(num_steps=2)
    pretraining.pretrain(config, tmp_path / "moments")
    rows = rows_of(tmp_path / "moments")
    assert [row["step"] for row in rows] == [1, 2] and {row["learning_rate"] for row in rows} == {np.float32(2e-4)}
    assert rows[0]["loss"] < rows_of(trunk)[0]["loss"]
    first, theirs = (_moments(workdir, step) for workdir, step in ((tmp_path / "moments", 0), (trunk, 4)))
    assert first["count"] == theirs["count"] == 4 and first["schedule"] == 0 and theirs["schedule"] == 4
    jax.tree.map(np.testing.assert_array_equal, first["mu"], theirs["mu"])
    jax.tree.map(np.testing.assert_array_equal, first["nu"], theirs["nu"])


def _moments(workdir, step):
    state = checkpoints.load_items(workdir, step, ["opt_state"])["opt_state"]
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    counts = [int(leaf) for name, leaf in leaves.items() if name.endswith("['count']")]
    parts = {kind: {name: leaf for name, leaf in leaves.items() if f"['{kind}']" in name} for kind in ("mu", "nu")}
    return parts | {"count": counts[0], "schedule": counts[-1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "{trunk}@3"}, "no checkpoint of step 3; expected one of 2, 4, 6, 8"),
        ({"init_from": "{trunk}@mean:2"}, "config.init_state=run: config.init_from=.* is an average, which has no"),
        ({"init_from": "{trunk}@ema:0.9"}, "config.init_state=run: config.init_from=.* is an average, which has no"),
        ({"init_from": "{trunk}@8"}, "config.train.num_steps: found 8, but config.init_from=.* has done 8; expected"),
        ({"init_from": "{trunk}/tokenizer"}, "is no run's workdir; expected one of pre-training, or config.init_state"),
        ({"init_from": ""}, "config.init_state: run, but config.init_from is empty"),
        ({"init_grow": True}, "config.init_grow: True with config.init_state=run; expected init_state=parameters"),
        ({"model.num_layers": 2}, "its model has num_layers=1, but config.model has num_layers=2"),
        ({"objective.name": "rtd"}, "its run has objective.name=mlm, this one objective.name=rtd with embedding_sh"),
    ],
)
def test_what_cannot_branch_is_told(recipe, trunk, tmp_path, changes, message):
    config = branch_of(recipe, trunk)
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        value = value.format(trunk=trunk) if isinstance(value, str) else value
        setattr(config[group] if group else config, name, value)
    with pytest.raises(UserError, match=message):
        pretraining.pretrain(config, tmp_path / "branch")
    assert not (tmp_path / "branch" / "run.json").exists()


def test_the_mean_of_checkpoints(trunk):
    parts = [checkpoints.load_params(trunk, step)[0] for step in (6, 8)]
    mean, config, step = checkpoints.load_params(trunk, "mean:2")
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, atol=1e-7), mean, *parts)
    assert (config.model.rotary_base, step) == (500.0, 8)
    opened = models.open_model(f"{trunk}@mean:2")
    jax.tree.map(np.testing.assert_array_equal, opened.params, mean)
    for asked, message in (
        ("mean:3", "the checkpoints 4, 6, 8 are of phases with other models"),
        ("mean:5", r"mean:5 needs 5 checkpoints, found 4 \(steps 2, 4, 6, 8\)"),
        ("mean:0", "found step mean:0; expected mean:K"),
    ):
        with pytest.raises(UserError, match=message):
            models.open_model(trunk, asked)


def test_the_exponential_average_of_checkpoints(trunk):
    """Checkpoints with the newest one's model are averaged: steps 2 and 4 are of the first phase."""
    parts = [checkpoints.load_params(trunk, step)[0] for step in (6, 8)]
    average, _, step = checkpoints.load_params(trunk, "ema:0.5")
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (0.5 * a + b) / 1.5, atol=1e-7), average, *parts)
    assert step == 8 and checkpoints.averaged_steps(trunk, "ema:0.5") == [6, 8]
    assert checkpoints.averaged_steps(trunk, "ema:0.001") == [8], "others weigh less than a thousandth"
    opened = models.open_model(f"{trunk}@ema:0.5")
    jax.tree.map(np.testing.assert_array_equal, opened.params, average)
    for asked in ("ema:1", "ema:0", "ema:", "ema:x"):
        with pytest.raises(UserError, match=f"found step {asked}; expected ema:DECAY with a number between 0 and 1"):
            models.open_model(f"{trunk}@{asked}")


def test_keys_of_phases_are_checked(recipe):
    for key, value, message in (
        ("model.rotary_bass", 5.0, r"phases\[0\].model.rotary_bass: unknown key; did you mean model.rotary_base"),
        ("model.num_layers", 2, r"phases\[0\].model.num_layers: it is the whole run's; expected config.model.num_lay"),
        ("optimizer.learning_rate", "1", r"phases\[0\].optimizer.learning_rate: found '1' \(str\); expected a float"),
        ("model.hidden_dropout", 1.0, r"config.model.hidden_dropout: found 1.0 \(phase 1\); expected a rate in"),
        ("optimizer.decay_shape", "sqrt", "config.optimizer.decay_shape: sqrt with config.optimizer.schedule=constant"),
    ):
        config = recipe.copy_and_resolve_references()
        config.data.phases = ({"share": 1.0, key: value},)
        with pytest.raises(UserError, match=message):
            config_lib.validate(config)
