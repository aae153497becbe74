"""Ends a process at SIGTERM before and after the steps of training, and with the process that started it.

The steps handle SIGTERM themselves (training/loop.py). A container's first process is not ended by a signal that it
does not handle, and of several processes the others would wait for one that is.
"""

import contextlib
import ctypes
import functools
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Iterator

from bert_jax import _moved

_EXIT_CODE = 128 + signal.SIGTERM
_PR_SET_PDEATHSIG = 1  # of prctl(2)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM end the program with a message and exit code 143 while inside.

    A compilation that is under way is finished first: Python handles signals between its own instructions.
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@functools.cache
def end_with_parent() -> None:
    """Makes a worker process of multiprocessing end when its parent does, whatever ends that; and not at Ctrl-C.

    Ctrl-C reaches every process of a terminal; the parent decides what it means for its workers.
    """
    with contextlib.suppress(ValueError):  # not its main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def terminate_with_parent(parent: int) -> None:
    """Makes a program receive SIGTERM when the process that started it ends, whatever ends that.

    Only Linux can promise it; elsewhere a parent that has ended before this call is noticed, a later end is not.

    Args:
      parent: process id of the one that started this program.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before
        signal.raise_signal(signal.SIGTERM)


def _end(number, frame):
    distributed = sys.modules.get("bert_jax.processes.distributed")
    if not getattr(distributed, "is_multiprocess", bool)():  # which is missing while it is being imported
        distributed = None
    if distributed is None or distributed.reports_errors():
        message = "SIGTERM: ended while no step ran; what is saved stays; start the same command again to continue"
        os.write(2, f"{message}\n".encode())  # print may be in the middle of a line
    if distributed is not None:
        distributed.exit_now(_EXIT_CODE)
    with contextlib.suppress(RuntimeError):  # it is being written to
        sys.stdout.flush()
    os._exit(_EXIT_CODE)  # threads of jax may not outlive a Python that tidies up


def __getattr__(name):
    return _moved.find("processes.signals", name)
