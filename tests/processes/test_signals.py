"""SIGTERM where no training loop hears it."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import os, signal
from bert_jax import signals
with signals.exit_on_sigterm():
    print("inside")
    os.kill(os.getpid(), signal.SIGTERM)
    print("beyond")
"""


def test_sigterm_ends_the_program_with_a_line():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (143, "inside\n")
    assert done.stderr.startswith("SIGTERM: ended while no step ran;") and done.stderr.count("\n") == 1
