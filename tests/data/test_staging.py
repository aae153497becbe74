"""Corpora and text in remote storage: copied once, checked, continued after a kill; a corpus written there."""

import gzip
import json
import pathlib
import shutil
import subprocess
import sys

import fsspec
import numpy as np
import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile
from pyarrow import parquet

from bert_jax import config as config_lib
from bert_jax import storage
from bert_jax.data import loader, mixture, staging
from bert_jax.data.corpus import Corpus, file_sizes
from bert_jax.data.preparation import pipeline, sources
from bert_jax.errors import UserError
from tests.commands import LONGEST_WAIT
from tests.data.preparation.test_pipeline import contents, documents_of, make_text, prepare, small_shards, vocab  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class ObjectStore(MemoryFileSystem):
    """Object storage in memory, seen by this process alone; files are read as those of gs:// and s3:// are."""

    protocol = "objects"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("objects://", "memory://"))

    def _open(self, path, mode="rb", **options):
        if mode != "rb":
            return super()._open(path, mode, **options)
        return ObjectFile(self, path, size=self.info(path)["size"])


class ObjectFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        return self.fs.store[self.path].getvalue()[start:end]


fsspec.register_implementation("objects", ObjectStore, clobber=True)


@pytest.fixture
def bucket():
    yield "objects://bucket/corpora"
    storage.remove("objects://bucket")


@pytest.fixture
def remote(bucket, small_corpus):
    storage.upload_folder(small_corpus, f"{bucket}/small")
    return f"{bucket}/small"


def put(path, url):
    storage.write(url, path.read_bytes())


def counted(monkeypatch, stop_after=None):
    """Returns the list of URLs downloaded from now on; the download of one may raise KeyboardInterrupt."""
    real, urls = storage.download, []

    def download(url, target):
        if len(urls) == stop_after:
            raise KeyboardInterrupt
        urls.append(url)
        real(url, target)

    monkeypatch.setattr(storage, "download", download)
    return urls


def test_a_remote_corpus_gives_the_same_batches_and_is_copied_once(small_corpus, other_corpus, remote, monkeypatch):
    config = config_lib.base()
    config.data.update(sequence_length=64, batch_size=8)
    here, there = config.copy_and_resolve_references(), config.copy_and_resolve_references()
    here.data.corpus = f"{small_corpus},{other_corpus}"
    there.data.corpus = f"{remote}/,{other_corpus}"  # a folder of this disk beside it, and a slash
    urls = counted(monkeypatch)
    for step in (0, 100):
        expected, batch = loader.batch_at(here, step), loader.batch_at(there, step)
        assert all((expected[name] == batch[name]).all() for name in expected)
    sizes = file_sizes(Corpus.open(small_corpus).manifest)
    assert {f"{remote}/{name}" for name in sizes} < set(urls) and len(urls) == len(set(urls))
    assert all((small_corpus / name).stat().st_size == size for name, size in sizes.items())
    copied = len(urls)
    assert staging.stage(remote) == staging.stage(f"{remote}/") == mixture.open_corpora(there)[0].path
    assert len(urls) == copied


def test_a_killed_copy_is_continued(small_corpus, remote, monkeypatch):
    monkeypatch.setattr(staging, "_AT_ONCE", 1)
    arrays = {f"{remote}/{name}" for name in file_sizes(Corpus.open(small_corpus).manifest)}
    with monkeypatch.context() as patch:
        before = counted(patch, stop_after=len(arrays))  # the tokenizer's files come first
        with pytest.raises(KeyboardInterrupt):
            staging.stage(remote)
    after = counted(monkeypatch)
    assert Corpus.open(staging.stage(remote)).unigram_counts.any()
    assert arrays & set(before) and arrays & set(after) == arrays - set(before)


def test_processes_of_a_host_copy_once(tmp_path, small_corpus):
    url = f"file://{small_corpus}"
    command = [sys.executable, "-c", f"from bert_jax.data import staging; print(staging.stage({url!r}))"]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=LONGEST_WAIT) for process in started]
    assert all(process.returncode == 0 for process in started), outputs
    assert len({out for out, _ in outputs}) == 1
    assert sum("copying file://" in err for _, err in outputs) == 1


def test_a_corpus_prepared_again_is_copied_again(small_corpus, other_corpus, remote):
    first = staging.stage(remote)
    storage.remove(remote)
    storage.upload_folder(other_corpus, remote)
    second = staging.stage(remote)
    assert first != second
    assert Corpus.open(second).fingerprint == Corpus.open(other_corpus).fingerprint
    assert Corpus.open(first).fingerprint == Corpus.open(small_corpus).fingerprint


def test_missing_files_of_a_copy_are_copied_again(remote, monkeypatch):
    folder = staging.stage(remote)
    lost = next((folder / "train").glob("*.tokens.npy"))
    lost.unlink()
    urls = counted(monkeypatch)
    assert staging.stage(remote) == folder
    assert lost.is_file() and f"{remote}/train/{lost.name}" in urls
    assert not any("sentences.npy" in url for url in urls)


def test_damaged_copies_are_refused(small_corpus, remote, cache):
    name = "train/documents.npy"
    whole = (small_corpus / name).read_bytes()
    storage.write(f"{remote}/{name}", whole[:-8])
    with pytest.raises(UserError, match=rf"{name}: {len(whole) - 8:,} bytes; expected {len(whole):,} bytes"):
        staging.stage(remote)
    storage.remove(f"{remote}/{name}")
    with pytest.raises(UserError, match=rf"{name}: no such file"):
        staging.stage(remote)
    storage.write(f"{remote}/{name}", whole)
    tokens = next(path for path in sorted((small_corpus / "train").glob("*.tokens.npy")))
    damaged = bytearray(tokens.read_bytes())
    damaged[-1] ^= 1
    storage.write(f"{remote}/train/{tokens.name}", bytes(damaged))
    with pytest.raises(UserError, match="another fingerprint"):
        staging.stage(remote)
    put(tokens, f"{remote}/train/{tokens.name}")
    assert Corpus.open(staging.stage(remote)).computed_fingerprint() == Corpus.open(small_corpus).fingerprint


def test_no_room_is_one_clear_error(tmp_path, small_corpus, remote, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(UserError, match=r"no room: 0\.0 GB are free; the copy of .*BERT_JAX_CACHE"):
            staging.stage(remote)
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from bert_jax.data import staging\nfrom bert_jax.errors import UserError\n"
        f"try:\n    staging.stage('file://{small_corpus}')\nexcept UserError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", limited], cwd=ROOT, text=True, capture_output=True)
    assert "File too large" in done.stdout and "BERT_JAX_CACHE" in done.stdout, done
    assert len(done.stdout.splitlines()) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERT_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file.*Not a directory.*BERT_JAX_CACHE"):
        staging.stage(remote)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("objects://bucket/nothing", "objects://bucket/nothing: no manifest.json"),
        ("nosuch://bucket/corpus", "nosuch://bucket/corpus/manifest.json: Protocol not known: nosuch"),
        ("gs://bucket/corpus", "gs://bucket/corpus/manifest.json: .*gcsfs"),
    ],
)
def test_missing_corpora_are_named(url, message):
    with pytest.raises(UserError, match=message) as error:
        staging.stage(url)
    assert "\n" not in str(error.value)


def test_text_is_read_from_remote_storage(tmp_path, bucket, vocab, monkeypatch):  # noqa: F811
    small_shards(monkeypatch, 8)
    texts = make_text(60).split("\n\n")
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(texts))
    (folder / "b.txt.gz").write_bytes(gzip.compress("\n\n".join(texts[:20]).encode()))
    (folder / "c.jsonl").write_text("\n".join([*(json.dumps({"text": text}) for text in texts), "{"]))
    parquet.write_table(pyarrow.table({"text": texts}), folder / "d.parquet", row_group_size=7)
    (folder / "e.txt").write_bytes(b"\xff")
    storage.upload_folder(folder, f"{bucket}/text")
    here = prepare(f"{folder}/*", tmp_path / "here", vocab)
    there = prepare(f"{bucket}/text/*", tmp_path / "there", vocab)
    assert documents_of(tmp_path / "here") == documents_of(tmp_path / "there")
    assert here["fingerprint"] == there["fingerprint"]
    named = [example.replace(str(folder), "X") for example in here["skipped"]["examples"]]
    assert named == [example.replace("objects:///bucket/corpora/text", "X") for example in there["skipped"]["examples"]]
    assert here["skipped"]["count"] == 2
    with pytest.raises(UserError, match="no file matches"):
        prepare(f"{bucket}/text/*.text", tmp_path / "none", vocab)


def test_storage_that_fails_loses_no_text(tmp_path, bucket, vocab, monkeypatch):  # noqa: F811
    storage.write(f"{bucket}/a.txt", make_text(5).encode())

    class RateLimitError(Exception):
        """An error as gcsfs raises it, which is no OSError."""

    def failing(path):
        raise RateLimitError("too many requests\nand much more")

    monkeypatch.setattr(storage, "open_binary", failing)
    with pytest.raises(UserError, match=r"a\.txt: too many requests; expected storage") as error:
        prepare(f"{bucket}/a.txt", tmp_path / "out", vocab)
    assert "\n" not in str(error.value)


def test_a_corpus_is_written_to_remote_storage(tmp_path, bucket, vocab, cache, monkeypatch):  # noqa: F811
    small_shards(monkeypatch, 20)
    (tmp_path / "a.txt").write_text(make_text(60))
    whole = prepare(tmp_path / "a.txt", tmp_path / "whole", vocab)
    url, real, stops = f"{bucket}/out", storage.upload, 0
    while "manifest.json" not in storage.sizes(url):
        done = []

        def failing(source, target, done=done, stops=stops):
            done.append(target)
            if len(done) > 1 + 9 * stops:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(storage, "upload", failing)
        try:
            assert prepare(tmp_path / "a.txt", url, vocab) == whole
        except UserError as error:
            assert "interrupted" in str(error)
        stops += 1
    assert stops > 3
    monkeypatch.setattr(storage, "upload", None)  # nothing is left to do
    assert prepare(tmp_path / "a.txt", url, vocab) == whole
    storage.download_folder(url, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "whole")
    assert not [path for path in (cache / "prepare").iterdir() if path.is_dir()]
    assert np.array_equal(loader_rows(url), loader_rows(tmp_path / "whole"))
    with pytest.raises(UserError, match=f"--output={url}: holds a corpus.*sentences=split, not sentences=line"):
        prepare(tmp_path / "a.txt", url, vocab, sentences="line")
    with pytest.raises(UserError, match=f"--output={bucket}: holds other files"):
        prepare(tmp_path / "a.txt", bucket, vocab)


def loader_rows(corpus):
    config = config_lib.base()
    config.data.update(corpus=str(corpus), sequence_length=32, batch_size=4)
    return loader.batch_at(config, 3)["input_ids"]


def test_two_attempts_at_a_shard_leave_one(tmp_path, bucket, vocab):  # noqa: F811
    from bert_jax.data.preparation.beam import Worker

    (tmp_path / "a.txt").write_text(make_text(9))
    settings = pipeline.Settings(input=str(tmp_path / "a.txt"), tokenizer=str(vocab))
    (shard,) = sources.plan(settings.input, settings.reading).shards
    (tmp_path / "parts").mkdir()
    storage.upload_folder(vocab.parent, f"{bucket}/tokenizer", last="vocab.txt")
    for parts, tokenizer in ((str(tmp_path / "parts"), str(vocab)), (f"{bucket}/parts", f"{bucket}/tokenizer")):
        workers = [Worker(parts, tokenizer, settings, False) for _ in range(2)]
        for worker in workers:
            worker.write(0, shard)
            worker.close()
    storage.download_folder(f"{bucket}/parts", tmp_path / "remote")
    assert contents(tmp_path / "remote") == contents(tmp_path / "parts")
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["00000"]
