"""What ends a process: SIGTERM before and after the steps of training, and the end of the process that started it.

The steps hear SIGTERM themselves (training/loop.py). A container's first process is not ended by a signal that it does
not handle, and of several processes the others would wait for one that is.
"""

import contextlib
import functools
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Iterator

from bert_jax import _moved

_EXIT_CODE = 128 + signal.SIGTERM


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM inside ends the program with a line and code 143, once no compilation holds Python up."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@functools.cache
def end_with_parent() -> None:
    """A worker process ends when the first one does, not at Ctrl-C, which reaches all but is the first one's affair."""
    with contextlib.suppress(ValueError):  # not its main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _end(number, frame):
    distributed = sys.modules.get("bert_jax.processes.distributed")
    several = getattr(distributed, "is_multiprocess", bool)()  # not while it is being imported
    if not several or distributed.reports_errors():
        message = "SIGTERM: ended while no step ran; what is saved stays; start the same command again to continue"
        os.write(2, f"{message}\n".encode())  # whatever print may be in the middle of
    if several:
        distributed.exit_now(_EXIT_CODE)
    with contextlib.suppress(RuntimeError):  # it is being written to
        sys.stdout.flush()
    os._exit(_EXIT_CODE)  # threads of jax may not outlive a Python that tidies up


def __getattr__(name):
    return _moved.find("processes.signals", name)
