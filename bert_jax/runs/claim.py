"""Holds a workdir for one run, so that no second one trains in it."""

import contextlib
import os
import pathlib
import shutil
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

    If the block is left by an exception and nothing of a run was written, what it made is removed. gs:// knows no
    locks: there, only whether it can be written is checked.

    Raises:
      UserError: the directory cannot be written, another run trains in it, or not all processes see the same one.
    """
    with contextlib.ExitStack() as stack:
        mark = distributed.broadcast(lambda: _lock(workdir, stack))
        try:
            with storage.reporting(str(workdir)):
                held_mark = (workdir / "lock").read_text()
        except OSError:
            held_mark = ""
        label = distributed.process_label()
        message = f"{label}--workdir={workdir}: not the directory that process 0 sees; expected one for all"
        distributed.raise_on_all("" if held_mark == mark else message)
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
    new_folders = [folder for folder in (workdir / "compiled", workdir, *workdir.parents) if not folder.exists()]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(files.lock(path))
        stack.push(lambda kind, *_: _remove_unused(workdir, new_folders) if kind else None)
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


def _remove_unused(workdir, new_folders):
    """Removes the lock, compiled programs and `new_folders`, the innermost first, if there is nothing else."""
    with contextlib.suppress(OSError):
        if {path.name for path in workdir.iterdir()} <= {"lock", "compiled"}:
            for folder in new_folders:
                if folder.name == "compiled":
                    shutil.rmtree(folder, ignore_errors=True)
            (workdir / "lock").unlink()
            for folder in new_folders:
                if folder.exists():
                    folder.rmdir()
