"""The training loop that every kind of training shares, and pre-training, which is one of them."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding, storage
from bert_jax.config.objective import facts as objective_facts
from bert_jax.data import loader
from bert_jax.errors import UserError
from bert_jax.processes import distributed
from bert_jax.runs import checkpoints as checkpoint
from bert_jax.runs import loggers as metrics_lib
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.loggers import say
from bert_jax.training import compilation_cache, initial
from bert_jax.training import step as step_lib
from bert_jax.training import teacher as teacher_lib
from bert_jax.training.adaptation import Adaptation
from bert_jax.training.evaluation import Evaluation, old_corpora
from bert_jax.training.host_memory import keep_freed_memory
from bert_jax.training.norms import make_norms
from bert_jax.training.profiling import Trace
from bert_jax.training.timing import Clock


def pretrain(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> None:
    """Trains as the config says, or continues the run that the workdir holds; returns when it is done.

    SIGTERM or SIGINT ends it early, after the step at hand and with a checkpoint; a second one ends it at once.
    Each process of a run of several calls this, after distributed.initialize; one of them writes what is written once.

    Args:
      config: a recipe's.
      workdir: a local directory, or gs://BUCKET/FOLDER; see workdir.py for what comes to lie there.

    Raises:
      UserError: config, corpus, workdir and devices do not go together; the loss is not finite; or the last
        checkpoint could not be saved.
    """
    config = config.copy_and_resolve_references()
    workdir = workdir_lib.to_path(workdir, "--workdir=")
    config_lib.check_keys(config)
    source = initial.source(config, workdir)
    initial.resolve(config, source, workdir)
    config_lib.validate(config)
    config_lib.check_devices(config, jax.device_count())
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    num_steps = config_lib.num_steps(config)
    mesh = sharding.make_mesh(config.mesh)
    corpora = loader.open_corpora(config)
    config.model.vocab_size = corpora[0].vocab_size
    _check_padding(config, corpora[0].tokenizer)
    teacher = teacher_lib.read(config, mesh, corpora[0].tokenizer)
    identity = teacher.identity if teacher else None
    workdir_lib.check_same_run(workdir, config, corpora, identity)

    with workdir_lib.claim(workdir), compilation_cache.used(config.train.compilation_cache, workdir):
        workdir_lib.check_run(workdir, config, corpora, identity)
        # Finds what the corpus cannot give before the workdir becomes this run's, and makes indexes that are not there.
        distributed.first_then_all(lambda: loader.Loader(config))
        if config.data.old_corpus:
            old_corpora(config, corpora[0].tokenizer)
        model = model_lib.build(config.model, config.model.vocab_size, **objective_lib.heads(config.objective))
        template = step_lib.saved(step_lib.abstract_state(config, model, mesh, num_steps), mesh)
        checkpoints = checkpoint.Checkpoints(workdir, config, say, objective_facts(config).best_metric)
        start = None
        if source:
            objective = objective_lib.make(config, model)
            start = initial.params(config, source, model, corpora[0].tokenizer, say, objective)
        distributed.run_on_first(lambda: workdir_lib.write_pretraining(workdir, config, corpora, identity))

        found = checkpoints.restore(template)
        if found:
            state, done = step_lib.restored(found[0], model, mesh), found[1]
            state["bad_step"] = sharding.put(np.int32(-1), template["bad_step"].sharding)
        else:
            state, done = step_lib.init_state(config, model, mesh, num_steps), 0
            if start:
                start = sharding.put(start, jax.tree.map(lambda leaf: leaf.sharding, template["params"]))
                state["params"] = step_lib.restored(start, model, mesh)
        del source, start, found  # as large as the model
        if done >= num_steps:
            say(f"nothing to do: step {done:,} of {num_steps:,} is done; its checkpoint is in {workdir}")
            return
        say(f"{described(model, state['params'])}; step {done:,} of {num_steps:,}, in {workdir}")

        run = _Pretraining(config, workdir, num_steps, mesh, model, corpora, checkpoints, teacher)
        del teacher  # its parameters lie on the mesh
        run.begin(state, done)
        figures = train(run, state, done)
        if figures is not None:
            say(_summary(figures, num_steps, workdir))


def train(run: "Run", state: dict, done: int) -> dict[str, float] | None:
    """Trains from step `done` on, to the end of the run or to a signal, and saves the last step.

    Returns:
      the figures of the last evaluation, if it was at the last step, else {}; None where a signal ended it early.

    Raises:
      UserError: training cannot go on, or the last checkpoint could not be saved.
    """
    config, checkpoints, num_steps = run.config, run.checkpoints, run.num_steps
    with contextlib.ExitStack() as stack:
        loggers = []
        if distributed.is_first():
            loggers = metrics_lib.open_loggers(config, run.workdir, done, num_steps, say, run.headline)
        stack.push(lambda error, *_: checkpoints.close(together=error is None))
        for logger in loggers:
            stack.callback(logger.close)
        signals = stack.enter_context(_StopSignals())
        everywhere = sharding.replicated(run.mesh)
        key = sharding.put(run.key, everywhere)
        trace = Trace(config.profile, run.workdir / "profile", done, say)
        stack.callback(trace.close)
        clock = Clock(run.flops, run.mesh)
        before, figures, stop = (), {}, ""
        clock.turn_to("data")
        for index, batch in run.batches(done):
            clock.turn_to("logging")
            trace.before(index, before)
            clock.turn_to("step")
            with jax.transfer_guard("disallow"), jax.transfer_guard_device_to_host("disallow_explicit"):
                inputs = run.put(batch), sharding.put(np.int32(index), everywhere)
                logs = (index + 1) % config.train.log_every == 0 or index + 1 == num_steps
                norms = _norms(run, clock, before, state, inputs, key) if logs and run.norms else {}
                with jax.profiler.StepTraceAnnotation("train", step_num=index):
                    state, metrics = run.train_step(state, *inputs, key)
                jax.block_until_ready(before)  # one step runs and one waits: the devices stay busy, the host near
                before, done = metrics, index + 1
                clock.count(inputs[0], metrics)
            evaluates, saves = run.due(done)
            stop = signals.after(done)
            saves = saves or bool(stop)
            if not (logs or evaluates or saves):
                clock.turn_to("data")
                continue

            run.check(state, done, saves)
            clock.turn_to("logging")
            row = run.row(jax.device_get(metrics | norms)) if logs else {}
            clock.turn_to("evaluation")
            state, figures = run.evaluate(state, done) if evaluates else (state, {})
            clock.turn_to("logging")
            row |= clock.take() if logs else {}
            for logger in loggers if row or figures else ():
                logger.write({"step": done} | row | figures)
            clock.turn_to("saving")
            checkpoints.finish_save(wait=False)
            last = done == num_steps or bool(stop) or run.over
            if saves or last:
                for logger in loggers:
                    logger.flush()  # resuming cuts rows to the checkpoint, so none may be missing before it
                run.save(state, done, figures)
            clock.turn_to("data")
            if last:
                break

        checkpoints.finish_save()
        if distributed.broadcast(checkpoints.newest) != done:
            raise UserError(
                f"{run.workdir}: the checkpoint of step {done} could not be saved; "
                f"{last_good(checkpoints)}; make room and start the same command again"
            )
        if stop and done < num_steps and not run.over:
            say(f"{stop}: stopped at step {done:,} with a checkpoint; start the same command again to continue")
            return None
        return figures


def _norms(run, clock, before, state, inputs, key):
    """Norms of the step that comes next. Waits for both sides, so that the time is told apart from that of steps."""
    jax.block_until_ready(before)
    clock.turn_to("logging")
    norms = jax.block_until_ready(run.norms(state["params"], *inputs, key))
    clock.turn_to("step")
    return norms


class Run:
    """What the loop asks of a kind of training.

    Attributes:
      config: the run's; the loop reads train.log_every, train.tensorboard, train.progress and profile.
      workdir: the run's, claimed and written.
      num_steps: of the whole run.
      mesh: of the devices.
      checkpoints: the run's.
      train_step: compiled, (state, batch, step, key) -> (state, metrics).
      key: of the step, the same each time.
      headline: says in words what a row's evaluation found; "" where there was none.
      over: whether the run ends before num_steps.
      norms: compiled, (params, batch, step, key) -> what is logged of a step beside its metrics, or None.
    """

    headline = staticmethod(metrics_lib.mlm_headline)
    over = False
    norms = None

    def batches(self, done: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(step, batch) of the steps from `done` on; of each batch the rows that this process's devices hold."""
        raise NotImplementedError

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """The batch on the mesh, with the rows of all processes."""
        return sharding.put_rows(batch, self.mesh)

    def flops(self, batch: dict[str, np.ndarray]) -> float:
        """FLOPs of a step on a batch."""
        raise NotImplementedError

    def due(self, done: int) -> tuple[bool, bool]:
        """Whether to evaluate, and whether to save, after `done` steps."""
        raise NotImplementedError

    def check(self, state: dict, done: int, saves: bool) -> None:
        """Raises UserError if training cannot go on from this state."""
        raise NotImplementedError

    def row(self, metrics: dict) -> dict[str, float]:
        """What is logged of a step's metrics."""
        return {name: float(value) for name, value in metrics.items()}

    def evaluate(self, state: dict, done: int) -> tuple[dict, dict[str, float]]:
        """The state, which may have been told what was found, and the figures."""
        raise NotImplementedError

    def save(self, state: dict, done: int, figures: dict[str, float]) -> None:
        """Starts to save the state."""
        self.checkpoints.save(done, state, figures)


class _Pretraining(Run):
    def __init__(self, config, workdir, num_steps, mesh, model, corpora, checkpoints, teacher):
        self.config, self.workdir, self.num_steps, self.mesh = config, workdir, num_steps, mesh
        self.checkpoints = checkpoints
        taught_by = teacher and teacher.model
        self.train_step = step_lib.make_train_step(config, model, mesh, num_steps, taught_by)
        self.norms = make_norms(config, model, mesh, taught_by) if config.train.log_norms else None
        if teacher:
            taught = sharding.put(teacher.params, sharding.tree_shardings(teacher.params, mesh))
            self.train_step = _with_last(self.train_step, taught)
            self.norms = self.norms and _with_last(self.norms, taught)
        self.key = step_lib.dropout_key(config)
        self._objective, self._hosts = objective_lib.make(config, model, taught_by), sharding.hosts_of_rows(mesh)
        eval_step = step_lib.make_eval_step(config, model, mesh)
        self._evaluation = Evaluation(config, corpora, eval_step, self.put, self._hosts)
        self._has_held_out = config.train.eval_every > 0 and self._evaluation.possible
        if config.train.eval_every and not self._has_held_out:
            say("no document of the corpus is held out: no evaluation")
        self._adaptation = None
        if config.data.old_corpus:
            self._adaptation = Adaptation(workdir, self._evaluation, num_steps, say)

    def begin(self, state, done):
        """Finds what is known before the first step."""
        if self._adaptation:
            self._adaptation.before(state["params"], done)

    def batches(self, done):
        return iter(loader.Loader(self.config, done, *self._hosts))

    def flops(self, batch):
        return self._objective.flops(batch)

    def due(self, done):
        settings, last = self.config.train, done == self.num_steps
        evaluates = self._has_held_out and (done % settings.eval_every == 0 or last)
        return evaluates, done % settings.checkpoint_every == 0 or last

    def check(self, state, done, saves):
        bad = int(jax.device_get(state["bad_step"]))
        if bad < 0 and saves and not step_lib.all_finite(state["params"]):
            bad = done - 1
        if bad < 0:
            return
        rows = loader.describe_batch(self.config, bad)
        path = self.workdir / f"nonfinite-{bad + 1}.txt"
        if distributed.is_first():
            with contextlib.suppress(OSError):  # a full disk must not hide what happened
                storage.write_text(path, "".join(f"{row}\n" for row in rows))
        self.checkpoints.finish_save()
        raise UserError(
            f"step {bad + 1}: the loss, a gradient or a parameter is not finite; its batch "
            f"(bert_jax.data.batch_at(config, {bad})) has {rows[0]}; ... ({len(rows)} rows, listed in {path}); "
            f"{last_good(self.checkpoints)}"
        )

    def evaluate(self, state, done):
        return state, self._evaluation(state["params"], done)

    def save(self, state, done, figures):
        if self._adaptation and done == self.num_steps:
            self._adaptation.after(figures or self._evaluation(state["params"], done))
        super().save(step_lib.saved(state, self.mesh), done, figures)


def _check_padding(config, tokenizer):
    first, padding = config.model.position_offset, tokenizer.pad_id
    if first and padding != first - 1:
        raise UserError(
            f"config.model.position_offset: found {first}, but the padding token of config.data.corpus="
            f"{config.data.corpus} has id {padding}, and positions are counted from the id behind it; expected "
            f"{padding + 1}, or 0 for positions from 0"
        )


def _with_last(function, last):
    return lambda *arguments: function(*arguments, last)


def described(model: model_lib.Model, params: dict) -> str:
    """A model's size, the dtype it computes in and the devices that do it."""
    count = model_lib.parameter_count(params)
    devices, processes = jax.devices(), jax.process_count()
    of = f" of {processes} processes" if processes > 1 else ""
    return f"{count:,} parameters, {model.spec.dtype}, on {len(devices)} x {devices[0].device_kind}{of}"


def last_good(checkpoints: checkpoint.Checkpoints) -> str:
    """Which checkpoint an error leaves behind."""
    newest = checkpoints.newest()
    return "there is no checkpoint yet" if newest is None else f"the last good checkpoint is step {newest}"


def _summary(figures, done, workdir):
    parts = [f"done: step {done:,}"]
    if figures:
        loss, baseline = figures["eval/mlm_loss"], figures["eval/unigram_loss"]
        side, of = "under" if loss < baseline else "over", ""
        if "eval/rtd_loss" in figures:
            told, of = figures["eval/rtd_accuracy"], "the generator's "
            parts.append(f"held-out loss of replaced tokens {figures['eval/rtd_loss']:.4f}, {told:.1%} told right")
        parts.append(
            f"{of}held-out loss {loss:.4f}, {abs(baseline - loss):.4f} nats {side} the unigram baseline of "
            f"{baseline:.4f}"
        )
    return "; ".join([*parts, f"checkpoint in {workdir / 'checkpoints' / str(done)}"])


class _StopSignals:
    """Hears SIGTERM and SIGINT, of any process of the run; another one does what it does by default."""

    def __enter__(self):
        self._notice, self._before = distributed.StopNotice(), {}
        with contextlib.suppress(ValueError):  # not the main thread: nothing to catch
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def after(self, done: int) -> str:
        """The signal's name, where it ends the run after this step; every process must ask after every step."""
        return self._notice.after(done)

    def _caught(self, number, frame):
        self._notice.request_stop(signal.Signals(number).name)
        for caught in self._before:
            signal.signal(caught, signal.SIG_DFL)

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._notice.close()
