"""Tests SIGTERM outside the training loop, and processes that end with their parent."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.commands import LONGEST_WAIT

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
PROGRAM = """
import os, signal
from bert_jax.processes import signals
with signals.exit_on_sigterm():
    print("inside")
    os.kill(os.getpid(), signal.SIGTERM)
    print("beyond")
"""


def test_sigterm_ends_the_program_with_a_line():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_WAIT
    )
    assert (done.returncode, done.stdout) == (143, "inside\n")
    assert done.stderr.startswith("SIGTERM: ended while no step ran;") and done.stderr.count("\n") == 1


# Both start a process that says it is ready, and then wait for ever.
PARENTS = {
    "program": """
import subprocess, sys
CHILD = "import os, time; from bert_jax.processes import signals; signals.terminate_with_parent(os.getppid()); "
CHILD += "print('ready', flush=True); time.sleep(7200)"
subprocess.run([sys.executable, "-c", CHILD])
""",
    "worker": """
import multiprocessing, time
from bert_jax.processes import signals

def work():
    signals.end_with_parent()
    print("ready", flush=True)
    time.sleep(7200)

if __name__ == "__main__":
    worker = multiprocessing.get_context("spawn").Process(target=work)
    worker.start()
    worker.join()
""",
}


@pytest.mark.parametrize("kind", PARENTS)
def test_a_killed_parent_takes_its_child_along(kind, tmp_path):
    if kind == "program" and sys.platform != "linux":
        pytest.skip("this machine: only Linux tells a program that its parent has ended")
    (tmp_path / "parent.py").write_text(PARENTS[kind])
    command = [sys.executable, str(tmp_path / "parent.py")]
    parent = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGKILL)
    assert parent.communicate(timeout=LONGEST_WAIT)[0] == ""  # which the child holds open for as long as it lives
