"""Every command into a pipe whose reader has ended: it is quiet, and what it writes into files is whole."""

import subprocess

import pytest

from tests.campaigns.workspace import output_of
from tests.commands import LONGEST_WAIT, ROOT


@pytest.mark.slow
def test_a_reader_that_has_ended(workspace, tally):
    for command in workspace.commands().values():
        expected, _ = workspace.undisturbed(command)
        here = workspace.folder / f"pipe-{command.name}"
        here.mkdir()
        reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
        reader.wait()
        with open(here / "output.txt", "w") as errors:
            process = subprocess.Popen(
                command.arguments(here), cwd=ROOT, env=workspace.environment, stdin=subprocess.DEVNULL,
                stdout=reader.stdin, stderr=errors,
            )  # fmt: skip
        reader.stdin.close()
        code = process.wait(LONGEST_WAIT)
        what = f"{command.name}: exit code {code}\n{output_of(here)}"
        assert code == 0 or (code == 141 and command.name in ("recipes", "show_batch", "bert-jax", *PRINTS)), what
        assert "rror" not in output_of(here) and "Traceback" not in output_of(here), what
        assert command.digest(here) == expected, what
        tally[f"exit code {code}"] += 1


PRINTS = ("doctor", "evaluate", "plan", "mine")  # they write their files, and then print
