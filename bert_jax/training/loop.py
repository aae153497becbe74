"""The pre-training run, from top to bottom."""

import contextlib
import os
import pathlib
import signal
import time

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.data import loader, tokenizers
from bert_jax.errors import UserError
from bert_jax.training import checkpoint, flops
from bert_jax.training import metrics as metrics_lib
from bert_jax.training import step as step_lib
from bert_jax.training import workdir as workdir_lib
from bert_jax.training.evaluation import Evaluation
from bert_jax.training.host_memory import keep_freed_memory
from bert_jax.training.metrics import say


def pretrain(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> None:
    """Trains as the config says, or continues the run that the workdir holds; returns when it is done.

    SIGTERM or SIGINT ends it early, after the step at hand and with a checkpoint; a second one ends it at once.

    Args:
      config: a recipe's.
      workdir: a local directory; see workdir.py for what comes to lie there.

    Raises:
      UserError: config, corpus, workdir and devices do not go together; the loss is not finite; or the last
        checkpoint could not be saved.
    """
    config = config.copy_and_resolve_references()
    if "://" in str(workdir):
        raise UserError(f"--workdir={workdir}: not a local directory; expected one")
    workdir = pathlib.Path(workdir)
    config_lib.validate(config)
    config_lib.check_devices(config, jax.device_count())
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    num_steps = config_lib.num_steps(config)
    mesh = sharding.make_mesh(config.mesh)
    corpora = loader.open_corpora(config)
    config.model.vocab_size = corpora[0].vocab_size

    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir_lib.claim(workdir))
        workdir_lib.check(workdir, config, corpora)
        loader.Loader(config)  # finds what the corpus cannot give before the workdir becomes this run's
        model = model_lib.build(config.model, config.model.vocab_size, next_sentence=config.objective.next_sentence)
        template = step_lib.abstract_state(config, model, mesh, num_steps)
        checkpoints = checkpoint.Checkpoints(workdir, config, say)
        begins = checkpoints.newest() is None
        start = _start_from(config, template["params"], corpora[0].tokenizer) if config.init_from and begins else None
        workdir_lib.write(workdir, config, corpora)

        restored = checkpoints.restore(template)
        if restored:
            state, done = restored
            state["bad_step"] = jax.device_put(np.int32(-1), template["bad_step"].sharding)
        else:
            state, done = step_lib.init_state(config, model, mesh, num_steps), 0
            if start:
                state["params"] = jax.device_put(start, jax.tree.map(lambda leaf: leaf.sharding, state["params"]))
        if done >= num_steps:
            say(f"nothing to do: step {done:,} of {num_steps:,} is done; its checkpoint is in {workdir}")
            return
        say(f"{_described(model, state)}; step {done:,} of {num_steps:,}, in {workdir}")

        train_step = step_lib.make_train_step(config, model, mesh, num_steps)
        rows, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        evaluation = Evaluation(
            config, corpora, step_lib.make_eval_step(config, model, mesh), lambda batch: jax.device_put(batch, rows)
        )
        has_held_out = config.train.eval_every > 0 and evaluation.possible
        if config.train.eval_every and not has_held_out:
            say("no document of the corpus is held out: no evaluation")
        loggers = metrics_lib.open_loggers(config, workdir, done, num_steps, say)
        for resource in (checkpoints, *loggers):
            stack.callback(resource.close)
        stop = stack.enter_context(_StopSignals())

        key = jax.device_put(step_lib.dropout_key(config), everywhere)
        speed = _Speed(model, mesh)
        before, figures = (), {}
        for index, batch in loader.Loader(config, done):
            with jax.transfer_guard("disallow"):
                inputs = jax.device_put(batch, rows), jax.device_put(np.int32(index), everywhere)
                state, metrics = train_step(state, *inputs, key)
            jax.block_until_ready(before)  # one step runs and one waits: the devices stay busy, the host near
            before, done = metrics, index + 1
            speed.count(batch, metrics)
            last = done == num_steps or bool(stop.signal)
            logs = done % config.train.log_every == 0 or done == num_steps
            evaluates = has_held_out and (done % config.train.eval_every == 0 or done == num_steps)
            saves = done % config.train.checkpoint_every == 0 or last
            if not (logs or evaluates or saves):
                continue

            _stop_if_not_finite(state, done, saves, config, workdir, checkpoints)
            row = {name: float(value) for name, value in jax.device_get(metrics).items()} | speed.take() if logs else {}
            figures = evaluation(state["params"], done) if evaluates else {}
            for logger in loggers if row or figures else ():
                logger.write({"step": done} | row | figures)
            checkpoints.settle(wait=False)
            if saves:
                for logger in loggers:
                    logger.flush()  # resuming cuts rows to the checkpoint, so none may be missing before it
                checkpoints.save(done, state, figures)
            speed.restart()
            if last:
                break

        checkpoints.settle()
        if checkpoints.newest() != done:
            raise UserError(
                f"{workdir}: the checkpoint of step {done} could not be saved; "
                f"{_last_good(checkpoints)}; make room and start the same command again"
            )
        if stop.signal and done < num_steps:
            say(f"{stop.signal}: stopped at step {done:,} with a checkpoint; start the same command again to continue")
            return
        say(_summary(figures, done, workdir))


def _start_from(config, template, tokenizer):
    """The parameters of another run, checked against this model's and its vocabulary."""
    source = config.init_from
    params, before, _ = checkpoint.load(source)
    if tokenizers.load(pathlib.Path(source) / "tokenizer").digest() != tokenizer.digest():
        raise UserError(
            f"config.init_from={source}: its vocabulary is not that of {config.data.corpus}; prepare the corpus with "
            f"--tokenizer={source}/tokenizer"
        )
    for key in ("num_heads", "activation", "position_offset", "norm_epsilon"):  # no shape shows these
        if before.model[key] != config.model[key]:
            raise UserError(
                f"config.model.{key}: found {config.model[key]}, but the run config.init_from={source} has "
                f"{before.model[key]}; expected the same"
            )
    found, wanted = (
        {sharding.path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, template)
    )
    if found != wanted:
        names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        name = names[0]
        raise UserError(
            f"config.init_from={source}: {name} is {found.get(name, 'absent')} there and {wanted.get(name, 'absent')} "
            f"in this model ({len(names)} parameters differ); expected a run with the same config.model and objective"
        )
    return params


def _described(model, state):
    count = model_lib.parameter_count(state["params"])
    devices = jax.devices()
    return f"{count:,} parameters, {model.spec.dtype}, on {len(devices)} x {devices[0].device_kind}"


def _stop_if_not_finite(state, done, saves, config, workdir, checkpoints):
    bad = int(jax.device_get(state["bad_step"]))
    if bad < 0 and saves and not step_lib.all_finite(state["params"]):
        bad = done - 1
    if bad < 0:
        return
    rows = loader.describe_batch(config, bad)
    path = workdir / f"nonfinite-{bad + 1}.txt"
    with contextlib.suppress(OSError):  # a full disk must not hide what happened
        path.write_text("".join(f"{row}\n" for row in rows))
    checkpoints.settle()
    raise UserError(
        f"step {bad + 1}: the loss, a gradient or a parameter is not finite; its batch "
        f"(bert_jax.data.batch_at(config, {bad})) has {rows[0]}; ... ({len(rows)} rows, listed in {path}); "
        f"{_last_good(checkpoints)}"
    )


def _last_good(checkpoints):
    newest = checkpoints.newest()
    return "there is no checkpoint yet" if newest is None else f"the last good checkpoint is step {newest}"


def _summary(figures, done, workdir):
    parts = [f"done: step {done:,}"]
    if figures:
        loss, baseline = figures["eval/mlm_loss"], figures["eval/unigram_loss"]
        side = "under" if loss < baseline else "over"
        parts.append(
            f"held-out loss {loss:.4f}, {abs(baseline - loss):.4f} nats {side} the unigram baseline of {baseline:.4f}"
        )
    return "; ".join([*parts, f"checkpoint in {workdir / 'checkpoints' / str(done)}"])


class _Speed:
    """Tokens per second and MFU of the steps since the last restart, without those that compiled."""

    def __init__(self, model, mesh):
        self._spec = model.spec
        peak = flops.peak_flops(mesh.devices.flat[0])
        self._peak = peak and peak * mesh.size
        self._shape = None
        self.restart()

    def restart(self):
        self._began, self._tokens, self._flops = time.perf_counter(), 0, 0.0

    def count(self, batch, metrics):
        """Counts a step; the first of its shape was compiled and is left out."""
        rows, sequence = batch["input_ids"].shape
        slots = batch["masked_labels"].shape[1] if "masked_labels" in batch else sequence
        if self._shape != (rows, sequence, slots):
            self._shape = rows, sequence, slots
            jax.block_until_ready(metrics)
            self.restart()
            return
        self._tokens += rows * sequence
        self._flops += flops.step_flops(self._spec, rows, sequence, slots)

    def take(self):
        """The row's timings; null where no step was counted, or no peak is known."""
        seconds = time.perf_counter() - self._began
        if not self._tokens:
            return dict.fromkeys(metrics_lib.TIMINGS)
        mfu = round(self._flops / seconds / self._peak, 4) if self._peak else None
        return {"tokens_per_second": round(self._tokens / seconds, 1), "mfu": mfu}


class _StopSignals:
    """`signal` names the SIGTERM or SIGINT that came; another one does what it does by default."""

    def __init__(self):
        self.signal = ""

    def __enter__(self):
        self._before = {}
        with contextlib.suppress(ValueError):  # not the main thread: nothing to catch
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def _caught(self, number, frame):
        self.signal = signal.Signals(number).name
        for caught in self._before:
            signal.signal(caught, signal.SIG_DFL)

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
