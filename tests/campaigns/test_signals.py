"""Campaign: signals at random moments of every command.

The moments are drawn: in the first half second, at any time, while XLA compiles, and while a file, folder or checkpoint
is being written. No signal is lost and none costs a bit: the exit code is 128 + its number, a line says what happened,
no process and no unfinished file stays, and the same command started again has the result of one that was left alone.
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
OFTEN = ("prepare", "pretrain", "evaluate", "finetune", "predict", "convert", "plan", "show_batch", "doctor", "report",
         "embedder", "mine", "search")  # fmt: skip
SELDOM = ("recipes", "quickstart", "launch", "bert-jax")
MOMENTS = ("start", "any", "any", "compiling", "compiling", "saving", "saving")
COMPILING = (
    "pretrain",
    "evaluate",
    "finetune",
    "embedder",
    "mine",
    "search",
    "predict",
    "plan",
    "quickstart",
)  # commands that do
_CRASH = re.compile(r"Traceback|Fatal Python error|Segmentation fault|core dumped|Exception ignored|Aborted|leaked")


def hears(process):
    """Returns whether a process handles SIGTERM: not before Python has read the first line of bert_jax."""
    try:
        with open(f"/proc/{process.pid}/status") as file:
            caught = next(line for line in file if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def is_compiling(here):
    """Returns whether XLA is compiling, by the log of jax: more programs have been begun than finished."""
    output = output_of(here)
    return output.count("Compiling ") > output.count("Finished XLA compilation of ")


def is_saving(here):
    """Returns whether something unfinished lies in the folder of a try: a file, folder or checkpoint."""
    return any(
        name.endswith(".partial") or ".orbax-checkpoint-tmp" in name
        for _, folders, files in os.walk(here)
        for name in (*folders, *files)
    )


def await_moment(process, moment, delay, here):
    """Waits for a moment of a process, or for its end; `delay` is the seconds until it, or that it is looked for after.

    Returns the moment in words.
    """
    start = time.monotonic()
    while time.monotonic() < start + delay and process.poll() is None:
        time.sleep(0.002)
    holds = {"compiling": is_compiling, "saving": is_saving}.get(moment)
    while holds and process.poll() is None and not holds(here):
        time.sleep(0.0005)
    return f"while {moment}" if holds else "at the start" if moment == "start" else "at any time"


def one_try(workspace, command, number, moment, delay, here, tally, to_group, compiles):
    """Sends a signal at a moment of a command; checks its end, and a second start of the command."""
    expected, _ = workspace.undisturbed(command)
    process = workspace.start(command, here, compiles=compiles)
    when = await_moment(process, moment, delay, here)
    heard = hears(process)
    message = f"{command.name}: {number.name} {when}, {delay:.3f} s"
    if process.poll() is None:
        process.send_signal(number)
        if to_group and number == signal.SIGINT:  # as a terminal does
            for pid in set(workspace.processes()) - {process.pid}:
                send(pid, number)
    code = process.wait(LONGEST_WAIT)
    output = output_of(here)
    message = f"{message}: exit code {code}\n{output}"
    done = bool(expected) and command.digest(here) == expected
    if number == signal.SIGKILL:
        assert code in (0, -number), message
        workspace.kill_all()
    elif code == 0:
        assert done or not expected, message
    elif heard:
        assert code == 128 + number or (code == -number and done), message
        assert not _CRASH.search(output), message
        assert number.name in output or "interrupted" in output or done, message
    else:  # before Python had started the command, or after its end
        assert code in (-number, 128 + number, 1), message
    wait_until(lambda: not workspace.processes())
    when = "after the end" if code == 0 else when if heard or number == signal.SIGKILL else "before bert_jax"
    tally[f"{number.name} {when}"] += 1
    tally[f"{command.name}: {number.name}"] += 1
    unfinished = [path.name for path in here.iterdir() if path.name.endswith(".partial")]
    assert number == signal.SIGKILL or not unfinished, f"{message}\n{unfinished}"
    if command.result and not command.continues and (here / command.result).exists():
        assert done, f"{message}\nhalf a result"
        return
    if command.result:
        assert workspace.finish(command, here) == expected, f"{message}\nthen\n{output_of(here)}"
        tally["started again, with the same result"] += 1
        assert not [path.name for path in here.iterdir() if path.name.endswith(".partial")], message


def send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def campaign(workspace, tally, number_of_tries, seed):
    draw = random.Random(seed)
    commands = workspace.commands()
    names = [name for name in (*OFTEN, *OFTEN, *OFTEN, *SELDOM) if name in commands]
    draw.shuffle(names)
    faults = []
    for i in range(number_of_tries):
        command = commands[names[i % len(names)]]
        number = draw.choice(SIGNALS)
        _, seconds = workspace.undisturbed(command)
        moment = draw.choice(MOMENTS)
        if (moment == "compiling" and command.name not in COMPILING) or (moment == "saving" and not command.result):
            moment = "any"
        delay = draw.uniform(0.03, 0.5) if moment == "start" else draw.uniform(0.3, seconds)
        here = workspace.folder / f"signal-{seed}-{i}"
        to_group, compiles = draw.random() < 0.5, moment == "compiling" or draw.random() < 0.5
        delay = delay if moment in ("start", "any") else delay / 2  # leaves time for the moment to come
        try:
            one_try(workspace, command, number, moment, delay, here, tally, to_group, compiles)
        except AssertionError as error:
            faults.append(f"{i}: {error}")
            print(faults[-1], flush=True)
            tally["fault"] += 1
            workspace.kill_all()
        shutil.rmtree(here)
    assert not faults, "\n\n".join([f"{len(faults)} of {number_of_tries} (seed {seed})", *faults])


@pytest.mark.slow
def test_a_hundred_signals(workspace, tally):
    campaign(workspace, tally, tries(100), SEED + 1)
