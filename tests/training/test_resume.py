"""Promise P2: killed at any moment and started again, a run has the losses of one that was never killed, to the bit.

The runs here are real processes of the real command, and the kills are SIGKILL.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests import commands
from tests.commands import ROOT, finish, logged_rows, number_of_rows, wait_until
from tests.training.conftest import write_recipe


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """One CPU device a process; programs compiled once for all of them."""
    return os.environ | {"XLA_FLAGS": ""} | commands.shared_programs(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def recipe(config, tmp_path):
    """Saves and evaluates often, so that kills fall into both."""
    config.model.update(hidden_dropout=0.1, attention_dropout=0.1)
    config.optimizer.schedule = "linear"
    config.train.update(num_steps=60, eval_every=10, checkpoint_every=7, keep_newest=2, progress=False)
    return write_recipe(tmp_path / "recipe.py", config)


def start(recipe, workdir, environment, *options):
    options = (f"--config={recipe}", f"--workdir={workdir}", *options)
    return commands.start("bert_jax.pretrain", *options, environment=environment)


def kill(process, workdir, moment, delay):
    """SIGKILL `delay` seconds after the process logged `moment` rows; False if it was done before."""
    wait_until(lambda: process.poll() is not None or number_of_rows(workdir) >= moment)
    if process.poll() is None:
        time.sleep(delay)
        process.kill()
    output = process.communicate()[0]
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def resumed_at(output):
    return int(re.search(r"; step ([\d,]+) of", output)[1].replace(",", ""))


def campaign(recipe, tmp_path, environment, kills, seed):
    finish(start(recipe, tmp_path / "whole", environment))
    expected = logged_rows(tmp_path / "whole")
    assert [row["step"] for row in expected] == list(range(1, 61))
    moments = random.Random(seed)
    done = 0
    while done < kills:
        workdir = tmp_path / f"killed-{done}"
        starts = []
        while True:
            # The first kills of a run early, then anywhere past what is logged, or before anything is.
            logged = number_of_rows(workdir)
            moment = moments.choice([0, moments.randint(logged // 2, 60), moments.randint(1, 60)])
            delay = moments.uniform(0, 3) if moment == 0 else moments.uniform(0, 0.05)
            process = start(recipe, workdir, environment)
            if done == kills or not kill(process, workdir, moment, delay):
                break
            done += 1
            starts.append(number_of_rows(workdir))
        if process.poll() is None:
            resumed_at(finish(process))
        assert logged_rows(workdir) == expected, f"killed at rows {starts} (seed {seed})"


@pytest.mark.more
def test_kill_and_start_again(recipe, tmp_path, environment):
    campaign(recipe, tmp_path, environment, kills=2, seed=1)


@pytest.mark.slow
def test_kills_around_the_borders_of_phases(config, tmp_path, environment):
    """Phases with other rotary bases, dropout, rates and batches, with the norms of layers logged."""
    config.model.update(positions="rotary", hidden_dropout=0.1)
    config.optimizer.schedule = "linear"
    second = {"model.rotary_base": 500.0, "optimizer.learning_rate": 5e-4, "optimizer.weight_decay": 0.1}
    third = {"model.rotary_base": 500.0, "model.hidden_dropout": 0.0, "batch_size": 16}
    config.data.phases = ({"share": 0.3}, {"share": 0.3, **second}, {"share": 0.4, **third})
    config.train.update(num_steps=60, eval_every=10, checkpoint_every=7, keep_newest=2, progress=False, log_norms=True)
    campaign(write_recipe(tmp_path / "recipe.py", config), tmp_path, environment, kills=4, seed=3)


@pytest.mark.slow
def test_twenty_kills(recipe, tmp_path, environment):
    campaign(recipe, tmp_path, environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"}, kills=20, seed=2)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_exits_cleanly(recipe, tmp_path, environment, number):
    options = ("--config.train.num_steps=250", "--config.train.eval_every=0", "--config.train.checkpoint_every=1000")
    process = start(recipe, tmp_path / "run", environment, *options)
    wait_until(lambda: number_of_rows(tmp_path / "run") >= 5, process)
    process.send_signal(number)
    output = finish(process, code=128 + number)
    last = logged_rows(tmp_path / "run")[-1]["step"]
    assert 5 <= last < 250
    assert f"{number.name}: stopped at step {last} with a checkpoint; start the same command again" in output
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(last)]
    assert resumed_at(finish(start(recipe, tmp_path / "run", environment, *options))) == last
    assert [row["step"] for row in logged_rows(tmp_path / "run")] == list(range(1, 251))


def test_second_signal_ends_the_process():
    program = (
        "import time; from bert_jax.training.loop import StopSignals\n"
        "with StopSignals() as stop:\n"
        "    stop.step_done()\n"
        "    print('ready', flush=True)\n"
        "    while not stop.after(0): time.sleep(0.01)\n"
        "    print(stop.after(0), flush=True)\n"
        "    time.sleep(7200)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=commands.LONGEST_WAIT) == -signal.SIGINT
    process.stdout.close()
