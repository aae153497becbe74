"""Keeps arrays that are computed once in .npy files, with a checksum beside each: bits may change on a disk."""

import functools
import pathlib
import zlib

import numpy as np

from bert_jax import files

_LARGEST = 1 << 28  # bytes of a file that are read as a whole whenever a process opens it


def open_array(path: pathlib.Path) -> np.ndarray | None:
    """Opens a .npy file of any shape, memory-mapped; returns None where it is missing, damaged, or cut by a crash.

    Bits that have changed since `put` wrote it are noticed where reading them all takes a fraction of a second.
    """
    try:
        array = np.load(path, mmap_mode="r")
        status = path.stat()
    except (OSError, ValueError, EOFError):
        return None
    return None if _is_damaged(path, status.st_size, status.st_mtime_ns) else array


def put(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a finished .npy file to `path`, after its checksum was written beside it."""
    files.atomic_write(_checksum_path(path), f"{_checksum(temporary):08x}\n")
    files.replace(temporary, path)


@functools.lru_cache(maxsize=1024)
def _is_damaged(path, size, changed):
    """Returns whether a file of so many bytes, changed at that time, has another checksum than when it was written."""
    del changed
    try:
        written = _checksum_path(path).read_text("ascii").strip()
    except (OSError, ValueError):  # earlier versions wrote none
        return False
    return size <= _LARGEST and written != f"{_checksum(path):08x}"


def _checksum_path(path):
    return path.with_suffix(".crc32")


def _checksum(path):
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
