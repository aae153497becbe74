"""Tests that a workdir is held by one run at a time, until its process ends."""

import os
import signal
import subprocess
import sys

import pytest

from bert_jax import files
from bert_jax.errors import UserError
from bert_jax.runs.claim import claim

HOLDER = """
import sys, time, pathlib
from bert_jax.runs.claim import claim
with claim(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    workdir = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        message = f"^--workdir={workdir}: process {holder.pid} is training there; wait for it, or name another$"
        with pytest.raises(UserError, match=message), claim(workdir):
            pass
        assert files.is_locked(workdir / "lock")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with claim(workdir):
        assert (workdir / "lock").read_text().split("\n")[0] == str(os.getpid())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    message = "file/run: cannot be written: Not a directory; name another"
    with pytest.raises(UserError, match=message), claim(tmp_path / "file" / "run"):
        pass
