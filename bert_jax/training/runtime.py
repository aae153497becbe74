"""Sets up the process that trains: memory in huge pages, and compiled programs that outlive it.

config.train.compilation_cache is a directory, "" for none, or "auto": the directory that the user has given jax
(JAX_COMPILATION_CACHE_DIR), or else WORKDIR/compiled, which a run that was preempted finds again on another machine.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
from collections.abc import Iterator

import jax

from bert_jax import _moved
from bert_jax.errors import UserError
from bert_jax.processes import host_memory, private_jax


class HugePages:
    """Uses huge pages as soon as a program has run a step, and so has taken the memory that it needs."""

    def __init__(self):
        self._due = False

    def after(self, compiled: bool) -> None:
        """Notes that a step was started; `compiled`: whether its program was made for it."""
        if self._due and not compiled and jax.default_backend() == "cpu":
            host_memory.use_huge_pages()
        self._due = compiled


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


def __getattr__(name: str):
    return _moved.find("training.runtime", name)
