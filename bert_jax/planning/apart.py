"""Compiles in a process of its own: libtpu's compiler was seen to crash, which must not end a plan."""

import atexit
import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import tempfile
from concurrent.futures.process import BrokenProcessPool

import ml_collections

from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.planning import compilation, devices
from bert_jax.planning.chips import Topology
from bert_jax.planning.compilation import Compiled

_pool = None
_said = None  # a file: what the pool's process says to standard error


class CompilerCrashed(UserError):
    """The compiler ended its process."""


def compile_phase(config: ml_collections.ConfigDict, topology: Topology, phase: config_lib.Phase) -> Compiled:
    """As compilation.compile_phase.

    Raises:
      CompilerCrashed: the compiler did not survive the step.
      UserError: as compilation.compile_phase.
    """
    global _pool
    if _pool is None:
        _start()
    try:
        return _pool.submit(compilation.compile_phase, config, topology, phase).result()
    except BrokenProcessPool as error:
        _pool = None
        reason = re.search(r"\*\*\* (SIG\w+)", _said.read_text(errors="replace"))
        raise CompilerCrashed(
            f"{topology.label}{phase.name}: the compiler crashed{f' ({reason[1]})' if reason else ''} with "
            f"config.model.remat={config.model.remat}; another policy may compile, such as --config.model.remat=none"
        ) from error


def _start():
    global _pool, _said
    if _said is None:
        folder = tempfile.TemporaryDirectory(prefix="bert_jax_plan_")
        atexit.register(folder.cleanup)
        _said = pathlib.Path(folder.name) / "stderr"
    _said.write_text("")
    _pool = concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(str(_said),)
    )


def _prepare(said):
    """In the new process: hundreds of lines of a crash go into a file; a refusal comes back as an error."""
    file = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 2)
    os.close(file)
    devices.prepare_environment()
