"""How launch and report are run again is said in the form in which they were run."""

import shlex
import sys

import pytest

from experiments.launching import provenance
from experiments.reporting import markdown, results
from tests.experiments import made_folders


@pytest.mark.parametrize(
    ("started", "program"),
    [
        (["python", "-m", "experiments.launch"], "python -m experiments."),
        (["/venv/bin/python", "/venv/bin/bert-jax", "launch"], "bert-jax "),
        (["python", "-m", "bert_jax", "launch"], "python -m bert_jax "),
    ],
)
def test_commands_are_those_that_were_run(tmp_path, monkeypatch, started, program):
    monkeypatch.setattr(sys, "orig_argv", started)
    assert [provenance.command_line(name) for name in ("launch", "report")] == [f"{program}launch", f"{program}report"]
    words = [*shlex.split(provenance.command_line("launch")), "--experiment=a.py", f"--workdir={tmp_path}"]
    made_folders.write(tmp_path, {"static": [3.0, 3.1], "dynamic": [2.9, 3.0]}, command=shlex.join(words))
    lines = markdown._commands(results.read(tmp_path)).splitlines()
    assert lines[1:] == [
        f'    {program}launch --experiment=a.py --workdir="$WORKDIR"', f'    {program}report --workdir="$WORKDIR"'
    ]  # fmt: skip
