"""Tests vectors on disk: equal to the embedder's, continued after a kill to the bit, refused for another embedder."""

import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import bert_jax
from bert_jax import files
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from bert_jax.retrieval import index as index_lib
from bert_jax.retrieval.documents import scan
from tests.commands import LONGEST_WAIT, ROOT, wait_until
from tests.inference.conftest import make_model
from tests.retrieval.conftest import DOCUMENTS, QUERIES, write_lines

PAIRS = [(f"d{i}", text) for i, text in enumerate(DOCUMENTS)]


def build(folder, embedder, documents=PAIRS, prompt="", done=lambda count: None):
    return index_lib.build(folder, f"--index={folder}", embedder, documents, scan(documents, ""), prompt, done)


def test_vectors_are_those_of_the_embedder_and_others_can_read_them(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_lib, "BLOCK", 16)
    index = build(tmp_path / "index", embedder, prompt="cd ")
    expected = embedder.encode(DOCUMENTS, prompt="cd ")
    np.testing.assert_allclose(index.vectors, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(list(index.blocks())), index.vectors)
    vectors = np.load(tmp_path / "index" / "vectors.npy", mmap_mode="r")
    assert vectors.dtype == np.float32 and vectors.shape == expected.shape
    assert (tmp_path / "index" / "ids.txt").read_text().split() == list(index.ids) == [key for key, _ in PAIRS]


def test_a_finished_index_is_opened_and_not_made_again(embedder, tmp_path, monkeypatch):
    index = build(tmp_path, embedder)
    monkeypatch.setattr(embedder, "stream", None)
    counts = []
    again = build(tmp_path, embedder, done=counts.append)
    np.testing.assert_array_equal(again.vectors, index.vectors)
    assert counts == [len(DOCUMENTS)]


def test_an_index_that_ended_early_goes_on_with_the_block_that_is_missing(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_lib, "BLOCK", 16)
    expected = np.array(build(tmp_path / "whole", embedder).vectors)
    embedded, stream = [], embedder.stream

    def failing(texts, *arguments, **options):
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.append(len(texts))
        return stream(texts, *arguments, **options)

    monkeypatch.setattr(embedder, "stream", failing)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", embedder)
    embedded.clear()
    index = build(tmp_path / "index", embedder)
    assert embedded == [len(DOCUMENTS) - 32]
    np.testing.assert_array_equal(index.vectors, expected)


# Makes blocks small, and waits for its end once two are on the disk and a third is half written.
DRIVER = """
import sys, time
from bert_jax.retrieval import index
from bert_jax import files, predict

index.BLOCK = 16
write = files.write_json
def write_and_wait(path, value, *rest):
    write(path, value, *rest)
    if value.get("finished") == 32:
        vectors = index.np.load(path.parent / "vectors.npy", mmap_mode="r+")
        vectors[32:36] = 7
        vectors.flush()
        (path.parent / "waiting").touch()
        time.sleep(10_000)
if sys.argv.pop(1) == "killed":
    files.write_json = write_and_wait
predict.run()
"""


@pytest.mark.full
def test_a_killed_search_goes_on_to_the_same_bits(embedder, tmp_path, monkeypatch):
    huggingface.write(embedder.model, tmp_path / "model")
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": key, "text": text} for key, text in PAIRS])
    queries = write_lines(tmp_path / "queries.jsonl", [{"text": text} for text in QUERIES])
    line = ["search", f"--model={tmp_path / 'model'}", f"--corpus={corpus}", f"--queries={queries}", "--top_k=3",
            f"--output={tmp_path / 'hits.jsonl'}", "--dtype=float32"]  # fmt: skip
    index = tmp_path / "corpus.jsonl.index"
    process = subprocess.Popen([sys.executable, "-c", DRIVER, "killed", *line], cwd=ROOT, stderr=subprocess.PIPE)
    wait_until((index / "waiting").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((index / "index.json").read_text())["finished"] == 32
    assert not (tmp_path / "hits.jsonl").exists()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "left", *line], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_WAIT
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(index_lib, "BLOCK", 16)
    same = bert_jax.Embedder(str(tmp_path / "model"), dtype="float32")
    np.testing.assert_array_equal(np.load(index / "vectors.npy"), build(tmp_path / "whole", same).vectors)
    assert len((tmp_path / "hits.jsonl").read_text().splitlines()) == 3 * len(QUERIES)


def test_a_fingerprint_is_that_of_what_vectors_depend_on(tokenizer):
    def fingerprint(options=None, **arguments):
        return bert_jax.Embedder(make_model(tokenizer, **arguments), **(options or {})).fingerprint()

    same = {fingerprint(), fingerprint({"dtype": "bfloat16"}), fingerprint({"packing": True})}
    same |= {fingerprint(language_model=False)}  # a head that no vector depends on
    others = [
        fingerprint(seed=1), fingerprint({"pooling": "cls"}), fingerprint({"normalize": True}),
        fingerprint({"long": "truncate"}), fingerprint(settings={"truncate_dim": 8}),
    ]  # fmt: skip
    assert len(same) == 1 and len({*same, *others}) == 6


def test_other_models_prompts_and_corpora_are_refused(tokenizer, embedder, tmp_path):
    folder = tmp_path / "index"
    build(folder, embedder)
    other = bert_jax.Embedder(make_model(tokenizer, seed=1))
    for arguments, message in (
        ((other,), f"--index=.*: holds vectors of the model test .fingerprint {embedder.fingerprint()[:12]}.*"
                   f"but --model=test has {other.fingerprint()[:12]} .*; expected the same, or another folder"),
        ((embedder, PAIRS, "ab"), "its documents have the prompt ''; found 'ab'"),
        ((embedder, PAIRS[:-1]), "holds vectors of another corpus, or the corpus has changed .*45 documents.*found 44"),
        ((embedder, [*PAIRS[:-1], ("d44", "ab")]), "holds vectors of another corpus"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            build(folder, *arguments)


def test_damaged_and_foreign_folders_are_refused(embedder, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.doc").touch()
    (tmp_path / "file").touch()
    for name, message in (("foreign", "holds thesis.doc and no index"), ("file", "a file; expected a folder")):
        with pytest.raises(UserError, match=message):
            build(tmp_path / name, embedder)
    folder = tmp_path / "index"
    folder.mkdir()
    with files.lock(folder / "lock"), pytest.raises(UserError, match="--index=.*: another process is writing it"):
        build(folder, embedder)
    build(folder, embedder)
    description, vectors = (folder / "index.json").read_text(), (folder / "vectors.npy").read_bytes()
    for content in ("", "[]", "{}", '{"format": "x"}', description.replace('"finished": 45', '"finished": 99')):
        (folder / "index.json").write_text(content)
        with pytest.raises(UserError, match="index.json is damaged"):
            build(folder, embedder)
    (folder / "index.json").write_text(description)
    for content in (b"", vectors[: len(vectors) // 2], b"noise"):
        (folder / "vectors.npy").write_bytes(content)
        with pytest.raises(UserError, match=r"vectors.npy is missing or damaged"):
            build(folder, embedder)
    for numbers, reason in ((np.nan, "document d7 is not finite"), (0, "document d0 is nothing but zeros")):
        array = np.load(io.BytesIO(vectors))
        array[7 if np.isnan(numbers) else slice(None)] = numbers
        np.save(folder / "vectors.npy", array)
        with pytest.raises(
            UserError, match=rf"^--index={folder}: vectors.npy is damaged: the vector of {reason}; expec"
        ):
            build(folder, embedder).nearest(np.ones((1, array.shape[1])), 1, "dot")
    (folder / "vectors.npy").write_bytes(vectors)
    ids = (folder / "ids.txt").read_text()
    (folder / "ids.txt").write_text(ids.replace("d5", "d55"))
    with pytest.raises(UserError, match="ids.txt is missing or damaged"):
        build(folder, embedder)
    (folder / "ids.txt").write_text(ids)
    np.save(folder / "vectors.npy", np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"vectors.npy holds float64 \[3, 2\]; expected float32 \[45, 32\]"):
        build(folder, embedder)
    for name in ("index.json", "vectors.npy"):  # as a kill before the first block leaves it
        (folder / name).unlink()
    build(folder, embedder)


def test_other_finite_numbers_than_were_written_are_noticed(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_lib, "BLOCK", 16)
    folder = tmp_path / "index"
    expected = np.array(build(folder, embedder).vectors)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r+")
    vectors[20, 3] += 0.5
    vectors.flush()
    message = rf"^--index={folder}: vectors.npy is damaged: it has other bytes .* documents d16 to d31; .*remove the"
    with pytest.raises(UserError, match=message):
        build(folder, embedder).nearest(expected[:1], 3, "dot")
    with pytest.raises(UserError, match=message):
        build(folder, embedder).verify()
    description = json.loads((folder / "index.json").read_text())
    for entry in ([], {}, {"block": 16, "crc32": [1]}):
        (folder / "index.json").write_text(json.dumps(description | {"checksums": entry}))
        with pytest.raises(UserError, match="index.json is damaged"):
            build(folder, embedder)
    # Indexes of earlier versions have no checksums, and those of others blocks of another size: both are read.
    (folder / "index.json").write_text(json.dumps(description | {"checksums": {"block": 8, "crc32": [1]}}))
    build(folder, embedder).verify()
    del description["checksums"]
    (folder / "index.json").write_text(json.dumps(description))
    build(folder, embedder).verify()
    # What one of them left unfinished gets checksums when it is continued.
    (folder / "index.json").write_text(json.dumps(description | {"finished": 32}))
    assert len(build(folder, embedder).checksums) == 3
    build(folder, embedder).verify()
    monkeypatch.setattr(index_lib, "BLOCK", 24)
    (folder / "index.json").write_text(json.dumps(description | {"finished": 32}))
    index = build(folder, embedder)
    index.verify()
    assert index.checksums == ()
