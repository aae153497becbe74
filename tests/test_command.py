"""Flags that several commands share: --help-keys, and mistakes that end in one line."""

import subprocess
import sys

import pytest


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


def test_help_lists_the_flags_that_commands_share_and_succeeds():
    result = run("pretrain", "--help")
    assert result.returncode == 0
    for flag in ("config", "help_keys", "workdir", "coordinator_address", "num_processes", "process_id"):
        assert f"  --{flag}:" in result.stdout
