"""Campaign: SIGKILL at random moments of the commands that continue, or write a folder; then the same command again.

The result is that of a command that was never killed, to the bit, however often it was killed before.
"""

import os
import random
import shutil
import signal
import time

import pytest

from tests.campaigns.workspace import SEED, output_of, tries
from tests.commands import wait_until

NAMES = ("prepare", "pretrain", "finetune", "convert", "launch")


def kill(workspace, command, here, delay, with_children):
    """Kills a command `delay` seconds after its start. Returns whether it was still running."""
    process = workspace.start(command, here)
    end = time.monotonic() + delay
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.002)
    running = process.poll() is None
    process.kill()
    if with_children:
        workspace.kill_all()
    code = process.wait()
    assert code in (0, -signal.SIGKILL), f"{command.name} killed after {delay:.3f} s: {code}\n{output_of(here)}"
    wait_until(lambda: not workspace.processes())  # workers and jobs end with the process that started them
    return running


def campaign(workspace, tally, kills, seed):
    draw = random.Random(seed)
    commands = workspace.commands()
    done = 0
    while done < kills:
        command = commands[NAMES[draw.randrange(len(NAMES))]]
        expected, seconds = workspace.undisturbed(command)
        here = workspace.folder / f"kill-{seed}-{done}"
        delays = []
        for _ in range(min(draw.choice([1, 2, 4]), kills - done)):
            delays.append(draw.uniform(0.05, seconds))
            done += 1
            alive = kill(workspace, command, here, delays[-1], with_children=draw.random() < 0.7)
            tally[f"{command.name}: {'killed' if alive else 'had ended'}"] += 1
            if command.result and not command.continues and (here / command.result).exists():
                assert command.digest(here) == expected, f"{command.name}: half a result after {delays}"
        if not (not command.continues and (here / command.result).exists()):
            assert workspace.finish(command, here) == expected, f"{command.name}: killed after {delays} (seed {seed})"
        left = [name for name in os.listdir(here) if name.endswith((".partial", ".before"))]
        assert not left, f"{command.name}: killed after {delays}: {left}"
        tally["continued to the same bits"] += 1
        shutil.rmtree(here)


@pytest.mark.full
def test_a_few_kills(workspace, tally):
    campaign(workspace, tally, tries(5), SEED)


@pytest.mark.slow
def test_a_hundred_kills(workspace, tally):
    campaign(workspace, tally, tries(100), SEED + 2)
