"""Traces some steps with the JAX profiler, for TensorBoard, XProf or Perfetto."""

import contextlib
import pathlib
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping

import jax

from bert_jax import storage
from bert_jax.processes import distributed

REQUEST = "profile-now"  # file in the workdir that asks for a trace
STEPS = 5  # traced on request where config.profile.num_steps is 0
_LOOK_SECONDS, _LOOK_SECONDS_REMOTE = 1.0, 30.0  # between two looks for the file


class Requests:
    """Hears while inside that somebody wants the next steps traced.

    A SIGUSR1 to any process, or a file WORKDIR/profile-now, which is removed, asks for it; all processes then begin
    after the same step. In a program whose main thread is not the one that trains, the file alone counts.

    Args:
      workdir: the run's workdir.
    """

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / REQUEST
        self._seconds = _LOOK_SECONDS_REMOTE if storage.is_remote(workdir) else _LOOK_SECONDS
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name=REQUEST, daemon=True)

    def __enter__(self):
        self._notice, self._stack = distributed.RepeatedNotice(), contextlib.ExitStack()
        self._stack.callback(self._notice.close)
        number = getattr(signal, "SIGUSR1", None)  # Windows has none
        if number and threading.current_thread() is threading.main_thread():
            before = signal.signal(number, lambda *_: self._notice.request("SIGUSR1"))
            self._stack.callback(signal.signal, number, before)
        if distributed.is_first():
            self._thread.start()
        return self

    def after(self, done: int) -> bool:
        """Returns whether to trace the steps behind `done` steps; every process must ask after every step."""
        return bool(self._notice.after(done))

    def _look(self):
        while not self._closed.wait(self._seconds):
            with contextlib.suppress(Exception):  # storage that cannot be reached for the moment
                if self._path.exists():
                    self._path.unlink()
                    self._notice.request(REQUEST)

    def __exit__(self, *exception):
        self._closed.set()
        return self._stack.__exit__(*exception)


class Trace:
    """Traces config.profile.num_steps steps into a directory, if it is not 0, and further ones on request.

    They are counted from the process's first step, so that a run that continues is traced too; the first steps compile,
    which is why config.profile.first_step is over 0. In a multi-process run the first process traces its own devices;
    on request every process does, process N over 0 into process-N of the directory. A trace that fails costs a warning.

    Args:
      profile: config.profile.
      directory: directory of the traces, each in plugins/profile/TIME. A remote one gets a copy when tracing ends.
      begins: the process's first step.
      say: called with each line for the user.
    """

    def __init__(self, profile: Mapping, directory: pathlib.Path, begins: int, say: Callable[[str], None]):
        self._first = begins + profile["first_step"]
        self._stop = self._first + profile["num_steps"]
        self._on_request = max(0, profile["num_steps"]) or STEPS
        self._traces = distributed.is_first()
        self._directory = directory if self._traces else directory / f"process-{distributed.process_number()}"
        self._folder = None  # local folder of the traces of a remote directory
        self._say = say
        self._running = False

    def request(self, done: int) -> None:
        """Has the steps behind `done` steps traced, unless some are being traced; called on every process."""
        if self._first <= done < self._stop:
            return
        self._first, self._stop, self._traces = done, done + self._on_request, True
        self._say(f"tracing {self._on_request} steps after step {done:,}")

    def before(self, step: int, metrics) -> None:
        """Starts or ends the trace before a step.

        Args:
          step: number of the step.
          metrics: device results of the step before, which are waited for if the trace ends.
        """
        if self._running and step == self._stop:
            jax.block_until_ready(metrics)
            self.close()
        if step == self._first < self._stop and self._traces:
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
