"""Tests phases of fine-tuning as a process: two runs in one workdir, killed between and continued."""

import json
import shutil
import signal

import pytest

from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.runs import checkpoints
from tests.commands import finish, logged_rows, start, wait_until
from tests.finetuning.test_embedding import data, make_config, make_pairs, write  # noqa: F401
from tests.finetuning.test_run import environment, folder  # noqa: F401

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):  # noqa: F811
    mined = [record | {"negatives": [record.pop("negative")]} for record in make_pairs(80, seed=3)]
    path = write(tmp_path_factory.mktemp("mined") / "mined.jsonl", mined)
    first = {"sets": ("weak",), "task.negatives": (), "train.num_epochs": 2.0, "loss.temperature": 0.1}
    config = make_config(data, **{"task.negatives": ("negatives",), "train.num_epochs": 1.0})
    config.task.train = f"weak={config.task.train},labelled={path}"
    config.phases = (first, {"sets": ("labelled",)})
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("phases") / "run"
    return workdir, finetuning.finetune(config, workdir)


def test_two_phases_are_two_runs(config, finished, tmp_path):
    workdir, summary = finished
    assert len(logged_rows(workdir)) and json.loads((workdir / "summary.json").read_text()) == summary
    assert checkpoints.saved_steps(workdir / "checkpoints")[-1] == 5  # 80 records in batches of 16
    assert checkpoints.saved_steps(workdir / "phase-1" / "checkpoints")[-1] == 26  # 200, twice
    # By hand, one after the other.
    weak, labelled = config.task.train.split(",")
    alone = config.copy_and_resolve_references()
    alone.phases = ()
    alone.task.train, alone.task.negatives = weak.partition("=")[2], ()
    alone.train.num_epochs, alone.loss.temperature = 2.0, 0.1
    finetuning.finetune(alone, tmp_path / "first")
    second = config.copy_and_resolve_references()
    second.phases = ()
    second.task.train, second.init_from = labelled.partition("=")[2], str(tmp_path / "first")
    finetuning.finetune(second, tmp_path / "second")
    assert logged_rows(tmp_path / "first") == logged_rows(workdir / "phase-1")
    assert logged_rows(tmp_path / "second") == logged_rows(workdir)


def test_a_phase_that_has_begun_keeps_its_values(config, finished, tmp_path, capsys):
    shutil.copytree(finished[0], tmp_path / "run")
    changed = config.copy_and_resolve_references()
    changed.phases = (dict(config.phases[0]) | {"loss.temperature": 0.2}, config.phases[1])
    with pytest.raises(UserError, match="phase-1: its run began with config.loss.temperature=0.1, found 0.2"):
        finetuning.finetune(changed, tmp_path / "run")
    assert finetuning.finetune(config, tmp_path / "run") == finished[1]
    assert "phase 2 of 2, in" in capsys.readouterr().out
    # One that has not begun may still change.
    (tmp_path / "part").mkdir()
    shutil.copytree(finished[0] / "phase-1", tmp_path / "part" / "phase-1")
    changed.phases = (config.phases[0], {"sets": ("labelled",), "train.num_epochs": 0.4})
    finetuning.finetune(changed, tmp_path / "part")
    assert checkpoints.saved_steps(tmp_path / "part" / "checkpoints")[-1] == 2


def test_a_signal_ends_the_run_and_the_same_command_continues_it(config, finished, tmp_path, environment):  # noqa: F811
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import json\nfrom bert_jax.config import finetuning\n\n\ndef get_config():\n    config = finetuning.base()\n"
        f"    config.update(json.loads({json.dumps(config.to_dict())!r}))\n    return config\n"
    )
    workdir = tmp_path / "run"
    command = "bert_jax.finetune", f"--config={recipe}", f"--workdir={workdir}"
    process = start(*command, environment=environment)
    wait_until(lambda: (workdir / "phase-1" / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGTERM)
    finish(process, code=128 + signal.SIGTERM)
    assert not (workdir / "config.json").exists()
    output = finish(start(*command, environment=environment))
    assert "phase 1 of 2, in" in output and "phase 2 of 2, in" in output
    for name in ("", "phase-1"):  # `finished` ran on eight devices
        for row, expected in zip(logged_rows(workdir / name), logged_rows(finished[0] / name), strict=True):
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-3)
