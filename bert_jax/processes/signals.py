"""Ends a process at a signal before and after the steps of training, and with the process that started it.

The steps handle signals themselves (training/loop.py).
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

from bert_jax import _moved, interruption

_PR_SET_PDEATHSIG = 1  # see prctl(2)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM, SIGINT and SIGHUP end the program with a message that says how to continue a run.

    The exit codes are 143, 130 and 129; see interruption.py.
    """
    interruption.listen()
    with interruption.end_message(
        "ended while no step ran; what is saved stays; start the same command again to continue"
    ):
        yield


@functools.cache
def end_with_parent() -> None:
    """Makes a worker process of multiprocessing end when its parent does, whatever ends that; and not at Ctrl-C.

    Ctrl-C reaches every process of a terminal; the parent decides what it means for its workers.
    """
    with contextlib.suppress(ValueError):  # not its main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "SIGUSR1"):  # which asks a run for a trace (training/profiling.py), and may reach its group
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

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


def __getattr__(name):
    return _moved.find("processes.signals", name)
