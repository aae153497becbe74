"""Traces some steps with the JAX profiler, for TensorBoard, XProf or Perfetto."""

import pathlib
import tempfile
from collections.abc import Callable, Mapping

import jax

from bert_jax import storage
from bert_jax.processes import distributed


class Trace:
    """Traces config.profile.num_steps steps into a directory, if it is not 0.

    They are counted from the process's first step, so that a run that continues is traced too; the first steps compile,
    which is why config.profile.first_step is over 0. In a multi-process run the first process traces its own devices. A
    trace that fails costs a warning.

    Args:
      profile: config.profile.
      directory: directory of the traces, each in plugins/profile/TIME. A remote one gets a copy when tracing ends.
      begins: the process's first step.
      say: called with each line for the user.
    """

    def __init__(self, profile: Mapping, directory: pathlib.Path, begins: int, say: Callable[[str], None]):
        self._first = begins + profile["first_step"]
        self._stop = self._first + profile["num_steps"]
        self._directory = directory
        self._folder = None  # local folder of the traces of a remote directory
        self._say = say
        self._running = False

    def before(self, step: int, metrics) -> None:
        """Starts or ends the trace before a step.

        Args:
          step: number of the step.
          metrics: device results of the step before, which are waited for if the trace ends.
        """
        if self._running and step == self._stop:
            jax.block_until_ready(metrics)
            self.close()
        if step == self._first < self._stop and distributed.is_first():
            self._running = self._try(self._start)

    def close(self) -> None:
        """Ends the trace, if there is one, and writes it."""
        if self._running:
            self._running = False
            if self._try(self._stop_and_copy):
                self._say(f"profile of the steps from {self._first + 1:,} on: {self._directory}")

    def _start(self):
        if storage.is_remote(self._directory):
            self._folder = tempfile.TemporaryDirectory(prefix="bert_jax-profile-")
        jax.profiler.start_trace(self._folder.name if self._folder else self._directory)

    def _stop_and_copy(self):
        jax.profiler.stop_trace()
        if self._folder:
            storage.upload_folder(pathlib.Path(self._folder.name), str(self._directory))
            self._folder.cleanup()

    def _try(self, action):
        try:
            action()
        except Exception as error:  # the profiler raises many kinds: a full disk, another profile, no driver
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._say(f"warning: {self._directory}: no profile: {reason}")
            return False
        return True
