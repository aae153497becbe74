"""The flags of quickstart."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("key", ["train.nmu_steps", "no"])
def test_the_recipe_that_a_command_has_by_default_knows_its_keys(key, tmp_path):
    command = [sys.executable, "-m", "bert_jax.quickstart", f"--folder={tmp_path}", f"--config.{key}=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: config.{key}: unknown key")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("config.mesh.tensor=7", "config.mesh: data=-1 x fsdp=1 x tensor=7 does not fit 8 devices"),
        ("config.model.num_heads=3", "config.model.hidden_size: found 128, but it is not divisible by config.model.n"),
    ],
)
def test_what_does_not_go_together_is_told_before_the_corpus_is_made(flag, message, tmp_path):
    command = [sys.executable, "-m", "bert_jax.quickstart", f"--folder={tmp_path / 'new'}", f"--{flag}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "new").exists()


def test_help_names_the_overrides_of_the_default_recipe():
    command = [sys.executable, "-m", "bert_jax.quickstart", "--config.train.num_steps=7", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "error" not in done.stderr
    assert "--folder" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.json", "holds a run of pre-training; expected a new or empty folder (--workdir continues it"),
        ("a.txt", "holds other files, a.txt; expected a new or empty folder, such as --folder="),
    ],
)
def test_the_folder_of_something_else_is_refused(name, message, tmp_path):
    (tmp_path / name).write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax.quickstart", f"--folder={tmp_path}"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: --folder={tmp_path}: {message}"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
