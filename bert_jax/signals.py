"""SIGTERM before and after the steps of training, which hear it themselves (training/loop.py).

A container's first process is not ended by a signal that it does not handle, and of several processes the others would
wait for one that is.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

_EXIT_CODE = 128 + signal.SIGTERM


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """SIGTERM inside ends the program with a line and code 143, once no compilation holds Python up."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number, frame):
    distributed = sys.modules.get("bert_jax.distributed")
    several = getattr(distributed, "several", bool)()  # not while it is being imported
    if not several or distributed.speaks():
        message = "SIGTERM: ended while no step ran; what is saved stays; start the same command again to continue"
        os.write(2, f"{message}\n".encode())  # whatever print may be in the middle of
    if several:
        distributed.leave(_EXIT_CODE)
    with contextlib.suppress(RuntimeError):  # it is being written to
        sys.stdout.flush()
    os._exit(_EXIT_CODE)  # threads of jax may not outlive a Python that tidies up
