"""Mistakes of a user: one line that names the key or file, code 2, and nothing trained or lost."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from bert_jax.config import load_recipe
from bert_jax.errors import UserError
from bert_jax.runs import workdir
from bert_jax.runs.claim import claim
from bert_jax.training import pretraining
from tests.commands import LONGEST_WAIT
from tests.training.conftest import make_corpus

ROOT = pathlib.Path(__file__).parents[2]


def refused(config, path):
    """The one line that pretrain refuses with."""
    with pytest.raises(UserError) as caught:
        pretraining.pretrain(config, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


CONFIGS = {
    "batch and devices": (
        {"data.batch_size": 12},
        "config.data.batch_size: 12 is not divisible by 8 device shards x 1 microbatches = 8; try 8 or 16, or keep the",
    ),
    "batch and microbatches": (
        {"train.microbatches": 2},
        "config.data.batch_size: 8 is not divisible by 8 device shards x 2 microbatches = 16; try 16",
    ),
    "mesh": ({"mesh.fsdp": 3}, "config.mesh: data=-1 x fsdp=3 x tensor=1 does not fit 8 devices"),
    "mesh and model": ({"mesh.tensor": 8, "model.hidden_size": 36}, "config.mesh: "),
    "vocabulary": ({"model.vocab_size": 30522}, "config.model.vocab_size: 30522, but the corpus "),
    "no corpus": ({"data.corpus": ""}, "config.data.corpus: empty; expected a directory"),
    "missing corpus": ({"data.corpus": "/no/such"}, "/no/such: no such corpus; expected a directory"),
    "length": (
        {"data.sequence_length": 64},
        "config.data.sequence_length: 64 is over config.model.max_positions=32",
    ),
    "heads": ({"model.num_heads": 5}, "config.model.hidden_size: found 32, but it is not divisible"),
    "type": ({"train.num_steps": 0}, "config.train.num_steps: found 0"),
    "padding": (
        {"model.position_offset": 2},
        "config.model.position_offset: found 2, but the padding token",
    ),
    "init_from": ({"init_from": "/no/such"}, "/no/such: no such directory"),
}


@pytest.mark.parametrize("mistake", CONFIGS)
def test_configs(config, tmp_path, mistake):
    changes, expected = CONFIGS[mistake]
    config.update_from_flattened_dict(changes)
    assert expected in refused(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()  # so that the mistake can be put right there


def test_a_recipe_of_fine_tuning(tmp_path):
    assert refused(load_recipe("finetune/sst2"), tmp_path / "run").startswith("--config: a fine-tuning recipe")


def test_the_corpus_as_workdir(config):
    message = refused(config, pathlib.Path(config.data.corpus))
    assert message.startswith("--workdir=") and "holds a prepared corpus" in message


def test_single_document_with_pairs(config, tmp_path):
    config.data.corpus = str(make_corpus(tmp_path / "text", documents=1))
    assert "document" in refused(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.fixture
def run(config, tmp_path):
    """The workdir of a run that has begun with `config`."""
    from bert_jax.data import mixture

    corpora = mixture.open_corpora(config)
    begun = config.copy_and_resolve_references()
    begun.model.vocab_size = corpora[0].vocab_size
    (tmp_path / "run").mkdir()
    workdir.write_pretraining(tmp_path / "run", begun, corpora)
    (tmp_path / "run" / "checkpoints" / "4").mkdir(parents=True)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("seed", 0, 1),
        ("optimizer.learning_rate", 0.001, 0.002),
        ("data.masking", "dynamic", "static"),
        ("data.batch_size", 8, 16),
        ("data.phases", (), ({"share": 1.0, "mask_rate": 0.3},)),
        ("train.eval_batches", 2, 3),
    ],
)
def test_workdir_of_another_config(config, run, key, old, new):
    config.update_from_flattened_dict({key: new})
    typed = '"()"' if old == () else old
    assert refused(config, run) == (
        f"--workdir={run}: its run began with config.{key}={old!r}, found {new!r}; "
        f"give the old value (--config.{key}={typed}), or another --workdir"
    )


def test_workdir_of_another_corpus(config, run, corpus, tmp_path):
    config.data.corpus = str(make_corpus(tmp_path / "other", seed=1))
    message = refused(config, run)
    assert message.startswith(f"--workdir={run}: its run began with corpus {corpus} (fingerprint ")
    assert f"but config.data.corpus is {config.data.corpus} (fingerprint " in message


def test_workdir_of_a_newer_version(config, run):
    (run / "run.json").write_text(json.dumps({"format_version": 99, "corpora": []}))
    assert "format_version 99; this version of bert_jax reads 1" in refused(config, run)


def test_workdir_of_something_else(config, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "holds a model in the Hugging Face format; expected a new or empty folder" in refused(config, tmp_path)


def test_workdir_in_use(config, run):
    with claim(run):
        assert refused(config, run) == (
            f"--workdir={run}: process {os.getpid()} is training there; wait for it, or name another"
        )


def test_read_only_workdir(config, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    message = refused(config, small_disk / "run")
    assert message.startswith(f"--workdir={small_disk / 'run'}: cannot be written: Read-only file system")


def test_full_workdir(config, small_disk):
    with open(small_disk / "filler", "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    message = refused(config, small_disk / "run")
    assert "cannot be written: No space left on device" in message


def test_workdir_is_a_file_or_remote(config, tmp_path):
    (tmp_path / "file").write_text("")
    assert "a file; expected a folder" in refused(config, tmp_path / "file")
    assert refused(config, "s3://bucket/run").startswith("--workdir=s3://bucket/run: no place for a run")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config=bert_basee", "--workdir=W"], "--config=bert_basee: no such file or recipe; did you mean bert_base"),
        (["--config=bert_base", "--config.model.hidden_sise=4", "--workdir=W"], "hidden_sise"),
        (["--config=bert_base", "--config.data.sequence_length=1024", "--workdir=W"], "config.model.max_positions=512"),
        (["--config=bert_base", "--config.train.num_steps=many", "--workdir=W"], "many"),
        (["--config=bert_base"], "workdir"),
        (["--workdir=W"], "config"),
    ],
)
def test_the_command(arguments, expected, tmp_path):
    arguments = [argument.replace("=W", f"={tmp_path / 'run'}") for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax.pretrain", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
    assert not (tmp_path / "run").exists()


@pytest.mark.more
def test_a_run_without_a_checkpoint_gives_way_to_another(config, run, corpus, tmp_path, capsys):
    shutil.rmtree(run / "checkpoints")
    (run / "tokenizer" / "vocab.txt").write_text("of the run before\n")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n')
    (run / "lock").touch()
    config.update_from_flattened_dict({"seed": 1, "train.num_steps": 2, "train.eval_every": 0})
    pretraining.pretrain(config, run)
    assert "ended before its first checkpoint; begins anew, with other values of config.seed" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    vocabulary = pathlib.Path(corpus) / "tokenizer" / "vocab.txt"
    assert (run / "tokenizer" / "vocab.txt").read_bytes() == vocabulary.read_bytes()
    assert json.loads((run / "config.json").read_text())["seed"] == 1


def test_files_of_somebody_else_are_not_taken_for_a_run(config, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    assert "holds tokenizer, but no run; expected a new or empty folder" in refused(config, tmp_path)
