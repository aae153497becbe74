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

NAMES = ("prepare", "pretrain", "finetune", "convert", "launch", "embedder", "mine", "search")


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
    number, done, faults = 0, 0, []
    while done < kills:
        number += 1
        command = commands[NAMES[draw.randrange(len(NAMES))]]
        here = workspace.folder / f"kill-{seed}-{number}"
        times = min(draw.choice([1, 2, 4]), kills - done)
        _, seconds = workspace.undisturbed(command)
        delays = [draw.uniform(0.05, seconds) for _ in range(times)]
        with_children = [draw.random() < 0.7 for _ in range(times)]
        try:
            done += one_folder(workspace, command, here, delays, with_children, tally)
        except AssertionError as error:
            done += times
            faults.append(f"{command.name}: killed after {delays}: {error}")
            print(faults[-1], flush=True)
            tally["fault"] += 1
            workspace.kill_all()
        shutil.rmtree(here)
    assert not faults, "\n\n".join([f"{len(faults)} faults in {kills} kills (seed {seed})", *faults])


def one_folder(workspace, command, here, delays, with_children, tally):
    """Kills a command once or more in one folder, then lets it end there, and compares the result.

    Returns how often the command was still running when it was killed.
    """
    expected, _ = workspace.undisturbed(command)
    kills = 0
    for delay, children in zip(delays, with_children, strict=True):
        alive = kill(workspace, command, here, delay, children)
        kills += alive
        tally[f"{command.name}: {'killed' if alive else 'had ended'}"] += 1
        if not command.continues and (here / command.result).exists():
            assert command.digest(here) == expected, "half a result"
            break  # such a command refuses to write again what is there
    if command.continues or not (here / command.result).exists():
        assert workspace.finish(command, here) == expected, f"another result\n{output_of(here)}"
    left = [name for name in os.listdir(here) if name.endswith((".partial", ".before"))]
    assert not left, left
    tally["continued to the same bits"] += 1
    return kills


@pytest.mark.full
def test_a_few_kills(workspace, tally):
    campaign(workspace, tally, tries(5), SEED)


@pytest.mark.slow
def test_a_hundred_kills(workspace, tally):
    campaign(workspace, tally, tries(100), SEED + 2)
