"""Sets up the process that trains: memory that malloc keeps, and compiled programs that outlive it.

config.train.compilation_cache is a directory, "" for none, or "auto": the directory that the user has given jax
(JAX_COMPILATION_CACHE_DIR), or else WORKDIR/compiled, which a run that was preempted finds again on another machine.
"""

import contextlib
import ctypes
import hashlib
import os
import pathlib
import platform
from collections.abc import Iterator

import jax

from bert_jax.errors import UserError
from bert_jax.processes import private_jax

# The parameters of mallopt(3): numbers in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes malloc keep the memory that XLA frees, instead of returning it to the kernel and faulting it in again.

    XLA on CPU allocates the temporaries of a step anew each time. With this the quickstart's step took 0.70 of the time
    and one of 4 layers x 256 at 32 x 128 0.83 (medians of one run each, two cores). Memory in use stays near the
    peak of the run. Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def compilation_cache(setting: str, workdir: pathlib.Path) -> Iterator[None]:
    """Keeps compiled programs where config.train.compilation_cache says, and reads them from there, while inside.

    Args:
      setting: config.train.compilation_cache.
      workdir: the run's directory.

    Raises:
      UserError: the directory that the setting names cannot be written.
    """
    before = jax.config.jax_compilation_cache_dir
    wanted = before if setting == "auto" and before else _directory(setting, workdir)
    if wanted == before:
        yield
        return
    _use(wanted)
    try:
        yield
    finally:
        _use(before)


def _directory(setting, workdir):
    if not setting:
        return None
    directory = workdir / "compiled" if setting == "auto" else setting
    if jax.default_backend() == "cpu":
        # jax's key of a program is the same for all processors, and one may lack what another's program needs.
        directory = f"{directory}/{_processor()}"
    if "://" not in str(directory):
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            if setting == "auto":
                return None  # the workdir is full or gone: its own errors say so
            raise UserError(
                f"config.train.compilation_cache: {setting} cannot be written: {error.strerror}; expected a directory, "
                '"auto", or "" for none'
            ) from error
    return str(directory)


def _processor():
    """Names the features that programs compiled for this processor may use, such as "x86_64-1f0c..."."""
    features = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        features = next((line for line in file if line.startswith(("flags", "Features"))), "")
    digest = hashlib.blake2b(" ".join(sorted(features.split())).encode(), digest_size=6).hexdigest()
    return f"{platform.machine()}-{digest}"


def _use(directory):
    jax.config.update("jax_compilation_cache_dir", directory)
    private_jax.reset_compilation_cache()
