"""Keeps the programs that tests compile, for as long as a module of tests runs."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from bert_jax.processes.private_jax import reset_compilation_cache


@contextlib.contextmanager
def programs_in(folder: pathlib.Path) -> Iterator[None]:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    reset_compilation_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    reset_compilation_cache()
