"""Tests workdirs in an emulated Google Cloud Storage: the same promises as on a disk, except for the lock."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import fsspec
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.errors import UserError
from bert_jax.runs import loggers, workdir
from tests import commands
from tests.commands import finish, logged_rows, rows_of, wait_until
from tests.training.conftest import make_config, write_recipe


@pytest.fixture(scope="module")
def bucket():
    """Yields the environment of processes for which gs://bucket is an emulated one, and the address of its server."""
    pytest.importorskip("gcp_storage_emulator")
    pytest.importorskip("gcsfs")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, pathlib.Path(__file__).parent / "gcs_emulator.py", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers():
        try:
            urllib.request.urlopen(f"{address}/storage/v1/b/bucket/o").close()
        except OSError:
            return False
        return True

    wait_until(answers, server)
    emulated = {
        "STORAGE_EMULATOR_HOST": address,  # for gcsfs and google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
        "GOOGLE_CLOUD_PROJECT": "any",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask Google of what kind the bucket is
        "XLA_FLAGS": "",
    }
    yield os.environ | emulated, address
    server.terminate()
    server.wait()


def command(environment, name, *options):
    return commands.start(f"bert_jax.{name}", *options, environment=environment)


def object_names(address):
    """Returns the names of the objects in the bucket."""
    with urllib.request.urlopen(f"{address}/storage/v1/b/bucket/o?maxResults=5000") as answer:
        return {item["name"] for item in json.load(answer).get("items", [])}


def read(address, name):
    quoted = urllib.parse.quote(name, safe="")
    with urllib.request.urlopen(f"{address}/storage/v1/b/bucket/o/{quoted}?alt=media") as answer:
        return answer.read()


def put(address, name, content):
    query = urllib.parse.urlencode({"uploadType": "media", "name": name})
    request = urllib.request.Request(f"{address}/upload/storage/v1/b/bucket/o?{query}", content, method="POST")
    urllib.request.urlopen(request).close()


def steps(names, run):
    matches = [re.fullmatch(rf"{run}/checkpoints/(\d+)/commit_success\.txt", name) for name in names]
    return sorted(int(match[1]) for match in matches if match)


@pytest.fixture(scope="module")
def recipe(corpus, tmp_path_factory):
    config = make_config(corpus)
    config.model.update(hidden_dropout=0.1, attention_dropout=0.1)
    config.train.update(num_steps=40, eval_every=10, checkpoint_every=7, keep_newest=2, progress=False)
    return write_recipe(tmp_path_factory.mktemp("recipe") / "recipe.py", config)


@pytest.mark.gcs
def test_a_killed_run_goes_on_as_on_a_disk(bucket, recipe, tmp_path):
    environment, address = bucket
    start = ["pretrain", f"--config={recipe}"]
    finish(command(environment, *start, f"--workdir={tmp_path / 'disk'}"))
    expected = logged_rows(tmp_path / "disk")
    for moment in (0, 7, 21):  # before the first checkpoint is whole, and beside later ones
        process = command(environment, *start, "--workdir=gs://bucket/run")
        if moment:
            wait_until(lambda moment=moment: max(steps(object_names(address), "run"), default=0) >= moment, process)
        else:
            wait_until(lambda: any(name.startswith("run/") for name in object_names(address)), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.communicate()[0]
        process.communicate()
    output = finish(command(environment, *start, "--workdir=gs://bucket/run"))
    assert int(re.search(r"; step (\d+) of 40", output)[1]) >= 21
    assert rows_of(read(address, "run/metrics.jsonl").decode()) == expected
    names = object_names(address)
    assert steps(names, "run") == sorted(int(path.name) for path in (tmp_path / "disk" / "checkpoints").iterdir())
    assert all(f"run/checkpoints/{step}/manifest.json" in names for step in steps(names, "run"))
    assert any(name.startswith("run/compiled/") for name in names)
    assert any(name.startswith("run/tensorboard/events") for name in names)

    # The model is read from there.
    for place, output in (("gs://bucket/run", "from_bucket"), (tmp_path / "disk", "from_disk")):
        finish(command(environment, "convert", f"--input={place}", f"--output={tmp_path / output}"))
    one, other = (
        safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in ("from_bucket", "from_disk")
    )
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)

    # A damaged checkpoint is put aside whole, and training goes on from the one before.
    damaged = sorted(name for name in names if name.startswith("run/checkpoints/40/params/") and "/d/" in name)
    before = read(address, damaged[0])
    put(address, damaged[0], bytes([before[0] ^ 1]) + before[1:])
    output = finish(command(environment, *start, "--workdir=gs://bucket/run"))
    assert "step 40 is damaged" in output and "moved to gs://bucket/run/corrupt-40" in output
    now = object_names(address)
    moved = {name for name in names if name.startswith("run/checkpoints/40/")}
    assert {name.replace("checkpoints/", "corrupt-", 1) for name in moved} <= now
    assert steps(now, "run") == steps(names, "run")
    assert rows_of(read(address, "run/metrics.jsonl").decode()) == expected


def test_other_storage_is_refused(monkeypatch):
    with pytest.raises(UserError, match="^--workdir=s3://b/run: no place for a run; expected .* gs://BUCKET/FOLDER"):
        workdir.to_path("s3://b/run", "--workdir=")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="^gs://b/run: not installed: gcsfs, google-cloud-storage;"):
        workdir.to_path("gs://b/run")


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_metrics_are_written_whole_at_flush_and_cut_at_a_step(memory):
    url = "memory://bucket/metrics.jsonl"
    file = loggers.RemoteMetricsFile(url, 0, pytest.fail)
    for step in (1, 2, 3):
        file.write({"step": step, "loss": float("nan") if step == 2 else 0.5})
    assert not memory.exists(url)
    file.flush()
    content = memory.cat_file(url)
    assert content == b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n{"step": 3, "loss": 0.5}\n'
    memory.pipe_file(url, content + b'{"ste')
    file = loggers.RemoteMetricsFile(url, 2, pytest.fail)
    file.close()
    assert memory.cat_file(url) == content[: content.index(b'{"step": 3')]


def test_metrics_wait_for_storage_that_does_not_answer(memory, monkeypatch):
    said = []
    file = loggers.RemoteMetricsFile("memory://bucket/metrics.jsonl", 0, said.append)

    def fail(*arguments, **options):
        raise RuntimeError("503")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "pipe_file", fail)
        for step in (1, 2):
            file.write({"step": step})
            file.flush()
    assert len(said) == 1 and "503" in said[0]
    file.close()
    assert memory.cat_file("memory://bucket/metrics.jsonl") == b'{"step": 1}\n{"step": 2}\n'


def test_tensorboard_events_are_copied_at_flush(memory):
    board = loggers.RemoteTensorBoard("memory://bucket/tensorboard", 0, pytest.fail)
    board.write({"step": 1, "loss": 0.5})
    board.flush()
    (before,) = memory.find("/bucket/tensorboard", detail=True).values()
    board.write({"step": 2, "loss": 0.5})
    board.close()
    (after,) = memory.find("/bucket/tensorboard", detail=True).values()
    assert 0 < before["size"] < after["size"]
