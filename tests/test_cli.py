"""The console script: its list of commands, the version, mistakes in one line, and that help needs no jax."""

import os
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


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag, capsys):
    cli.main([flag])
    assert capsys.readouterr().out == f"bert_jax {bert_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "error: pretrian: unknown command; did you mean pretrain? (see --help)\n"),
        (["show_bach"], "error: show_bach: unknown command; did you mean show-batch? (see --help)\n"),
        (["finetun"], "error: finetun: unknown command; did you mean finetune? (see --help)\n"),
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
    code = "import bert_jax; print(*dir(bert_jax)); bert_jax.load; print(*dir(bert_jax))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        others = {name for name in line.split() if not name.startswith("__")} - set(bert_jax.__all__)
        assert all((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() for name in others), others


PRINTING = """
import sys
from bert_jax import cli, files
with cli.output_to_pipes():
    if sys.argv[1:] == ["few"]:
        print("few")
    elif sys.argv[1:] == ["stop"]:
        print("few")
        sys.exit(2)
    elif sys.argv[1:] == ["other"]:
        raise BrokenPipeError("another connection")
    elif sys.argv[1:]:
        with files.open_output(sys.argv[1]) as file:
            for i in range(100_000):
                file.write(b"a row of the output\\n")
    else:
        for i in range(100_000):
            print("\u00e9\u4e2d row", i)
"""


@pytest.mark.parametrize("arguments", ["", "few", "stop", "-", "/dev/stdout"])
def test_a_reader_that_ends_early_is_no_error(arguments):
    script = f'"$0" -c "$1" {arguments} | true; echo "${{PIPESTATUS[0]}}"'
    for _ in range(3):  # `true` may end before or after the first line
        result = subprocess.run(["bash", "-c", script, sys.executable, PRINTING], capture_output=True, text=True)
        assert not result.stderr and result.stdout.strip() in ("0", "2", "141"), result
    assert arguments in ("few", "stop") or result.stdout == "141\n"


def test_a_pipe_by_name_whose_reader_ends_early_is_no_error(tmp_path):
    script = 'mkfifo pipe; head -1 pipe & "$0" -c "$1" pipe; echo "$?"'
    result = subprocess.run(
        ["bash", "-c", script, sys.executable, PRINTING], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert result.stdout == "a row of the output\n141\n" and not result.stderr


def test_other_broken_pipes_are_reported():
    result = subprocess.run([sys.executable, "-c", PRINTING, "other"], capture_output=True, text=True)
    assert result.returncode == 1 and "another connection" in result.stderr


def test_what_the_terminal_cannot_show_is_escaped():
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    result = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, env=environment)
    assert result.returncode == 0 and result.stdout.startswith(b"\xe9\\u4e2d row 0\n")


def test_a_full_disk_behind_standard_output_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("this machine: no /dev/full")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    arguments = [sys.executable, "-c", PRINTING, "few"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert result.returncode == 2
    assert result.stderr == "error: standard output: cannot be written: No space left on device\n"


def test_output_that_no_disk_holds(tmp_path):
    """Standard output on a full disk is one line; a closed standard error ends nothing."""
    cases = (
        "recipes", "plan --config=quickstart --help", "--help", "--version", "pretrain --help", "pretrain --helpfull",
        "pretrain --help-keys=data", "demo --helpxml",
        "launch --experiment=masking --workdir=absent --scale=smoke --dry-run",
    )  # fmt: skip
    for i, case in enumerate(cases):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "bert_jax", *case.split()], stdout=full, stderr=subprocess.PIPE, text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1" if i % 2 else ""},
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (
            2, "error: standard output: cannot be written: No space left on device\n"
        )  # fmt: skip
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 200)
    command = f"{sys.executable} -m bert_jax prepare --input=text.txt --output=corpus --tokenizer=train:wordpiece:60"
    done = subprocess.run(
        f"{command} 2>&- >/dev/null", shell=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    )
    assert done.returncode == 0 and (tmp_path / "corpus" / "manifest.json").exists()
