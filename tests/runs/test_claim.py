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


def test_a_refused_run_leaves_nothing_where_nothing_was_written(tmp_path):
    workdir = tmp_path / "new" / "run"
    with pytest.raises(UserError), claim(workdir):
        (workdir / "compiled" / "x86").mkdir(parents=True)
        raise UserError("refused")
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine" / "compiled").mkdir(parents=True)
    with pytest.raises(UserError), claim(tmp_path / "mine"):
        raise UserError("refused")
    assert {path.name for path in tmp_path.rglob("*")} == {"mine", "compiled"}  # they were there before


def test_a_run_that_wrote_something_keeps_it(tmp_path):
    for content in ("run.json", "notes.txt"):
        with pytest.raises(UserError), claim(tmp_path / content):
            (tmp_path / content / content).touch()
            raise UserError("ended")
        assert {path.name for path in (tmp_path / content).iterdir()} == {"lock", content}
    with claim(tmp_path / "whole"):
        pass
    assert (tmp_path / "whole" / "lock").exists()
