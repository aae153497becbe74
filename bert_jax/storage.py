"""Reads and writes local files and remote ones: gs://, s3://, and every other URL that fsspec knows.

Remote objects appear whole or not at all, but folders cannot be renamed there: a folder counts as whole once the file
that is written last exists.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from bert_jax import files
from bert_jax.errors import UserError

_BLOCK_BYTES = 16 << 20  # bytes copied at once
_LINES_BYTES = 1 << 20  # bytes read ahead


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is a URL, such as gs://bucket/folder, and not a path of this machine's file system."""
    return "://" in str(path)


def cache_directory() -> pathlib.Path:
    """Returns the local folder for copies: the environment variable BERT_JAX_CACHE, or ~/.cache/bert_jax."""
    return pathlib.Path(os.environ.get("BERT_JAX_CACHE") or "~/.cache/bert_jax").expanduser()


def open_binary(path: str):
    """Opens a local or remote file for reading from any position."""
    if not is_remote(path):
        return open(path, "rb")
    with reporting(path):
        system, place = _system(path)
        return io.BufferedReader(system.open(place, "rb"), _LINES_BYTES)  # fsspec's own reads no line up to a length


def glob(pattern: str) -> list[str]:
    """Returns the URLs of the files that a remote pattern matches, sorted."""
    with reporting(pattern):
        system, place = _system(pattern)
        matches = system.glob(place, detail=True)
    return sorted(system.unstrip_protocol(name) for name, facts in matches.items() if facts["type"] == "file")


def describe(path: str) -> tuple[int, str]:
    """Returns a remote file's size in bytes, and a text that changes when its content does."""
    with reporting(path):
        system, place = _system(path)
        facts = system.info(place)
    names = ("generation", "etag", "ETag", "mtime", "LastModified", "last_modified", "created")
    return facts["size"], next((str(facts[name]) for name in names if facts.get(name)), "")


def sizes(folder: str) -> dict[str, int]:
    """Returns the bytes of every file under a remote folder, by its path in the folder; {} if there is no folder."""
    with reporting(folder):
        system, place = _system(folder)
        system.invalidate_cache()  # others write there too
        entries = system.find(place, detail=True)
    prefix = f"{place}/"
    return {name.removeprefix(prefix): facts["size"] for name, facts in entries.items() if name.startswith(prefix)}


def exists(path: str) -> bool:
    """Returns whether a local or remote file or folder exists."""
    if not is_remote(path):
        return os.path.exists(path)
    with reporting(path):
        system, place = _system(path)
        system.invalidate_cache()
        return system.exists(place)


def read(path: str) -> bytes:
    """Returns the content of a small file, local or remote."""
    with reporting(path), open_binary(path) as file:
        return file.read()


def write(path: str, content: bytes) -> None:
    """Writes a small file, local or remote, whole or not at all."""
    if not is_remote(path):
        files.atomic_write(path, content)
        return
    with reporting(path):
        system, place = _system(path)
        system.makedirs(system._parent(place), exist_ok=True)
        system.pipe_file(place, content)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike) -> Iterator[IO[str]]:
    """Opens a local or remote text file for writing, which takes its place when the block ends without an error.

    Raises:
      OSError: it cannot be written, also where the storage's package raises something else.
    """
    if not is_remote(path):
        with files.atomic_open(path) as file:
            yield file
        return
    text = io.StringIO()
    yield text
    try:
        write(str(path), text.getvalue().encode())
    except FileNotFoundError as error:
        raise OSError(errno.ENOENT, "no such bucket") from error
    except UserError as error:
        raise OSError(errno.EIO, str(error)) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a local or remote text file whole or not at all. Raises OSError."""
    with atomic_open(path) as file:
        file.write(text)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a local or remote JSON file whole or not at all. Raises OSError."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def remove(folder: str) -> None:
    """Removes a remote folder with everything in it, if it exists."""
    with reporting(folder):
        system, place = _system(folder)
        system.invalidate_cache()
        if system.exists(place):
            system.rm(place, recursive=True)


def download(url: str, target: pathlib.Path) -> None:
    """Copies a remote file; `target` appears when it is whole. Errors of the local disk are raised as OSError."""
    try:
        source = open_binary(url)
    except FileNotFoundError as error:
        raise UserError(f"{url}: no such file any more; was it removed, or is it being written anew?") from error
    with source, files.atomic_open(target, "wb") as copy:
        while block := _read_block(url, source):
            copy.write(block)


def upload(source: pathlib.Path, url: str) -> None:
    """Copies a local file to remote storage, where it appears when it is whole."""
    with reporting(url):
        system, place = _system(url)
        system.makedirs(system._parent(place), exist_ok=True)
        system.put_file(str(source), place)


def download_folder(url: str, target: pathlib.Path) -> None:
    """Copies every file under a remote folder to a local one."""
    for name in sizes(url):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        download(f"{url}/{name}", target / name)


def upload_folder(source: pathlib.Path, url: str, last: str = "") -> None:
    """Copies the files of a local folder that the remote one lacks or holds in another size, `last` at the end."""
    uploaded = sizes(url)
    paths = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path == source / last):
        name = path.relative_to(source).as_posix()
        if uploaded.get(name) != path.stat().st_size or path == source / last:
            upload(path, f"{url}/{name}")


@contextlib.contextmanager
def reporting(url: str) -> Iterator[None]:
    """Turns errors of remote storage into UserError; FileNotFoundError is raised as it is."""
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:
        if not is_remote(url):
            raise
        raise failure(url, error) from error


def failure(url: str, error: Exception) -> UserError:
    """Returns the UserError for an error, of whatever class, that a storage package raised."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"{url}: {lines[0]}; expected storage that can be reached, by a URL that fsspec knows")


def _system(url):
    import fsspec  # here, because most runs need none of it

    system, place = fsspec.core.url_to_fs(url)
    return system, place.rstrip("/")


def _read_block(url, source):
    with reporting(url):
        return source.read(_BLOCK_BYTES)
