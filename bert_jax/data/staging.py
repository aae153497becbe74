"""Copies corpora from remote storage to this host's disk, because files in a bucket cannot be memory-mapped.

The copy is in storage.cache_directory(), where a second start, and every process of the host, finds it. The name of its
folder is a hash of the corpus's manifest: a corpus that was prepared again is copied again.
"""

import concurrent.futures
import hashlib
import pathlib
import shutil
import sys

from bert_jax import files, storage
from bert_jax.data import corpus as corpus_lib
from bert_jax.errors import UserError

_AT_ONCE = 8  # files that are copied at the same time


def open_corpus(path: str) -> corpus_lib.Corpus:
    """Opens the corpus in a local folder or at a URL. Raises UserError if there is none, or no room for its copy."""
    return corpus_lib.Corpus.open(stage(path) if storage.is_remote(path) else path)


def stage(url: str) -> pathlib.Path:
    """Copies a remote corpus, unless it was copied before; returns the local folder.

    Copying continues where a killed process stopped; one process of a host copies, the others wait for it.

    Raises:
      UserError: there is no whole corpus at the URL, storage cannot be read, the copy differs from what the manifest
        says, or there is no room for it.
    """
    url = url.rstrip("/")
    try:
        content = storage.read(f"{url}/manifest.json")
    except FileNotFoundError as error:
        raise UserError(
            f"{url}: no manifest.json, so no whole corpus; expected a directory that bert_jax.prepare finished"
        ) from error
    sizes = corpus_lib.file_sizes(corpus_lib.read_manifest(content, f"{url}/manifest.json"))
    name = hashlib.blake2b(url.encode() + b"\0" + content, digest_size=8).hexdigest()
    folder = storage.cache_directory() / "corpora" / f"{url.rsplit('/', 1)[-1]}-{name}"
    if (folder / "manifest.json").is_file() and not _missing(folder, sizes):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(folder.with_name(f"{folder.name}.lock"), seconds=None):
            missing = _missing(folder, sizes)
            if missing or not (folder / "manifest.json").is_file():
                _copy(url, folder, {name: sizes[name] for name in missing})
                (folder / "manifest.json").unlink(missing_ok=True)
                _check_and_finish(url, folder, content)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}; the copy of {url} takes "
            f"{sum(sizes.values()) / 1e9:,.1f} GB: set the environment variable BERT_JAX_CACHE to a folder with room; "
            "what is copied is kept"
        ) from error
    return folder


def _missing(folder, sizes):
    """Returns the names of the files in `sizes` that the folder does not hold in their full size."""
    paths = {name: folder / name for name in sizes}
    return [name for name, path in paths.items() if not path.is_file() or path.stat().st_size != sizes[name]]


def _copy(url, folder, sizes):
    """Copies the files of `sizes` and the tokenizer; stops at the first that fails."""
    remote_sizes = storage.sizes(url)
    for name, size in sizes.items():
        if remote_sizes.get(name) != size:
            actual = f"{remote_sizes[name]:,} bytes" if name in remote_sizes else "no such file"
            raise UserError(f"{url}/{name}: {actual}; expected {size:,} bytes, as manifest.json says; prepare it again")
    for leftover in folder.rglob("*.partial"):
        leftover.unlink()
    needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(None, f"no room: {free / 1e9:,.1f} GB are free", str(folder))
    print(f"copying {url} ({needed / 1e9:,.1f} GB) to {folder}", file=sys.stderr, flush=True)
    names = [*(name for name in remote_sizes if name.startswith("tokenizer/")), *sizes]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        copies = [pool.submit(storage.download, f"{url}/{name}", folder / name) for name in names]
        try:
            for copy in concurrent.futures.as_completed(copies):
                copy.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_and_finish(url, folder, content):
    """Writes the manifest, which makes the corpus whole, if the files have its fingerprint; else removes the copy."""
    manifest = corpus_lib.read_manifest(content, f"{url}/manifest.json")
    if corpus_lib.Corpus(folder, manifest).computed_fingerprint() != manifest["fingerprint"]:
        shutil.rmtree(folder)
        raise UserError(
            f"{url}: its files are not those that manifest.json was written for (another fingerprint), or were damaged "
            "on the way; start again, or prepare it again"
        )
    files.atomic_write(folder / "manifest.json", content)
