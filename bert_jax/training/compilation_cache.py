"""Compiled programs that outlive the process: a run that starts again does not compile again.

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
from jax.experimental.compilation_cache import compilation_cache

from bert_jax.errors import UserError


@contextlib.contextmanager
def used(setting: str, workdir: pathlib.Path) -> Iterator[None]:
    """Programs that are compiled inside are kept, and found, where config.train.compilation_cache says.

    Raises:
      UserError: the directory that the setting names cannot be written.
    """
    before = jax.config.jax_compilation_cache_dir
    wanted = before if setting == "auto" and before else _directory(setting, workdir)
    if wanted == before:
        yield
        return
    _turn_to(wanted)
    try:
        yield
    finally:
        _turn_to(before)


def _directory(setting, workdir):
    if not setting:
        return None
    directory = workdir / "compiled" if setting == "auto" else setting
    if jax.default_backend() == "cpu":
        # jax's key of a program does not tell processors apart, and one may lack what another's program needs.
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
    """A name for what programs compiled for this processor need, such as "x86_64-1f0c..."."""
    features = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        features = next((line for line in file if line.startswith(("flags", "Features"))), "")
    digest = hashlib.blake2b(" ".join(sorted(features.split())).encode(), digest_size=6).hexdigest()
    return f"{platform.machine()}-{digest}"


def _turn_to(directory):
    jax.config.update("jax_compilation_cache_dir", directory)
    compilation_cache.reset_cache()  # jax opens the first directory that it is given, and keeps it
