"""Campaign: signals at random moments of every command.

No signal is lost and none costs a bit: the exit code is 128 + its number, a line says what happened, no process and no
unfinished file stays, and the same command started again has the result of one that was left in peace.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import time

import pytest

from tests.campaigns.workspace import SEED, output_of, tries
from tests.commands import LONGEST_WAIT, wait_until

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
# Commands by the time they take: an experiment and the quickstart get fewer signals.
OFTEN = ("prepare", "pretrain", "evaluate", "finetune", "predict", "convert", "plan", "show_batch", "doctor", "report")
SELDOM = ("recipes", "quickstart", "launch", "bert-jax")
_CRASH = re.compile(r"Traceback|Fatal Python error|Segmentation fault|core dumped|Exception ignored|Aborted|leaked")


def hears(process):
    """Returns whether a process handles SIGTERM: not before Python has read the first line of bert_jax."""
    try:
        with open(f"/proc/{process.pid}/status") as file:
            caught = next(line for line in file if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def one_try(workspace, command, number, delay, here, tally, to_group, compiles):
    """Sends a signal `delay` seconds after a command's start; checks its end, and a second start of the command."""
    expected, _ = workspace.undisturbed(command)
    process = workspace.start(command, here, compiles=compiles)
    start = time.monotonic()
    while time.monotonic() < start + delay and process.poll() is None:
        time.sleep(0.002)
    heard = hears(process)
    told = f"{command.name}: {number.name} after {delay:.3f} s"
    if process.poll() is None:
        process.send_signal(number)
        if to_group and number == signal.SIGINT:  # as a terminal does
            for pid in set(workspace.processes()) - {process.pid}:
                send(pid, number)
    code = process.wait(LONGEST_WAIT)
    output = output_of(here)
    told = f"{told}: exit code {code}\n{output}"
    done = bool(expected) and command.digest(here) == expected
    if number == signal.SIGKILL:
        assert code in (0, -number), told
        workspace.kill_all()
    elif code == 0:
        assert done or not expected, told
    elif heard:
        assert code == 128 + number or (code == -number and done), told
        assert not _CRASH.search(output), told
        assert number.name in output or "interrupted" in output or done, told
    else:  # before Python had started the command, or after its end
        assert code in (-number, 128 + number, 1), told
    wait_until(lambda: not workspace.processes())
    when = "after the end" if code == 0 else "heard" if heard or number == signal.SIGKILL else "before bert_jax"
    tally[f"{number.name} {when}"] += 1
    tally[f"{command.name}: {number.name}"] += 1
    unfinished = [path.name for path in here.iterdir() if path.name.endswith(".partial")]
    assert number == signal.SIGKILL or not unfinished, f"{told}\n{unfinished}"
    if command.result and not command.continues and (here / command.result).exists():
        assert done, f"{told}\nhalf a result"
        return
    if command.result:
        assert workspace.finish(command, here) == expected, f"{told}\nthen\n{output_of(here)}"
        tally["started again, with the same result"] += 1
        assert not [path.name for path in here.iterdir() if path.name.endswith(".partial")], told


def send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def campaign(workspace, tally, number_of_tries, seed):
    draw = random.Random(seed)
    commands = workspace.commands()
    names = [name for name in (*OFTEN, *OFTEN, *OFTEN, *SELDOM) if name in commands]
    draw.shuffle(names)
    for i in range(number_of_tries):
        command = commands[names[i % len(names)]]
        number = draw.choice(SIGNALS)
        _, seconds = workspace.undisturbed(command)
        delay = draw.choice([draw.uniform(0.03, 0.5), draw.uniform(0.3, seconds), draw.uniform(0.3, seconds)])
        here = workspace.folder / f"signal-{seed}-{i}"
        to_group, compiles = draw.random() < 0.5, draw.random() < 0.5
        one_try(workspace, command, number, delay, here, tally, to_group, compiles)
        shutil.rmtree(here)


@pytest.mark.full
def test_a_few_signals(workspace, tally):
    campaign(workspace, tally, tries(6), SEED)


@pytest.mark.slow
def test_a_hundred_signals(workspace, tally):
    campaign(workspace, tally, tries(100), SEED + 1)
