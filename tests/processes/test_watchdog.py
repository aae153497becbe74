"""The watchdog on processes of its own: what hangs is ended with its stacks, what works or is suspended is not."""

import signal
import subprocess
import sys
import time

import pytest

from bert_jax.processes import watchdog
from tests.commands import LONGEST_WAIT, ROOT

_HANGS = """
import sys, threading, time, pathlib
from bert_jax.processes.watchdog import Watchdog

activity, folder = sys.argv[1:]

def stuck_in_a_collective():
    threading.Event().wait()

with Watchdog(0.2, pathlib.Path(folder), lambda: (activity, 7), other_least=2):
    print("watched", flush=True)
    stuck_in_a_collective()
"""


def hang(activity, folder):
    command = [sys.executable, "-c", _HANGS, activity, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("activity", "least"), [("step", 0.2), ("evaluation", 2.0)])
def test_a_hang_ends_the_process_with_its_stacks(activity, least, tmp_path):
    process = hang(activity, tmp_path)
    process.stdout.readline()
    began = time.monotonic()
    _, err = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == watchdog.EXIT_CODE == 75
    assert time.monotonic() - began >= least  # other activities may take ten times as long
    (line,) = err.splitlines()
    assert line.startswith("error: no step has ended for ") and "after step 7" in line and f"in: {activity};" in line
    assert "config.train.hang_seconds=0.2" in line and line.endswith(f"{tmp_path}/hang-0.txt; ended with code 75")
    text = (tmp_path / "hang-0.txt").read_text()
    assert line.removeprefix("error: ").split(";")[0] in text.splitlines()[0]
    assert "in stuck_in_a_collective" in text and "in _watch" in text  # of all threads


@pytest.mark.full
def test_stacks_that_no_file_takes_go_to_standard_error(tmp_path):
    _, err = hang("data", tmp_path / "nowhere").communicate(timeout=LONGEST_WAIT)
    assert "in stuck_in_a_collective" in err and "stacks of all threads: above" in err.splitlines()[-1]


@pytest.mark.full
def test_a_process_that_was_suspended_does_not_hang(tmp_path):
    process = hang("evaluation", tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)  # longer than the two seconds of its bound
    process.send_signal(signal.SIGCONT)
    time.sleep(1)
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_steps_that_end_are_no_hang(tmp_path):
    position = ["step", 0]
    with watchdog.Watchdog(0.3, tmp_path, lambda: tuple(position)):
        for _ in range(20):
            time.sleep(0.05)
            position[1] += 1
    with watchdog.Watchdog(0.0, tmp_path, lambda: ("step", 0)):
        time.sleep(0.2)
    assert not list(tmp_path.iterdir())
