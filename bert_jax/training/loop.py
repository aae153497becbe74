"""Runs the training loop that pre-training and fine-tuning share."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax import _moved, interruption, sharding
from bert_jax import model as model_lib
from bert_jax.diagnosis import start
from bert_jax.errors import UserError
from bert_jax.processes import distributed
from bert_jax.processes.watchdog import Watchdog
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.checkpoints import Checkpoints
from bert_jax.runs.loggers import open_loggers, say
from bert_jax.runs.progress import Progress
from bert_jax.runs.report import Reports
from bert_jax.training import hosts, profiling, runtime
from bert_jax.training.placement import PlacedBatches
from bert_jax.training.throughput import Clock


def train(run: "Run", state: dict, done: int) -> dict[str, float] | None:
    """Trains from step `done` on, to the end of the run or to a signal, and saves the last step.

    Args:
      run: the kind of training.
      state: the state after `done` steps; consumed.
      done: number of steps done.

    Returns:
      the held-out metrics of the last step, {} if it was not evaluated; None where a signal ended the run early.

    Raises:
      UserError: training cannot go on, or the last checkpoint could not be saved.
    """
    config, checkpoints, num_steps = run.config, run.checkpoints, run.num_steps
    with contextlib.ExitStack() as stack:
        is_first = distributed.is_first()
        loggers = open_loggers(config, run.workdir, done, num_steps, say, run.headline) if is_first else []
        stack.push(lambda error, *_: checkpoints.close(together=error is None))
        for logger in loggers:
            stack.callback(logger.close)
        signals = stack.enter_context(StopSignals())
        everywhere = sharding.replicated(run.mesh)
        key = sharding.put(run.key, everywhere)
        trace = profiling.Trace(config.profile, run.workdir / "profile", done, say)
        stack.callback(trace.close)
        traces = stack.enter_context(profiling.Requests(run.workdir))
        timer = stack.enter_context(SaveTimer(config.train.checkpoint_minutes))
        clock = Clock(run.flops, run.mesh)
        stack.enter_context(Watchdog(config.train.hang_seconds, run.workdir, lambda: (clock.activity, done)))
        live = next((logger for logger in loggers if isinstance(logger, Progress)), None)
        huge_pages = runtime.HugePages()
        before, held_out, stop = (), {}, ""
        clock.start("data")
        batches = stack.enter_context(
            PlacedBatches(run.batches(done), lambda batch, index: (run.put(batch), sharding.put(index, everywhere)))
        )
        for index, batch, inputs in batches:
            clock.start("logging")
            run.enter(index)
            trace.before(index, before)
            clock.start("step")
            with jax.transfer_guard("disallow"), jax.transfer_guard_device_to_host("disallow_explicit"):
                logs = (index + 1) % config.train.log_every == 0 or index + 1 == num_steps
                norms = _norms(run, clock, before, state, inputs, key) if logs and run.norms else {}
                compiles = clock.compiles(inputs[0], run.train_step, run.is_compiled(inputs[0]))
                with live.compiling(index + 1) if live and compiles else contextlib.nullcontext():
                    with jax.profiler.StepTraceAnnotation("train", step_num=index):
                        state, metrics = run.train_step(state, *inputs, key)
                    with clock.waiting_for_devices():  # one step runs and one waits: devices stay busy, the host near
                        jax.block_until_ready(before)
                    before, done = metrics, index + 1
                    huge_pages.after(compiles)
                    clock.count(inputs[0], metrics, batch, run.train_step)
            if live is not None:
                live.advance(done, clock.tokens_per_second)
            evaluates, saves = run.due(done)
            signals.step_done()
            stop = signals.after(done)
            saves = timer.after(done) or saves or bool(stop)
            if traces.after(done):
                trace.request(done)
            if not (logs or evaluates or saves):
                clock.start("data")
                continue

            with clock.waiting_for_devices(covers=False):
                run.check(state, done, saves)
            clock.start("logging")
            row = run.row(jax.device_get(metrics | norms)) if logs else {}
            clock.start("evaluation")
            state, held_out = run.evaluate(state, done) if evaluates else (state, {})
            clock.start("logging")
            row |= hosts.slowest(clock.step_seconds()) | clock.take() if logs else {}
            last = done == num_steps or bool(stop) or run.over
            if stop:
                run.checkpoints.hurry()
            _record(run, state, done, row, held_out, saves, last, loggers, clock)
            if saves:
                timer.restart()
            clock.start("data")
            if last:
                break

        clock.start("saving")
        _check_saved(run, done)
        if stop and done < num_steps and not run.over:
            signals.acted(stop)
            say(f"{stop}: stopped at step {done:,} with a checkpoint; start the same command again to continue")
            return None
        return held_out


class SaveTimer:
    """Says while inside after which steps a checkpoint is due by time, the same on every process.

    Process 0 looks at its clock; the others hear of it as of a signal, and no step waits for that.

    Args:
      minutes: minutes after the last checkpoint; 0 for none by time.
    """

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes
        self._notice: distributed.RepeatedNotice | None = None

    def __enter__(self):
        self._notice = distributed.RepeatedNotice() if self._seconds else None
        self.restart()
        return self

    def after(self, done: int) -> bool:
        """Returns whether a checkpoint is due after `done` steps; every process must ask after every step."""
        if self._notice is None:
            return False
        if distributed.is_first() and time.monotonic() - self._since > self._seconds:
            self._notice.request("time")
        return bool(self._notice.after(done))

    def restart(self) -> None:
        """Notes that a checkpoint is being saved now."""
        self._since = time.monotonic()

    def __exit__(self, *exception):
        if self._notice is not None:
            self._notice.close()


def _record(run, state, done, row, held_out, saves, last, loggers, clock):
    """Logs a step's metrics, saves the state if that is due or the run ends, and writes the report."""
    if row or held_out:
        for logger in loggers:
            logger.write({"step": done} | row | held_out)
    clock.start("saving")
    run.checkpoints.finish_save(wait=False)
    if saves or last:
        for logger in loggers:
            logger.flush()  # resuming cuts rows to the checkpoint, so none may be missing before it
        run.save(state, done, held_out)
    if held_out or last:
        clock.start("logging")
        run.report(state, last)


def _check_saved(run, done):
    """Waits until the checkpoint of step `done` is complete. Raises UserError, on every process, if it is not."""
    run.checkpoints.finish_save()
    if distributed.broadcast(run.checkpoints.newest) != done:
        raise UserError(
            f"{run.workdir}: the checkpoint of step {done} could not be saved; "
            f"{last_good(run.checkpoints)}; make room and start the same command again"
        )


def _norms(run, clock, before, state, inputs, key):
    """Computes norms of the next step. Waits before and after, so that their time does not count as a step's."""
    jax.block_until_ready(before)
    clock.start("logging")
    norms = jax.block_until_ready(run.norms(state["params"], *inputs, key))
    clock.start("step")
    return norms


class Run:
    """Provides the loop with what differs between kinds of training.

    Attributes:
      config: the run's config; the loop reads train.log_every, checkpoint_minutes, hang_seconds,
        tensorboard and progress, and profile.
      workdir: the run's directory, claimed and written.
      num_steps: number of steps of the whole run.
      mesh: the mesh of devices.
      checkpoints: the run's checkpoints.
      train_step: compiled (state, batch, step, key) -> (state, metrics).
      key: the PRNG key that every step gets.
      headline: maps a row of the log to its evaluation in words; "" where it has none.
      over: whether the run ends before num_steps.
      recipe: the config of the recipe as it was before it was changed; None where that is not known.
      norms: compiled (params, batch, step, key) -> what is logged of a step beside its metrics, or None.
    """

    config: Any
    workdir: Any
    num_steps: int
    mesh: jax.sharding.Mesh
    checkpoints: Checkpoints
    train_step: Callable
    key: jax.Array
    headline: Callable[[Mapping], str]
    over = False
    recipe: Any = None
    _reports: Reports | None = None
    norms = None

    def warn(self, begins: bool) -> None:
        """Says what the doctor would find in the run before its first step; `begins`: whether it has not begun."""
        if begins and distributed.is_first():
            run = workdir_lib.read(self.workdir)[0]
            for line in start.warnings(self.config, run, self.workdir, self.recipe):
                say(line)

    def batches(self, done: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields (step, batch) from step `done` on; arrays [rows, ...] hold the rows of this process's devices."""
        raise NotImplementedError

    def enter(self, index: int) -> None:
        """Prepares for a step, counted from 0: a run whose phases have programs of their own sets train_step and norms.

        It is called before every step, and must be cheap.
        """

    def is_compiled(self, batch: Mapping[str, jax.Array]) -> bool:
        """Returns whether train_step was compiled for batches of this shape before it was called with one."""
        return False

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Returns the batch on the mesh, arrays [batch, ...] with the rows of all processes; called on any thread."""
        return sharding.put_rows(batch, self.mesh)

    def flops(self, batch: Mapping) -> float:
        """Returns the FLOPs of a step on a batch, arrays [batch, ...]."""
        raise NotImplementedError

    def due(self, done: int) -> tuple[bool, bool]:
        """Returns (whether to evaluate, whether to save) after `done` steps."""
        raise NotImplementedError

    def check(self, state: dict, done: int, saves: bool) -> None:
        """Raises UserError if training cannot go on from this state."""
        raise NotImplementedError

    def row(self, metrics: dict) -> dict[str, float]:
        """Returns what is logged of a step's metrics."""
        return {name: float(value) for name, value in metrics.items()}

    def evaluate(self, state: dict, done: int) -> tuple[dict, dict[str, float]]:
        """Returns the state, which may record the evaluation, and the held-out metrics."""
        raise NotImplementedError

    def report(self, state: dict, last: bool) -> None:
        """Writes report.html; `last`: whether the run ends here, with this state."""
        if not self.config.train.report or not (distributed.is_first() or last):
            return
        samples = ()
        try:
            samples = self.samples(state) if last else ()
        except Exception as error:  # a report must not end a run
            say(f"warning: no samples of predictions: {type(error).__name__}: {str(error)[:200]}")
        if distributed.is_first():
            self._reports = self._reports or Reports(
                self.workdir, self.config, self.recipe, self.num_steps, describe_devices()
            )
            if warning := self._reports.write(last, samples):
                say(warning)

    def samples(self, state: dict) -> Sequence[Mapping[str, str]]:
        """Returns a few predictions of the model for the report, as short texts with the same keys."""
        return ()

    @_moved.renamed_arguments(figures="held_out")
    def save(self, state: dict, done: int, held_out: dict[str, float]) -> None:
        """Starts to save the state, with the held-out metrics of this step."""
        self.checkpoints.save(done, state, held_out)


def describe_model(model: model_lib.Model, params: dict) -> str:
    """Describes in words a model's size, the dtype it computes in and its devices."""
    return f"{model_lib.parameter_count(params):,} parameters, {model.spec.dtype}, on {describe_devices()}"


def describe_devices() -> str:
    """Describes in words the devices of all processes."""
    devices, processes = jax.devices(), jax.process_count()
    split = f" of {processes} processes" if processes > 1 else ""
    return f"{len(devices)} x {devices[0].device_kind}{split}"


def last_good(checkpoints: Checkpoints) -> str:
    """Says in words which checkpoint a run that failed can go on from."""
    newest = checkpoints.newest()
    return "there is no checkpoint yet" if newest is None else f"the last good checkpoint is step {newest}"


class StopSignals:
    """Catches the first SIGTERM, SIGINT or SIGHUP of any process of the run; a second one ends the process at once.

    Before the first step there is nothing to save: the first signal then ends a run of one process.
    """

    def __enter__(self):
        interruption.note_stop("")
        self._notice, self._stack = distributed.StopNotice(), contextlib.ExitStack()
        self._steps = 0
        self._stack.callback(self._notice.close)
        self._stack.enter_context(
            interruption.end_message("ended at once; what is saved stays; start the same command again to continue")
        )
        self._caught = self._stack.enter_context(interruption.catch(self._receive))
        return self

    def step_done(self) -> None:
        """Notes that there is progress that a signal must not lose."""
        self._steps += 1

    def after(self, done: int) -> str:
        """Returns the signal's name if it ends the run after this step; every process must ask after every step."""
        return self._notice.after(done)

    def acted(self, name: str) -> None:
        """Notes that the run ends early because of the signal of this name."""
        self._caught.acted = True
        interruption.note_stop(name)

    def _receive(self, number):
        if not self._steps and not distributed.is_multiprocess():
            return False
        name = signal.Signals(number).name
        self._notice.request_stop(name)
        interruption.announce(f"{name}: the run stops after this step, with a checkpoint; a second one ends it at once")
        return True

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)


def __getattr__(name):
    return _moved.find("training.loop", name)
