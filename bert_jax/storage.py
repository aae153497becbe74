"""Files that are not on a local disk: gs://, s3://, and every other URL that fsspec knows.

Objects there appear whole or not at all, but there is no renaming of folders: a folder is whole once the file that
is written last is there.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TextIO

from bert_jax import files
from bert_jax.errors import UserError

_BLOCK_BYTES = 16 << 20  # copied at once
_LINES_BYTES = 1 << 20  # read ahead


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is a URL, such as gs://bucket/folder, and not one of this machine's file system."""
    return "://" in str(path)


def cache_directory() -> pathlib.Path:
    """The local disk's folder for copies: what the environment variable BERT_JAX_CACHE names, or ~/.cache/bert_jax."""
    return pathlib.Path(os.environ.get("BERT_JAX_CACHE") or "~/.cache/bert_jax").expanduser()


def open_binary(path: str):
    """A local or remote file, to be read from any position."""
    if not is_remote(path):
        return open(path, "rb")
    with reporting(path):
        system, place = _system(path)
        return io.BufferedReader(system.open(place, "rb"), _LINES_BYTES)  # fsspec's own reads no line up to a length


def glob(pattern: str) -> list[str]:
    """URLs of the files that a remote pattern matches, sorted."""
    with reporting(pattern):
        system, place = _system(pattern)
        found = system.glob(place, detail=True)
    return sorted(system.unstrip_protocol(name) for name, facts in found.items() if facts["type"] == "file")


def describe(path: str) -> tuple[int, str]:
    """(size in bytes, what changes when the content does) of a remote file."""
    with reporting(path):
        system, place = _system(path)
        facts = system.info(place)
    names = ("generation", "etag", "ETag", "mtime", "LastModified", "last_modified", "created")
    return facts["size"], next((str(facts[name]) for name in names if facts.get(name)), "")


def sizes(folder: str) -> dict[str, int]:
    """Bytes of every file under a remote folder, by its path in the folder; empty where there is no such folder."""
    with reporting(folder):
        system, place = _system(folder)
        system.invalidate_cache()  # others write there too
        found = system.find(place, detail=True)
    prefix = f"{place}/"
    return {name.removeprefix(prefix): facts["size"] for name, facts in found.items() if name.startswith(prefix)}


def exists(path: str) -> bool:
    if not is_remote(path):
        return os.path.exists(path)
    with reporting(path):
        system, place = _system(path)
        system.invalidate_cache()
        return system.exists(place)


def read(path: str) -> bytes:
    """A whole, small file, local or remote."""
    with reporting(path), open_binary(path) as file:
        return file.read()


def write(path: str, content: bytes) -> None:
    """A whole, small file, local or remote."""
    if not is_remote(path):
        files.atomic_write(path, content)
        return
    with reporting(path):
        system, place = _system(path)
        system.makedirs(system._parent(place), exist_ok=True)
        system.pipe_file(place, content)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike) -> Iterator[TextIO]:
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
    """A remote folder with all that is in it, if it is there."""
    with reporting(folder):
        system, place = _system(folder)
        system.invalidate_cache()
        if system.exists(place):
            system.rm(place, recursive=True)


def download(url: str, target: pathlib.Path) -> None:
    """Copies a remote file; `target` appears when it is whole. OSError of the local disk is passed on."""
    try:
        source = open_binary(url)
    except FileNotFoundError as error:
        raise UserError(f"{url}: no such file any more; was it removed, or is it being written anew?") from error
    with source, files.atomic_open(target, "wb") as copy:
        while block := _read_block(url, source):
            copy.write(block)


def upload(source: pathlib.Path, url: str) -> None:
    """Copies a local file, which appears there when it is whole."""
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
    """Copies every file of a local folder that is not there yet in its full size, the one named `last` in the end."""
    there = sizes(url)
    paths = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path == source / last):
        name = path.relative_to(source).as_posix()
        if there.get(name) != path.stat().st_size or path == source / last:
            upload(path, f"{url}/{name}")


@contextlib.contextmanager
def reporting(url: str) -> Iterator[None]:
    """Turns what goes wrong with remote storage into a UserError, but for a file that is not there."""
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:
        if not is_remote(url):
            raise
        raise failure(url, error) from error


def failure(url: str, error: Exception) -> UserError:
    """What an error that a storage's package raised, of whatever class, means to a user."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"{url}: {lines[0]}; expected storage that can be reached, by a URL that fsspec knows")


def _system(url):
    import fsspec  # here, because most runs need none of it

    system, place = fsspec.core.url_to_fs(url)
    return system, place.rstrip("/")


def _read_block(url, source):
    with reporting(url):
        return source.read(_BLOCK_BYTES)
