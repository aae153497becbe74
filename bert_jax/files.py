"""Writes local files that are whole or absent, whatever ends the process; takes locks; reads and writes JSON Lines.

A file or folder is written beside its place, as NAME.XXXXXXXX.partial, flushed to the disk and renamed. A crash, a kill
or a full disk therefore leaves what was there before. The writer holds a lock on what it writes, so that the next one
can tell what a killed process left behind, and removes it.

A symbolic link stays, and its target is replaced. What is no file, such as a pipe, /dev/null or /dev/stdout, is written
to and never replaced.
"""

import base64
import contextlib
import datetime
import decimal
import difflib
import errno
import fcntl
import glob
import itertools
import json
import math
import os
import pathlib
import re
import select
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

from bert_jax import _moved, interruption

# EBADF: NFS, asked to lock a folder.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
_NO_FLUSH = {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
_RETRY_SECONDS = 0.02
_NAMES_COMPARED = 10_000  # names in a folder among which that of a mistyped path is looked for
_CLOSE = 0.6  # difflib's ratio, from which on a name may be meant
STANDARD = "-"  # the name of standard input and standard output on command lines


def atomic_write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file whole or not at all; text as UTF-8. Raises OSError, and then leaves what was there."""
    with atomic_open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, value: Any, indent: int = 2) -> None:
    """Writes a value as indented JSON, whole or not at all. Raises OSError."""
    atomic_write(path, json_text(value, indent) + "\n")


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a file for writing, in mode "w" (UTF-8) or "wb", that takes its place when the block ends without an error.

    A pipe or a device gets what is written at once.

    Raises:
      OSError: it cannot be written.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    if _is_special(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        with open(descriptor, mode, encoding=encoding, newline=newline) as file:
            try:
                yield file
                file.flush()
            except BrokenPipeError as error:
                if not has_no_reader(file):
                    raise  # another pipe or connection
                discard_output(file)
                raise NoReaderError(*error.args) from error
        return
    with atomic_path(path) as partial, open(partial, mode, encoding=encoding, newline=newline) as file:
        yield file


@contextlib.contextmanager
def open_input(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for reading bytes; "-" is standard input. Raises OSError."""
    if os.fspath(path) != STANDARD:
        with open(path, "rb") as file:
            yield file
        return
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    yield sys.stdin.buffer


@contextlib.contextmanager
def open_output(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Opens what a command's --output names: "-" is standard output, anything else is opened by `atomic_open`.

    Raises:
      OSError: it cannot be written.
    """
    if os.fspath(path) == STANDARD:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with atomic_open(path, "wb") as file:
        yield file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty file beside `path` to write to, which replaces `path` when the block ends without an error.

    A pipe or a device then gets the content of the file, which lies elsewhere.

    Raises:
      OSError: it cannot be written.
    """
    path = pathlib.Path(path)
    if _is_special(path):
        with temporary_folder() as folder:
            partial = folder / path.name
            partial.touch()
            yield partial
            with partial.open("rb") as source, atomic_open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        return
    path, mode = _target(path)
    with _partial(path, is_folder=False) as partial:
        yield partial
        if mode is not None:
            partial.chmod(mode)
        try:
            replace(partial, path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            shutil.copyfile(partial, path)  # a file that is mounted by itself, as in a container


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, keep_existing: bool = False) -> Iterator[pathlib.Path]:
    """Yields an empty folder beside `path`, which becomes `path` when the block ends without an error.

    Args:
      path: must not exist by then, or be an empty folder.
      keep_existing: where another process has made `path` meanwhile, its folder stays and this one is dropped.

    Raises:
      OSError: it cannot be written, or `path` exists.
    """
    path = pathlib.Path(os.path.realpath(path))  # a link to a folder stays one
    with _partial(path, is_folder=True) as partial:
        yield partial
        for file in partial.rglob("*"):
            _sync(file)
        try:
            replace(partial, path)
        except OSError:
            if not (keep_existing and path.is_dir()):
                raise


@contextlib.contextmanager
def temporary_folder(prefix: str = "bert_jax-") -> Iterator[pathlib.Path]:
    """Yields an empty folder among the system's temporary files, removed at the end, also by a signal."""
    folder = tempfile.TemporaryDirectory(prefix=prefix)
    with folder as name, interruption.before_end(folder.cleanup):
        yield pathlib.Path(name)


@contextlib.contextmanager
def scratch_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty folder beside `path`, for what is needed while `path` is made; it is removed at the end.

    What a killed process left of one is removed by the next for the same `path`. Raises OSError.
    """
    with _partial(pathlib.Path(path), is_folder=True) as folder:
        yield folder


def replace(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Moves a finished file or folder to its place on the same disk, so that a crash leaves the old or the new one."""
    _sync(source)
    os.replace(source, path)
    with contextlib.suppress(OSError):  # the file is in its place; its folder may be one that nobody may list
        _sync(pathlib.Path(path).parent)


@contextlib.contextmanager
def lock(path: str | os.PathLike, seconds: float | None = 0.0, shared: bool = False) -> Iterator[BinaryIO]:
    """Holds the lock on a file, which is made where there is none, until the block or the process ends.

    Args:
      path: the file; its content is left as it is.
      seconds: how long to wait for another process; None: for ever.
      shared: whether others may hold it, shared, at the same time.

    Yields:
      the open file, unbuffered, at its end.

    Raises:
      BlockingIOError: another process holds it.
      OSError: the file cannot be opened.
      NoLocksError: the file system knows no locks.
    """
    with open(path, "a+b", buffering=0) as file:
        _acquire(file.fileno(), seconds, shared)
        yield file


class NoReaderError(BrokenPipeError):
    """Reports that the reader of a pipe that is written to has ended, as `head` does."""


def has_no_reader(stream: IO) -> bool:
    """Returns whether a stream is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    except (OSError, ValueError):
        return False


def discard_output(stream: IO) -> None:
    """Sends what is still in the buffer of a broken stream, and all that is written from now on, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class NoLocksError(OSError):
    """Reports that the file system does not support locks."""


def is_locked(path: str | os.PathLike) -> bool | None:
    """Returns whether a process holds the lock on a file; None where that cannot be told.

    The lock is taken, shared, and given back within microseconds.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        _acquire(descriptor, 0.0, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def json_text(value: Any, indent: int | None = None) -> str:
    """Returns a value as JSON that can be written as UTF-8: names of files that are not UTF-8 are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


@_moved.renamed_arguments(answer="value")
def json_line(value: Any) -> str:
    """Returns a value as JSON on one line, without its end; other line ends that Unicode knows are escaped."""
    line = json.dumps(value, ensure_ascii=False)
    return line if line.isascii() else re.sub("[\x85\u2028\u2029]", lambda end: f"\\u{ord(end[0]):04x}", line)


def jsonable(value: Any) -> Any:
    """Returns a value with what JSON lacks as text, and numbers that are none as null."""
    if isinstance(value, dict):
        return {jsonable(str(name)): jsonable(part) for name, part in value.items()}
    if isinstance(value, str):
        return value if value.isascii() else _encodable(value)
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return value


def _encodable(text):
    """Returns a text with each half of a surrogate pair, which no UTF-8 can hold, replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def parse_object(line: str | bytes) -> dict[str, Any]:
    """Returns the object of a line of JSON Lines. Raises ValueError, whose text is a reason: "not JSON (...)"."""
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}")
    return value


def whole_objects(content: bytes) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON Lines, without lines that are torn or hold none, as after a kill."""
    objects = []
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError):
            objects.append(parse_object(line))
    return objects


def closest_path(path: str | os.PathLike, is_folder: bool | None = None) -> str:
    """Returns the end of a message about a missing local path: the one in its place whose name is closest, or "".

    Args:
      path: the path; each folder in it may be mistyped.
      is_folder: whether a folder is wanted, or a file; None for either.
    """
    name = os.fspath(path)
    if "://" in name or name in ("", STANDARD):
        return ""
    begin = pathlib.Path(name).anchor
    place = begin
    for part in pathlib.Path(name).parts[1 if begin else 0 :]:
        try:
            inside = os.path.join(place, part)
            if not os.path.lexists(inside):
                part = _closest_name(part, place or os.curdir)
                inside = os.path.join(place, part)
        except (OSError, ValueError):
            return ""
        if not part:
            return ""
        place = inside
    if os.path.abspath(place) == os.path.abspath(name) or not os.path.exists(place):
        return ""
    is_wanted = is_folder is None or os.path.isdir(place) == is_folder
    return f"; did you mean {place}?" if is_wanted else ""


def _closest_name(name, folder):
    """Returns the name in a folder that is closest to a missing one; "" where none is close."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in itertools.islice(entries, _NAMES_COMPARED)]
    names = [other for other in names if other.startswith(".") == name.startswith(".") and ".partial" not in other]
    stem, ending = os.path.splitext(name.lower())
    ratios = {}
    for other in sorted(names):
        other_stem, other_ending = os.path.splitext(other.lower())
        pairs = [(stem, other_stem)] if ending == other_ending else [(stem, other_stem), (name.lower(), other.lower())]
        ratios[other] = min(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)  # not for its ending alone
    best = max(ratios, key=lambda other: ratios[other], default="")
    return best if ratios.get(best, 0) >= _CLOSE else ""


def is_stream(path: str | os.PathLike) -> bool:
    """Returns whether a path is "-", a pipe, a device, or an open file's, such as /dev/stdout."""
    return os.fspath(path) == STANDARD or _is_special(path)


def _is_special(path):
    """Returns whether a path exists and is neither a file nor a folder, or is an open file's, such as /dev/stdout."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _is_descriptor(os.path.abspath(path))


def _is_descriptor(path):
    """Returns whether a path, or a link that it leads to, names an open file of a process."""
    while not re.fullmatch(r"/proc/\w+(/task/\w+)?/fd", os.path.realpath(os.path.dirname(path))):
        if not os.path.islink(path):
            return False
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return True


def _target(path):
    """Returns (the path that symbolic links lead to, the permissions of the file there or None). Raises OSError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    target = pathlib.Path(os.path.realpath(path)) if path.is_symlink() else path
    return target, None if mode is None else stat.S_IMODE(mode)


@contextlib.contextmanager
def _partial(path, is_folder):
    """Yields a new, locked file or folder beside `path`, and removes it if it is still there at the end."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        _remove_if_abandoned(leftover)
    with contextlib.ExitStack() as stack:
        with interruption.uninterrupted():  # a signal finds it made, and knows of it, or not made
            partial, descriptor = _made(path, is_folder)
            stack.callback(os.close, descriptor)
            stack.enter_context(interruption.before_end(lambda: _discard(partial, path)))
        try:
            yield partial
        finally:
            with contextlib.suppress(OSError):
                _remove(partial)


def _made(path, is_folder):
    """Returns (a new, empty file or folder beside `path`, a descriptor that holds a lock on it)."""
    while True:
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
        if is_folder:
            partial.mkdir()
        descriptor = os.open(partial, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _acquire(descriptor, None, shared=False)
        except NoLocksError:
            break
        if partial.exists():
            break
        os.close(descriptor)  # another writer took it for abandoned before it was locked
    return partial, descriptor


def _discard(partial, path):
    """Removes what a signal ends the writing of; renamed first, so that its writer cannot put half of it in place."""
    unwanted = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    os.rename(partial, unwanted)
    _remove(unwanted)


def _remove_if_abandoned(partial):
    """Removes what a killed process was writing; what is being written is locked."""
    try:
        descriptor = os.open(partial, os.O_RDONLY if partial.is_dir() else os.O_RDWR)
    except OSError:
        return
    try:
        _acquire(descriptor, 0.0, shared=False)
        _remove(partial)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _acquire(descriptor, seconds, shared):
    end = None if seconds is None else time.monotonic() + seconds
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(descriptor, kind if end is None else kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if end is None or time.monotonic() >= end:
                raise
            time.sleep(_RETRY_SECONDS)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise NoLocksError(error.errno, os.strerror(error.errno)) from error
            raise


def _sync(path):
    """Flushes a file or folder to the disk, if its file system can. A disk that is full may say so only then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(descriptor)


def __getattr__(name):
    return _moved.find("files", name)
