"""Compiles in a separate process: libtpu's compiler was seen to crash, which must not end a plan."""

import atexit
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import re
import signal
import tempfile
import traceback

import ml_collections

from bert_jax import config as config_lib
from bert_jax import interruption
from bert_jax.errors import UserError
from bert_jax.planning import compilation, devices
from bert_jax.planning.chips import Topology
from bert_jax.planning.compilation import Compiled
from bert_jax.processes import signals

_worker = None


class CompilerCrashed(UserError):
    """Reports that the compiler ended its process."""


class NotCompiled(UserError):
    """Reports that the compiler's process was killed or did not start, which says nothing about the recipe."""


def compile_phase(config: ml_collections.ConfigDict, topology: Topology, phase: config_lib.Phase) -> Compiled:
    """Runs compilation.compile_phase in a separate process, which is started once and kept.

    A script that calls this must guard its main code with `if __name__ == "__main__"`.

    Raises:
      CompilerCrashed: the compiler did not survive the step.
      NotCompiled: its process was killed from outside, or did not start.
      UserError: as compilation.compile_phase.
    """
    global _worker
    if _worker is None:
        _worker = _Worker()
    data = phase.data.copy_and_resolve_references()
    job = config.copy_and_resolve_references(), topology, dataclasses.replace(phase, data=data)
    try:
        kind, value = _worker.ask(job)
    except BaseException as error:  # the process ended, or Ctrl-C
        worker, _worker = _worker, None
        worker.end()
        if not isinstance(error, (EOFError, OSError)):
            raise
        raise worker.reason(f"{topology.label}{phase.name}", config.model.remat) from error
    if kind == "refused":
        raise UserError(value)
    if kind == "failed":
        raise RuntimeError(value)
    return value


class _Worker:
    """Controls a process that compiles what it is sent, with its standard error in a file."""

    def __init__(self):
        stack = contextlib.ExitStack()
        atexit.register(stack.close)
        folder = tempfile.TemporaryDirectory(prefix="bert_jax_plan_")
        stack.callback(folder.cleanup)
        stack.enter_context(interruption.before_end(folder.cleanup))
        self._stderr = pathlib.Path(folder.name) / "stderr"
        self._stderr.write_text("")
        context = multiprocessing.get_context("spawn")
        self._connection, far_end = context.Pipe()
        self._process = context.Process(target=_compile_all, args=(far_end, str(self._stderr)), daemon=True)
        with interruption.not_for_children():
            self._process.start()
        far_end.close()
        self._started = False

    def ask(self, job):
        if not self._started:
            self._connection.recv()
            self._started = True
        self._connection.send(job)
        return self._connection.recv()

    def end(self):
        self._process.join(timeout=1)
        self._process.kill()
        self._process.join()

    def reason(self, where, remat):
        """Returns the error that says how the process ended."""
        code, stderr = self._process.exitcode, self._stderr.read_text(errors="replace")
        assert code is not None, "end() waits for the process"
        if not self._started:
            last = (stderr.strip().splitlines() or [""])[-1]
            return NotCompiled(f"{where}: the compiler's process did not start (exit code {code}): {last}")
        if code == -signal.SIGKILL:
            return NotCompiled(
                f"{where}: the compiler's process was killed, as by a machine that is out of memory; use one with more"
            )
        signal_name = re.search(r"\*\*\* (SIG\w+)", stderr)
        name = signal_name[1] if signal_name else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        advice = "" if remat == "none" else "; another policy may compile, such as --config.model.remat=none"
        return CompilerCrashed(f"{where}: the compiler crashed ({name}) with config.model.remat={remat}{advice}")


def _compile_all(connection, stderr):
    """Compiles in the new process what it receives; the hundreds of lines of a crash go into a file."""
    signals.end_with_parent()
    try:
        file = os.open(stderr, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:  # the parent has ended
        return
    os.dup2(file, 2)
    os.close(file)
    devices.prepare_environment()
    connection.send("ready")
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            answer = "compiled", compilation.compile_phase(*job)
        except UserError as error:
            answer = "refused", str(error)
        except Exception:
            answer = "failed", traceback.format_exc()
        connection.send(answer)
