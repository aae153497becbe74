"""The console script: its list of commands, the version, mistakes in one line, and that help needs no jax."""

import pathlib
import re
import subprocess
import sys

import pytest

import bert_jax
from bert_jax import cli

PACKAGE = pathlib.Path(bert_jax.__file__).parent


def test_help_lists_every_command_with_one_line(capsys):
    cli.main(["--help"])
    output = capsys.readouterr().out
    for name in (*cli.COMMANDS, *cli.EXPERIMENT_COMMANDS):
        summary = cli.summary(name)
        assert summary.endswith(".") and len(summary) <= 110, name
        assert re.search(rf"^  {name.replace('_', '-')} +{re.escape(summary)}$", output, re.MULTILINE)


def test_every_module_that_runs_as_a_command_is_listed():
    commands = {path.stem for path in PACKAGE.glob("*.py") if "\n    command.run(" in path.read_text("utf-8")}
    assert commands | {"predict"} == set(cli.COMMANDS)


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"bert_jax {bert_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "error: pretrian: unknown command (did you mean pretrain?); expected one of quickstart, "),
        (["show_bach"], "error: show_bach: unknown command (did you mean show-batch?); expected one of "),
        (["xyz"], "error: xyz: unknown command; expected one of quickstart, "),
        ([], "usage: bert-jax COMMAND"),
    ],
)
def test_an_unknown_command_ends_with_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert len(error.strip().splitlines()) == 1 or not arguments


def test_help_and_version_import_no_jax():
    program = (
        "import sys; from bert_jax import cli; cli.main(['--help']); cli.main(['--version']); "
        "sys.exit(' '.join(set(sys.modules) & {'jax', 'flax', 'numpy', 'absl', 'ml_collections'}) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr


@pytest.mark.parametrize("start", [["-m", "bert_jax"], ["-c", "from bert_jax.cli import main; main()"]])
def test_a_command_runs_as_its_module_does(start):
    result = subprocess.run([sys.executable, *start, "show-batch", "--help"], capture_output=True, text=True)
    assert "Prints the decoded rows of a training batch" in result.stdout and "--rows: number of rows" in result.stdout


def test_the_public_names_are_listed():
    listed = dir(bert_jax)
    for name in ("Embedder", "FillMask", "Inspector", "load", "data", "UserError", "__version__"):
        assert name in listed and getattr(bert_jax, name) is not None
