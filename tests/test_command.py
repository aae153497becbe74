"""Flags that several commands share: --help-keys, and mistakes that end in one line."""

import shlex
import subprocess
import sys

import pytest

from bert_jax import command
from bert_jax.config import load_recipe
from bert_jax.errors import command_line


def run(command, *arguments):
    return subprocess.run([sys.executable, "-m", f"bert_jax.{command}", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "arguments", "line"),
    [
        ("pretrain", ["--help-keys=mesh"], "config.mesh.fsdp = 1"),
        ("pretrain", ["--config=modernbert_base", "--help_keys=model.norm_place"], "config.model.norm_place = 'pre'"),
        ("finetune", ["--help-keys=config.task"], "config.task.name = 'sequence_classification'"),
        ("quickstart", ["--help-keys"], "config.seed = 0"),
    ],
)
def test_help_keys_lists_keys_with_their_defaults(command, arguments, line):
    result = run(command, *arguments)
    assert result.returncode == 0, result.stderr
    assert any(shown.startswith(line) for shown in result.stdout.splitlines())
    if "mesh" in arguments[-1]:
        assert "config.model" not in result.stdout


def test_help_keys_names_the_groups_for_an_unknown_prefix():
    result = run("pretrain", "--help-keys=modle")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --help-keys=modle: ") and len(result.stderr.splitlines()) == 1


def test_a_missing_positional_argument_is_named():
    result = run("recipes", "nonsense")
    assert result.returncode == 2
    assert result.stderr == "error: nonsense: unknown kind of recipe; expected pretraining or finetuning\n"


def test_a_mistake_is_one_line_where_standard_output_is_closed():
    line = f"exec {shlex.quote(sys.executable)} -m bert_jax.prepare unexpected >&-"
    result = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: unexpected: unexpected argument"), result.stderr
    assert result.stderr.count("\n") == 1


def test_help_lists_the_flags_that_commands_share_and_succeeds():
    result = run("pretrain", "--help")
    assert result.returncode == 0
    for flag in ("config", "help_keys", "workdir", "coordinator_address", "num_processes", "process_id"):
        assert f"  --{flag}:" in result.stdout


@pytest.mark.parametrize("command", ["predict", "doctor"])
@pytest.mark.parametrize(
    ("called", "named"),
    [
        (["-m", "bert_jax.{}"], "python -m bert_jax.{}"),
        (["-m", "bert_jax", "{}"], "python -m bert_jax {}"),
        (["-c", "from bert_jax.cli import main; main()", "{}"], "bert-jax {}"),
    ],
)
def test_a_message_names_the_program_as_it_was_called(called, named, command):
    words = [word.format(command) for word in called]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert result.returncode == 2 and f"expected {named.format(command)} " in result.stderr
    result = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and f"\n    {named.format(command)} " in result.stdout


def test_a_python_session_is_shown_the_console_script(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "-m"])
    assert command_line("show_batch") == "bert-jax show-batch"


def test_the_home_directory_is_found_in_every_path(tmp_path, monkeypatch):
    """Shells expand "~/" only at the beginning of a word, so not in --name=~/path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    corpora = f"config.data.corpus={tmp_path}/a,{tmp_path}/b"
    for argument, value in (
        ("--config.data.corpus=~/a,~/b", f"--{corpora}"),
        ("--workdir=~/runs/x", f"--workdir={tmp_path}/runs/x"),
        ("--config.task.held_out=matched=~/m.tsv,other=~/n.tsv", f"={tmp_path}/m.tsv,other={tmp_path}/n.tsv"),
        ("~/runs/x", f"{tmp_path}/runs/x"),
        ("--input=a~/b", "--input=a~/b"),
        ("--text=~/b", "--text=~/b"),
    ):
        assert command._expanded(argument, ("text",)).endswith(value)
    (tmp_path / "recipe.py").write_text(
        "import bert_jax.config as c\ndef get_config():\n  r = c.base()\n  r.data.corpus = '~/a,~/b'\n  return r\n"
    )
    assert load_recipe(str(tmp_path / "recipe.py")).data.corpus == f"{tmp_path}/a,{tmp_path}/b"
    for name, arguments in (
        ("pretrain", ["--config=small", "--config.data.corpus=~/absent", "--workdir=~/run"]),
        ("doctor", ["~/absent"]),
        ("evaluate", ["--model=~/absent", "--corpus=~/absent"]),
    ):
        result = run(name, *arguments)
        assert result.returncode == 2 and f"{tmp_path}/absent" in result.stderr, result.stderr
