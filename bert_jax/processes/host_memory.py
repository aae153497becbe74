"""Has malloc keep the memory that it has, and the kernel hold it in large pages. Standard library alone."""

import ctypes
import os

# The parameters of mallopt(3): numbers in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# Advice of madvise(2), numbers in Linux's mman.h; the second needs Linux 6.1.
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_HUGE = 2**21  # bytes of a huge page


def keep_freed_memory() -> None:
    """Makes malloc keep the memory that XLA frees, instead of returning it to the kernel and faulting it in again.

    XLA on CPU allocates the temporaries of a step anew each time. With this the quickstart's step took 0.70 of the time
    and one of 4 layers x 256 at 32 x 128 0.83 (medians of one run each, two cores). Memory in use stays near the
    peak of the run. A thread that was started before may have memory of its own, which other threads then share and
    which is returned all the same: commands that train call it first of all. Does nothing where the C library is not
    glibc.
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return
    except (ValueError, AttributeError):  # another library, or no Unix
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def use_huge_pages() -> None:
    """Has the kernel hold malloc's memory in pages of 2 MiB, of which the processor finds more at once.

    A step of 4 layers x 256 at 32 x 128 took 0.86 of the processor time so (one run, two cores, beside other work).
    Memory that is taken later is in small pages again. Does nothing where the system is not Linux, or has none.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            heaps = [line.split()[0] for line in file if line.rstrip().endswith("[heap]")]
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for heap in heaps:
        start, end = (int(address, 16) for address in heap.split("-"))
        start, end = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
        for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE) if end > start else ():
            madvise(start, end - start, advice)  # what the kernel cannot do stays as it is
