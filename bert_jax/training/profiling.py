"""Traces of some steps by the JAX profiler, for TensorBoard, XProf or Perfetto."""

import pathlib
import tempfile
from collections.abc import Callable, Mapping

import jax

from bert_jax import storage
from bert_jax.processes import distributed


class Trace:
    """Traces config.profile.num_steps steps into a directory, if it is not 0.

    They are counted from the step at which the process begins, so that a run that continues is traced too; the first
    ones compile, which is why config.profile.first_step is over 0. Of several processes the first one traces, its own
    devices. A trace that cannot be made costs a warning.

    Args:
      profile: config.profile.
      directory: of the traces; each lies in plugins/profile/TIME. A remote one gets a copy when tracing ends.
      begins: the step that the process does first.
      say: tells the user.
    """

    def __init__(self, profile: Mapping, directory: pathlib.Path, begins: int, say: Callable[[str], None]):
        self._first = begins + profile["first_step"]
        self._stop = self._first + profile["num_steps"]
        self._directory = directory
        self._folder = None  # of a remote directory's traces here
        self._say = say
        self._running = False

    def before(self, step: int, metrics) -> None:
        """To be called before each step, with the device's results of the one before, which is waited for."""
        if self._running and step == self._stop:
            jax.block_until_ready(metrics)
            self.close()
        if step == self._first < self._stop and distributed.is_first():
            self._running = self._tried(self._start)

    def close(self) -> None:
        """Ends and writes what is being traced."""
        if self._running:
            self._running = False
            if self._tried(self._stop_and_copy):
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

    def _tried(self, action):
        try:
            action()
        except Exception as error:  # whatever the profiler meets: a full disk, another profile, no driver
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._say(f"warning: {self._directory}: no profile: {reason}")
            return False
        return True
