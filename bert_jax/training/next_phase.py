"""Compiles the step of a run's next phase on a thread, while steps of the phase before it run.

jit does not call what `jitted.lower(...).compile()` returns (jax 0.10.2 traces and compiles again, or reads the
compilation cache), so that the executable itself is called here.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bert_jax import interruption
from bert_jax.config.run_phases import Phase, phase_at
from bert_jax.runs.loggers import say

Shapes = Mapping[str, tuple[int, ...]]  # by name of the array


class Step:
    """Calls a jitted step of training, or its executable where a thread has compiled it for the shapes of the batch.

    A call waits for a thread that still compiles its shapes. Where that failed, jit compiles as if there were none.

    Args:
      function: the jitted function of (state, batch, step, key, *more).
      more: arguments that end every call, such as a teacher's parameters.
    """

    def __init__(self, function: jax.stages.Wrapped, more: Sequence[Any] = ()):
        self._function, self._more = function, tuple(more)
        self._ahead: dict[tuple, _Compilation] = {}

    def __call__(self, state: Any, batch: Mapping, *others: Any) -> Any:
        """Returns what the function returns for these arguments; a state that it consumes is gone."""
        arguments = (state, batch, *others, *self._more)
        compilation = self._ahead.get(_key(_shapes(batch))) if self._ahead else None
        if compilation and (executable := compilation.result()):
            try:
                return executable(*arguments)
            except (TypeError, ValueError):  # raised before it runs: arguments of other types or layouts
                compilation.cancel()
        return self._function(*arguments)

    def compile_ahead(self, shapes: Shapes, arguments: Callable[[], Sequence[Any]]) -> None:
        """Starts to compile the step for batches of these shapes, if it has not been started.

        Args:
          shapes: the shape of each array of the batch.
          arguments: returns the shapes, dtypes and layouts of (state, batch, step, key); called on the thread.
        """
        if _key(shapes) not in self._ahead:
            self._ahead[_key(shapes)] = _Compilation(lambda: self._function.lower(*arguments(), *self._more))

    def is_compiled(self, batch: Mapping) -> bool:
        """Returns whether a thread has compiled the step for batches of this shape."""
        compilation = self._ahead.get(_key(_shapes(batch))) if self._ahead else None
        return compilation is not None and compilation.is_ready

    def cancel(self) -> None:
        """Keeps compilations that have not begun from beginning."""
        for compilation in self._ahead.values():
            compilation.cancel()


class _Compilation:
    """Compiles a program on a thread, which the end of the process does not wait for (`without_shutdown`)."""

    def __init__(self, lower):
        self._lower, self._executable, self._cancelled = lower, None, False
        self._thread = threading.Thread(target=self._compile, name="compiles-ahead")
        interruption.note_thread(self._thread)
        self._thread.start()

    @property
    def is_ready(self):
        """Returns whether there is an executable."""
        return self._executable is not None

    def result(self):
        """Returns the executable, which may be waited for; None if there is none."""
        self._thread.join()
        return self._executable

    def cancel(self):
        self._executable, self._cancelled = None, True

    def _compile(self):
        try:
            lowered = self._lower()
            executable = None if self._cancelled else lowered.compile()
        except Exception as error:  # the main thread compiles then, and raises what is wrong
            reason = (str(error).splitlines() or [""])[0][:200]
            say(f"warning: the next phase's step is compiled when it is reached: {type(error).__name__}: {reason}")
            return
        if not self._cancelled:
            self._executable = executable


class NextPhase:
    """Starts to compile the next phase's step halfway through what this process does of a phase.

    That is late enough not to slow down its first steps, and at the same step on every process.

    Args:
      phases: the run's phases.
      program_of: returns the step of a phase, and the shapes of its batches.
      arguments_of: returns what `Step.compile_ahead` needs of a phase.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        program_of: Callable[[Phase], tuple[Step, Shapes]],
        arguments_of: Callable[[Phase], Sequence[Any]],
    ):
        self._phases = [phase for phase in phases if phase.start < phase.stop]
        self._program_of, self._arguments_of = program_of, arguments_of
        self._begun: int | None = None  # the first step of this process
        self._considered: set[int] = set()  # phases whose next one needs no further look

    def before(self, index: int) -> None:
        """Starts to compile if this is the moment; called before every step, counted from 0."""
        if self._begun is None:
            self._begun = index
        phase = phase_at(self._phases, index)
        halfway = (max(self._begun, phase.start) + phase.stop) // 2
        if phase.index in self._considered or index < halfway or index == self._begun:
            return
        self._considered.add(phase.index)
        following = phase_at(self._phases, phase.stop)
        if following.index == phase.index:
            return
        known = [other for other in self._phases if self._begun < other.stop <= phase.stop]
        step, shapes = self._program_of(following)
        if (step, shapes) not in [self._program_of(other) for other in known]:
            step.compile_ahead(shapes, lambda: self._arguments_of(following))

    def cancel(self) -> None:
        """Keeps compilations that have not begun from beginning."""
        for phase in self._phases:
            self._program_of(phase)[0].cancel()


def _shapes(batch):
    return {name: array.shape for name, array in batch.items()}


def _key(shapes):
    return tuple(sorted(shapes.items()))
