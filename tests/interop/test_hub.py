"""Uploads models through the HTTP API of a local stand-in for the Hugging Face hub, and loads them back by name."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from huggingface_hub import constants

from bert_jax.errors import UserError
from bert_jax.interop import hub as hub_lib
from bert_jax.interop import huggingface
from bert_jax.interop.hub import check_upload
from tests.interop import stand_in_hub
from tests.training.conftest import compiled, corpus, finished

__all__ = ["compiled", "corpus", "finished"]


@pytest.fixture
def hub():
    with stand_in_hub.serve() as running:
        yield running


def convert(hub, folder, *options, token=stand_in_hub.TOKEN, endpoint=None):
    """Runs convert against the hub; returns the process."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint or hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "JAX_PLATFORMS": "cpu",
    }
    environment.pop("HF_TOKEN", None)
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= {"HF_TOKEN": token} if token else {}
    words = [sys.executable, "-m", "bert_jax.convert", *map(str, options)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


def one_line(process):
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.strip().splitlines()
    return line


def test_a_model_goes_to_the_hub_and_comes_back(make, hub, tmp_path):
    made = make(language_model=True)
    (made.path / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    process = convert(hub, tmp_path, f"--input={made.path}", "--push_to_hub=tiny", "--private")
    assert process.returncode == 0, process.stderr
    assert f"{hub.address}/someone/tiny: uploaded\n" in process.stdout
    files = hub.repositories["someone/tiny"]
    assert {"config.json", "model.safetensors", "README.md", "vocab.txt"} <= files.keys()
    assert hub.private == {"someone/tiny"} and len(hub.commits) == 1 and b"# Mine" in files["README.md"]

    code = (
        "import sys, jax, numpy; from bert_jax.interop import huggingface;"
        "numpy.savez(sys.argv[1], *jax.tree.leaves(huggingface.read('someone/tiny').params))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "other"), "JAX_PLATFORMS": "cpu"}
    environment.pop("HF_HUB_OFFLINE", None)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "back.npz")], env=environment, check=True)
    back = np.load(tmp_path / "back.npz")
    leaves = jax.tree.leaves(huggingface.read(made.path).params)
    assert len(back.files) == len(leaves) > 10
    jax.tree.map(np.testing.assert_array_equal, [back[name] for name in back.files], leaves)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({".gitattributes": b"*"}, "someone/data: a repository of the Hugging Face hub without a model; expected"),
        ({"data.csv": b"a,b"}, "someone/data: a repository of the Hugging Face hub without a model; expected"),
        (
            None,
            "someone/data: no such directory, and the Hugging Face hub does not give it, nor is it in its cache: 404",
        ),
    ],
)
def test_names_that_hold_no_model_are_one_line(hub, tmp_path, files, message):
    if files:
        hub.repositories["someone/data"] = files
    process = convert(hub, tmp_path, "--model=someone/data", f"--output={tmp_path / 'out'}")
    process.stderr = "\n".join(line for line in process.stderr.splitlines() if "Fetching 0 files" not in line)
    line = one_line(process)
    assert message in line and "Please make" not in line and "trying to" not in line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "Got: ConnectError: [Errno -2] Name or service not known\nAn error happened while trying to locate the "
            "files on the Hub, and we cannot find the appropriate snapshot folder for the specified revision on the "
            "local disk. Please check your internet connection and try again.",
            "ConnectError: [Errno -2] Name or service not known",
        ),
        (
            f"First sentence. {'Second, a longer one. ' * 20}",
            f"First sentence. {'Second, a longer one. ' * 8}".strip(" ."),
        ),
        ("word " * 100, f"{'word ' * 39}..."),
    ],
)
def test_what_the_client_says_is_cut_between_sentences(text, reason):
    assert hub_lib._reason(OSError(text)) == reason


def test_what_a_repository_has_of_its_own_stays(make, hub, tmp_path):
    made = make(language_model=True)
    (made.path / "README.md").write_text("# Another\n")
    own = {"README.md": b"# Ours\n", "notes.txt": b"kept", "config.json": b"{}"}
    hub.repositories["someone/tiny"] = dict(own)
    output = tmp_path / "out"
    process = convert(hub, tmp_path, f"--input={made.path}", f"--output={output}", "--push_to_hub=someone/tiny")
    assert process.returncode == 0, process.stderr
    assert "uploaded, its own README.md kept" in process.stdout
    files = hub.repositories["someone/tiny"]
    assert (files["README.md"], files["notes.txt"]) == (b"# Ours\n", b"kept")
    assert files["config.json"] == (output / "config.json").read_bytes()
    assert files["model.safetensors"] == (output / "model.safetensors").read_bytes()


def test_what_cannot_be_uploaded_is_one_line_before_anything_is_written(hub, tmp_path, monkeypatch):
    def refusal(name, token):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError) as raised:
            check_upload(name)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert refusal("tiny", "").startswith("--push_to_hub=tiny: no token; expected one of an account")
    assert "tiny: the Hugging Face hub does not take it: Invalid user token" in refusal("tiny", "hf_other")
    for name in ("a/b/c", "", "a b", "../x"):
        assert "expected NAME or ACCOUNT/NAME" in refusal(name, stand_in_hub.TOKEN)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert "does not take it" in refusal("tiny", stand_in_hub.TOKEN)


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A hub that accepts connections and answers nothing, as some firewalls and proxies do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hub_lib, "_PATIENCE", 0.5)
        monkeypatch.setenv("HF_TOKEN", stand_in_hub.TOKEN)
        hub_lib._is_silent.cache_clear()
        yield
        hub_lib._is_silent.cache_clear()


def test_a_hub_that_does_not_answer_is_told_soon(silent_hub):
    start = time.monotonic()
    with pytest.raises(UserError, match="tiny: the Hugging Face hub does not take it: no answer within 0.5 seconds"):
        check_upload("tiny")
    with pytest.raises(UserError, match="a/b: no such directory, nor in the cache of the Hugging Face hub, which does"):
        hub_lib.directory("a/b")
    assert time.monotonic() - start < 10


@pytest.mark.full
def test_a_card_that_an_earlier_call_wrote_names_the_repository(make, hub, tmp_path):
    made = make(language_model=True)
    (made.path / "README.md").unlink(missing_ok=True)
    first = convert(hub, tmp_path, f"--model={made.path}", f"--output={tmp_path / 'books'}")
    assert first.returncode == 0 and 'model="books"' in (tmp_path / "books" / "README.md").read_text()
    process = convert(hub, tmp_path, f"--model={tmp_path / 'books'}", "--push_to_hub=tiny")
    assert process.returncode == 0, process.stderr
    card = hub.repositories["someone/tiny"]["README.md"].decode()
    assert card.count('"someone/tiny"') == 2 and '"books")' not in card


def test_what_the_hub_refuses_later_loses_nothing(make, hub, tmp_path):
    options = (f"--input={make().path}", f"--output={tmp_path / 'out'}", "--push_to_hub=others/tiny")
    message = one_line(convert(hub, tmp_path, *options))
    assert "others/tiny: the Hugging Face hub does not take it" in message and "403" in message
    assert (tmp_path / "out" / "config.json").exists() and not hub.repositories


def test_flags_that_need_each_other(make, hub, tmp_path):
    made = make()
    assert "found no --push_to_hub" in one_line(convert(hub, tmp_path, f"--input={made.path}", "--private"))
    assert "--output: not given" in one_line(convert(hub, tmp_path, f"--input={made.path}"))


@pytest.mark.more
def test_the_card_of_a_run_names_the_repository(hub, tmp_path, finished):
    process = convert(hub, tmp_path, f"--input={finished}", "--push_to_hub=tiny")
    assert process.returncode == 0, process.stderr
    card = hub.repositories["someone/tiny"]["README.md"].decode()
    assert "# tiny\n" in card and "steps" in card and "## Training text" in card
    transformers, bert_jax = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'pipeline("fill-mask", model="someone/tiny")' in transformers
    assert json.loads(hub.repositories["someone/tiny"]["config.json"])
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "other"), "JAX_PLATFORMS": "cpu"}
    environment.pop("HF_HUB_OFFLINE", None)
    code = f"{bert_jax}\nprint(len(answer['masks'][0]))"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "5", run.stderr
