"""Writes a run's metrics to metrics.jsonl, to TensorBoard events and to a progress line.

A row is a flat dict of JSON values that begins with `step`, the number of steps done. A full disk costs a logger its
rows at most, never the run.

In gs://, where no file grows, metrics.jsonl and TensorBoard's events are rewritten at every `flush`, that is with every
checkpoint and at the end.
"""

import contextlib
import dataclasses
import importlib.util
import io
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import IO, Protocol

import ml_collections

from bert_jax import _moved, files, storage
from bert_jax.config.recipes import flat, listed
from bert_jax.errors import UserError
from bert_jax.objectives.language_modeling import mlm_headline
from bert_jax.processes import distributed
from bert_jax.runs import progress, trackers
from bert_jax.runs.progress import Progress, progress_line

__all__ = ["Progress", "progress_line"]  # their home is progress.py

Say = Callable[[str], None]
# Activities that a run's time is divided into: waiting for the next batch; steps; steps that were compiled first;
# evaluation; checkpoints (while one is written in the background, only the time that the run waits); the log, and the
# norms that it needs.
ACTIVITIES = ("data", "step", "compilation", "evaluation", "saving", "logging")
# Keys of a row that differ between two runs of one config; time/* in seconds since the last row that has them.
TIMINGS = ("tokens_per_second", "rows_per_second", "mfu", *(f"time/{activity}" for activity in ACTIVITIES))
# Keys of the rows of several processes that differ likewise; training/hosts.py says what they are.
HOSTS = ("slowest_host", "slowest_host_seconds", "slowest_host_ratio")


class Logger(Protocol):
    """Receives the rows of a run."""

    def write(self, row: Mapping) -> None: ...

    def flush(self) -> None:
        """Makes what was written survive a crash of the machine, not only of the process."""

    def close(self) -> None: ...


def open_loggers(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    step: int,
    num_steps: int,
    say: Say,
    headline: Callable[[Mapping], str] = mlm_headline,
) -> list[Logger]:
    """Opens the loggers of a run that has done `step` steps; rows of later steps are cut off.

    Args:
      config: the run's config; reads train.loggers, train.tensorboard and train.progress.
      workdir: the run's workdir.
      step: number of steps done.
      num_steps: number of steps of the whole run.
      say: called with each line that the user should see.
      headline: returns the evaluation in a row in words, for the progress line.
    """
    remote = storage.is_remote(workdir)
    loggers: list[Logger] = [(RemoteMetricsFile if remote else MetricsFile)(workdir / "metrics.jsonl", step, say)]
    for name in chosen_loggers(config):
        loggers.append(REGISTRY[name].open(config, workdir, step, say))
    if config.train.progress:
        loggers.append(Progress(num_steps, headline=headline))
    return loggers


def chosen_loggers(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the names in config.train.loggers, without "tensorboard" where config.train.tensorboard is False."""
    names = dict.fromkeys(listed(config.train.loggers))
    return [name for name in names if name != "tensorboard" or config.train.tensorboard]


def check_installed(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the package of one of the run's loggers is not installed."""
    for name in chosen_loggers(config):
        package = REGISTRY[name].package
        if package and importlib.util.find_spec(package) is None:
            raise UserError(
                f"config.train.loggers: {name} needs the package {package}, which is not installed; expected it "
                f"(pip install 'bert_jax[{name}]'), or other loggers"
            )


class MetricsFile:
    """Writes metrics.jsonl: one row a line, in the order of steps, each step once."""

    def __init__(self, path: pathlib.Path, step: int, say: Say):
        self._path, self._step, self._say = path, step, say
        self._file: IO[bytes] | None = None
        self._size, self._waiting, self._warned = 0, b"", False
        self._write_waiting()

    def write(self, row: Mapping) -> None:
        self._waiting += _line(row)
        self._write_waiting()

    def flush(self) -> None:
        self._write_waiting()
        with contextlib.suppress(OSError):  # a warning has been given
            if self._file:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        if self._file:
            self._file.close()

    def _write_waiting(self):
        try:
            file = self._file or self._open()
            written = file.write(self._waiting)
            if written < len(self._waiting):
                raise OSError("No space left on device")
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._file:
                    os.ftruncate(self._file.fileno(), self._size)  # no torn line; the rows wait for room
            if not self._warned:
                self._say(f"warning: {self._path}: {error.strerror or error}; its rows wait in memory")
            self._warned = True
            return
        self._size += written
        self._waiting, self._warned = b"", False

    def _open(self):
        file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 (a row is one write)
        try:
            self._size = _end_of_step(file, self._step)
            file.truncate(self._size)
        except OSError:
            file.close()
            raise
        self._file = file
        return file


class RemoteMetricsFile:
    """Writes metrics.jsonl to an object store: rows are kept in memory, and `flush` writes all of them."""

    def __init__(self, path: pathlib.Path, step: int, say: Say):
        self._path, self._say, self._warned = str(path), say, False
        try:
            self._rows = bytearray(storage.read(self._path))
        except FileNotFoundError:
            self._rows = bytearray()
        end = _end_of_step(io.BytesIO(self._rows), step)
        self._waiting = end < len(self._rows)
        del self._rows[end:]

    def write(self, row: Mapping) -> None:
        self._rows += _line(row)
        self._waiting = True

    def flush(self) -> None:
        if not self._waiting:
            return
        try:
            storage.write(self._path, bytes(self._rows))
        except (UserError, OSError) as error:
            if not self._warned:
                self._say(f"warning: {error}; rows of metrics wait in memory")
            self._warned = True
            return
        self._waiting = self._warned = False

    def close(self) -> None:
        self.flush()


class TensorBoard:
    """Writes event files to WORKDIR/tensorboard: every number of a row is a scalar."""

    def __init__(self, directory: pathlib.Path, step: int, say: Say):
        self._directory = directory
        self._step = step
        self._say = say
        self._writer = None
        self._full = False

    def write(self, row: Mapping) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = {key: value for key, value in row.items() if key != "step" and value is not None}
        values = [Summary.Value(tag=key, simple_value=value) for key, value in scalars.items()]
        event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        self._try(lambda: self._open().write_event(event))

    def flush(self) -> None:
        if self._writer is not None:
            self._try(self._writer.flush)

    def close(self) -> None:
        if self._writer is not None:
            self._try(self._writer.close)

    def _open(self):
        # At the first row: the import is slow. The writer of events itself, because SummaryWriter hands
        # them to a thread that a full disk ends, and then blocks.
        if self._writer is None:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            self._directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(self._directory / "events"), f".{os.getpid()}")
            start = SessionLog(status=SessionLog.START)  # hides rows of these steps in older files
            self._writer.write_event(Event(wall_time=time.time(), step=self._step + 1, session_log=start))
        return self._writer

    def _try(self, action):
        if self._full:
            return
        try:
            action()
        except OSError as error:
            self._full = True
            self._say(f"warning: {self._directory}: {error.strerror}; TensorBoard gets no more rows")


class RemoteTensorBoard(TensorBoard):
    """Writes event files to an object store, by way of a local folder that is copied at `flush`."""

    def __init__(self, directory: pathlib.Path, step: int, say: Say):
        self._folder = tempfile.TemporaryDirectory(prefix="bert_jax-tensorboard-")
        self._url, self._warned = str(directory), False
        super().__init__(pathlib.Path(self._folder.name), step, say)

    def flush(self) -> None:
        super().flush()
        self._copy()

    def close(self) -> None:
        super().close()
        self._copy()
        self._folder.cleanup()

    def _copy(self):
        try:
            storage.upload_folder(self._directory, self._url)
            self._warned = False
        except (UserError, OSError) as error:
            if not self._warned:
                self._say(f"warning: {error}; TensorBoard's events wait in {self._directory}")
            self._warned = True


@dataclasses.dataclass(frozen=True)
class Entry:
    """Describes a logger that config.train.loggers can name.

    Attributes:
      open: (config, workdir, step, say) -> the logger; see `open_loggers`.
      package: the optional package that it needs; "" for none.
    """

    open: Callable[[ml_collections.ConfigDict, pathlib.Path, int, Say], Logger]
    package: str = ""


def _tensorboard(config, workdir, step, say):
    kind = RemoteTensorBoard if storage.is_remote(workdir) else TensorBoard
    return kind(workdir / "tensorboard", step, say)


def _tracker(kind):
    return lambda config, workdir, step, say: kind(flat(config), workdir, say)


# The loggers by name; config/pretraining_keys.py lists the names.
REGISTRY = {
    "tensorboard": Entry(_tensorboard),
    "wandb": Entry(_tracker(trackers.WandB), "wandb"),
    "mlflow": Entry(_tracker(trackers.MLflow), "mlflow"),
}


def say(text: str) -> None:
    """Prints a line for the user, clear of a progress line on the terminal; only process 0 prints."""
    if distributed.is_first():
        progress.say_line(text)


def _line(row):
    finite = {key: None if _is_not_finite(value) else value for key, value in row.items()}
    return files.json_line(finite).encode() + b"\n"


def _end_of_step(file, step):
    """Returns the number of bytes up to the end of the last whole row that is not past `step`."""
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    end = sum(map(len, lines))
    for line in reversed(lines):
        try:
            if line.endswith(b"\n") and files.parse_object(line)["step"] <= step:
                break
        except (ValueError, KeyError, TypeError):
            pass  # torn
        end -= len(line)
    return end


def _is_not_finite(value):
    return isinstance(value, float) and not math.isfinite(value)


def __getattr__(name):
    return _moved.find("runs.loggers", name)
