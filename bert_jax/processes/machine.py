"""Reads what this machine has: memory, what this process holds of it, and accelerators. Standard library alone."""

import contextlib
import glob
import os
import resource
import sys

_CGROUPS = (  # (limit, use, statistics, the name there of file pages that can be dropped)
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


def available_memory() -> int | None:
    """Returns the bytes that this process can still take without swapping, within its control group; None if unknown.

    It is what Linux calls MemAvailable, or what the limit of the control group (a container's, a batch job's) and of
    the process (ulimit -v) leaves, whichever is less.
    """
    free = [_free_of_machine(), *map(_free_of_cgroup, _CGROUPS), _free_of_process()]
    known = [bytes_ for bytes_ in free if bytes_ is not None]
    return max(0, min(known)) if known else None


def held_memory() -> int:
    """Returns the bytes of physical memory that this process holds now; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def accelerators() -> list[str]:
    """Returns the files of Linux that stand for TPUs and GPUs, as far as this machine has any."""
    patterns = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
    return [device for pattern in patterns for device in glob.glob(pattern)]


def expects_cpu() -> bool:
    """Returns whether jax will run on the CPU, before it is imported: it is told to, or sees nothing else on Linux."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms == "cpu" if platforms else sys.platform == "linux" and not accelerators()


def peak_memory() -> int:
    """Returns the most bytes of physical memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def in_words(size: float) -> str:
    """Returns a number of bytes in words: "41.2 GiB", "310 MiB"."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20)):,} MiB"


def _free_of_machine():
    """Returns the bytes that are free on the machine; None if unknown."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no Linux: all of the memory is the best guess
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_of_cgroup(paths):
    """Returns the bytes that the limit of a control group leaves; None without a limit."""
    limit_path, use_path, statistics_path, droppable = paths
    with contextlib.suppress(OSError, ValueError):
        limit = int(_read(limit_path))  # "max" where there is none
        if limit >= 2**60:
            return None
        dropped = next((int(line.split()[1]) for line in _read(statistics_path).splitlines()
                        if line.split()[:1] == [droppable]), 0)  # fmt: skip
        return limit - int(_read(use_path)) + dropped
    return None


def _free_of_process():
    """Returns the bytes that the limit of the process leaves; None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        return limit - int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return limit


def _read(path):
    with open(path) as file:
        return file.read()
