"""Holds a workdir for one run, so that no second one trains in it."""

import contextlib
import os
import pathlib
import socket
import uuid
from collections.abc import Iterator

from bert_jax import files, storage
from bert_jax.errors import UserError
from bert_jax.processes import distributed
from bert_jax.runs.workdir import not_writable


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the directory and holds its lock until the block or this process ends; process 0 does so for all.

    gs:// knows no locks: there, only whether it can be written is checked.

    Raises:
      UserError: the directory cannot be written, another run trains in it, or not all processes see the same one.
    """
    with contextlib.ExitStack() as stack:
        mark = distributed.broadcast(lambda: _lock(workdir, stack))
        try:
            with storage.reporting(str(workdir)):
                seen = (workdir / "lock").read_text()
        except OSError:
            seen = ""
        label = distributed.process_label()
        other = f"{label}--workdir={workdir}: not the directory that process 0 sees; expected one for all"
        distributed.raise_on_all("" if seen == mark else other)
        yield


def _lock(workdir, stack):
    """Locks the directory until the stack is left. Returns what the lock's file then holds: a mark that is unique."""
    if storage.is_remote(workdir):
        mark = f"{os.getpid()} on {socket.gethostname()}\n{uuid.uuid4()}\n"
        try:
            storage.write_text(workdir / "lock", mark)
        except OSError as error:
            raise not_writable(workdir, error) from error
        return mark
    path = workdir / "lock"
    mark = f"{os.getpid()}\n{uuid.uuid4()}\n"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(files.lock(path))
        file.truncate(0)
        file.write(mark.encode())
        os.fsync(file.fileno())  # a full disk may accept an empty file
    except BlockingIOError as error:
        holder = path.read_text("utf-8").partition("\n")[0].strip()
        raise UserError(
            f"--workdir={workdir}: process {holder} is training there; wait for it, or name another"
        ) from error
    except OSError as error:
        raise not_writable(workdir, error) from error
    return mark
