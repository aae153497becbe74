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


def test_help_names_the_overrides_of_the_default_recipe():
    command = [sys.executable, "-m", "bert_jax.quickstart", "--config.train.num_steps=7", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "error" not in done.stderr
    assert "--folder" in done.stdout
