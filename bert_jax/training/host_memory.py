"""How glibc keeps the memory of a program that trains on the CPU."""

import ctypes
import platform

# The parameters of mallopt(3): numbers in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has malloc keep what XLA frees, instead of handing it back to the kernel and faulting it in again.

    XLA on CPU allocates the temporaries of a step anew each time. Kept, the quickstart's step took 0.70 of the time
    and one of 4 layers x 256 at 32 x 128 0.83 (medians of one run each, two cores). Memory in use stays near the
    peak of the run. Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
