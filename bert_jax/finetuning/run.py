"""Runs fine-tuning, from top to bottom: check, open, build, restore, train, write the results.

results.py describes WORKDIR/summary.json and WORKDIR/predictions/, runs/workdir.py the rest of a workdir.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from bert_jax import _moved, sharding
from bert_jax import model as model_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.config import finetuning_phases
from bert_jax.data import tasks
from bert_jax.data.tasks import TaskData, batches
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.finetuning import trainable
from bert_jax.finetuning.description import check_data, data_identity, describe_run, linear_map
from bert_jax.finetuning.guides import add_guide
from bert_jax.finetuning.late_interaction import reading_notes, with_markers
from bert_jax.finetuning.lowering import FinetuningSteps
from bert_jax.finetuning.results import Outputs, metric_name, selection_metric, write_results
from bert_jax.finetuning.state import all_finite
from bert_jax.finetuning.step import Learner
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import parameters
from bert_jax.processes import distributed, host_memory
from bert_jax.runs import checkpoint_files, checkpoints, continuation, identity
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.claim import claim
from bert_jax.runs.loggers import check_installed, say
from bert_jax.runs.models import build_fine_tuned, load_tokenizer, open_model
from bert_jax.runs.outcomes import Outcomes, Seed, metrics_row
from bert_jax.training import compiler, loop, memory, runtime


def finetune(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, recipe: ml_collections.ConfigDict | None = None
) -> dict[str, Any]:
    """Trains a model on a labelled task as the config says, or continues the run that the workdir holds.

    With config.phases several runs follow one another, the last of them in the workdir; see config.finetuning_phases.
    SIGTERM, SIGINT or SIGHUP ends it early, after the step at hand and with a checkpoint; a second one ends it at once.
    Every process of a run with several calls this, after distributed.initialize; process 0 writes what is written once.

    Args:
      config: the config of a fine-tuning recipe.
      workdir: a local directory, or gs://BUCKET/FOLDER.
      recipe: the config of the recipe as it was before it was changed; the report compares with it.

    Returns:
      the content of summary.json, of the last phase; {} where a signal ended the run early.

    Raises:
      UserError: config, model, data, workdir and devices do not go together; no seed's loss is finite any more; or the
        last checkpoint could not be saved.
    """
    workdir = workdir_lib.to_path(workdir, "--workdir=")
    runs = finetuning_phases.phases(config, workdir)
    summary: dict[str, Any] = {}
    for number in range(_phase_at_hand(runs), len(runs)):
        run_config, folder = runs[number]
        if len(runs) > 1:
            say(f"phase {number + 1} of {len(runs)}, in {folder}")
        of_phase = recipe
        if recipe is not None and len(recipe.get("phases") or ()) == len(runs):
            of_phase = finetuning_phases.in_phase(recipe, number)
        summary = _finetune(run_config, folder, of_phase)
        if not summary:
            break
    return summary


def _phase_at_hand(runs) -> int:
    """Returns the number of the last run that has begun, from 0, the same on every process.

    Raises:
      UserError: one before it is not as its config says.
    """
    begun = distributed.broadcast(lambda: [checkpoint_files.has_checkpoints(folder) for _, folder in runs])
    at_hand = max((number for number, has in enumerate(begun) if has), default=0)
    for config, folder in runs[:at_hand]:
        continuation.check_finetuning(folder, config)
    return at_hand


def _finetune(config, workdir, recipe):
    """Trains one run, without phases; see finetune."""
    config, workdir = _check(config, workdir)
    cache = runtime.compilation_cache(config.train.compilation_cache, workdir)
    with claim(workdir), cache, contextlib.ExitStack() as stack:
        inputs = _open(config, workdir)
        steps = _check_sizes(config, workdir, inputs)
        stack.enter_context(memory.explained(steps))
        run = _build(config, workdir, inputs)
        if (
            distributed.broadcast(lambda: max(checkpoints.saved_steps(workdir / "checkpoints"), default=0))
            < run.num_steps
        ):
            add_guide(config, inputs.task, inputs.model, say)
        run.recipe = recipe
        state, done = _restore(run, inputs)
        del inputs  # parameters as large as the model
        finished = _train(run, state, done)
        del state
        summary = write_results(config, workdir, run.learner, run.task, run.outcomes) if finished else {}
        if finished:
            run.report({}, last=True)  # with predictions now
        return summary


@dataclasses.dataclass
class _Inputs:
    """Holds what a run starts from.

    Attributes:
      source: config.init_from's model; None where the run continues.
      tokenizer: the vocabulary of the model.
      task: the task's data.
      description: content of run.json.
      model: the model with the task's head, without parameters.
    """

    source: Pretrained | None
    tokenizer: Tokenizer
    task: TaskData
    description: Mapping[str, Any]
    model: model_lib.Model


def _check(config, workdir) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """Returns a checked copy of the config, the same on every process, and the workdir's path."""
    config = finetune_config.without_search(config.copy_and_resolve_references())
    identity.check_kind(workdir)
    if "task" in config:
        kept = identity.keep_values_before(workdir, config)
        if kept:
            say(kept)
    finetune_config.validate(config)
    check_installed(config)
    if jax.default_backend() == "cpu":
        host_memory.keep_freed_memory()
    identity.check_same_run(workdir, config)
    return config, workdir


def _open(config, workdir) -> _Inputs:
    """Opens the model to start from and the task's data, chooses the rate, and refuses the workdir of another run."""
    chooses = config.optimizer.learning_rate < 0
    if chooses:
        config.optimizer.learning_rate = distributed.broadcast(lambda: _begun_rate(workdir))
    description = identity.check_config(workdir, config) or {}
    begun = distributed.broadcast(lambda: bool(checkpoints.saved_steps(workdir / "checkpoints")))
    source = None if begun else with_markers(config, open_model(config.init_from))
    tokenizer = source.tokenizer if source else load_tokenizer(workdir)
    task = tasks.load(config, tokenizer)
    warnings = [
        finetune_config.held_out_warning(config),
        finetune_config.batch_warning(config, len(task.train.lengths)),
    ]
    if source:
        warnings += reading_notes(config, source)
    for note in [*task.notes, *filter(None, warnings)]:
        say(note)
    if source:
        description = describe_run(config, source, task)
        description["unknown_token_share"] = batches.unknown_share(task.train, tokenizer)
    width = description["model"]["hidden_size"]
    if config.optimizer.learning_rate < 0:
        config.optimizer.learning_rate = finetune_config.default_rate(config, width)
    warning = finetune_config.rate_warning(config, width)
    if chooses:
        part = finetune_config.tuned_part(config, width)
        say(f"config.optimizer.learning_rate: {config.optimizer.learning_rate:.2g}, chosen for {part}")
    elif warning:
        say(warning)
    check_data(workdir, description, task)
    step = source.step if source else None
    distributed.check_same({"config.task (the data)": data_identity(task), "config.init_from (step)": step})
    if task.test is not None and "test" in task.held_out:
        raise UserError('config.task.held_out: a set is named "test", as config.task.test is; name it otherwise')
    return _Inputs(source, tokenizer, task, description, build_fine_tuned(description))


def _begun_rate(workdir):
    """Returns the learning rate of the fine-tuning that a workdir holds, -1 where it has no checkpoint."""
    if not (workdir / "config.json").exists() or not checkpoint_files.has_checkpoints(workdir):
        return -1.0
    config = workdir_lib.read(workdir)[1]
    return config.optimizer.learning_rate if "task" in config else -1.0


def _check_sizes(config, workdir, inputs) -> FinetuningSteps:
    """Checks the config against model and devices, and that its steps fit the memory; returns these steps."""
    spec = inputs.model.spec
    trainable.check_tuning(config.tuning, spec)
    finetune_config.check_positions(config, spec.max_positions, spec.positions == "rotary")
    heads = "model.num_heads" if spec.num_kv_heads == spec.num_heads else "model.num_kv_heads"
    finetune_config.check_devices(config, jax.device_count(), {heads: spec.num_kv_heads})
    steps = FinetuningSteps(config, sharding.make_mesh(config.mesh), inputs.description, inputs.task)
    memory.check(steps, say, memory.begun_microbatches(workdir))
    return steps


def _build(config, workdir, inputs) -> "_Finetuning":
    """Builds mesh, optimizer and steps; writes nothing."""
    seeds = range(config.seed, config.seed + config.seeds)
    num_steps = finetune_config.num_steps(config, len(inputs.task.train.lengths))
    learner = Learner(config, inputs.model, inputs.task.problem, seeds, sharding.make_mesh(config.mesh), num_steps)
    return _Finetuning(config, workdir, learner, inputs.task)


def _restore(run, inputs) -> tuple[dict, int]:
    """Makes the workdir this run's, and returns the state to train from and the number of steps done.

    The state is that of the newest checkpoint; where there is none, it starts from the model of config.init_from.
    """
    config, workdir, learner = run.config, run.workdir, run.learner
    if inputs.source:
        state, done = _first_state(config, learner, inputs), 0
    else:
        items, done = run.checkpoints.restore(learner.layout.abstract_items())
        run.outcomes = Outcomes.from_json(checkpoints.load_record(workdir, done))
        state = learner.layout.from_items(items, *run.seed_status())
    begins = inputs.source is not None
    distributed.run_on_first(
        lambda: workdir_lib.write_run(workdir, config, inputs.description, inputs.tokenizer.save, begins)
    )
    return state, done


def _train(run, state, done) -> bool:
    """Trains to the end of the run. Returns False if a signal ended it early."""
    if done < run.num_steps and not run.over:
        say(f"{_describe(run.learner)}; step {done:,} of {run.num_steps:,}, in {run.workdir}")
        for line in compiler.lines(run.mesh):
            say(line)
        run.warn(begins=not done)
        return loop.train(run, state, done) is not None
    say(f"nothing to do: step {done:,} of {run.num_steps:,} is done; its checkpoint is in {run.workdir}")
    return True


class _Finetuning(loop.Run):
    """Provides the training loop with fine-tuning: batches of the task, evaluation and failure of each seed."""

    def __init__(self, config, workdir, learner, task):
        self.config, self.workdir, self.num_steps, self.mesh = config, workdir, learner.num_steps, learner.mesh
        self.checkpoints = checkpoints.Checkpoints(workdir, config, say)
        self.train_step, self.key = learner.train_step, learner.dropout_keys()
        self.flops = learner.flops
        self.learner, self.task = learner, task
        seeds = [Seed(seed) for seed in learner.seeds]
        self.outcomes = Outcomes(selection_metric(task), float(task.baseline), config.train.failed_below, seeds)
        self._outputs = Outputs(config, learner)
        self._epoch = batches.steps_per_epoch(config, task.train)

    @property
    def over(self):
        """Returns whether no seed learns any longer."""
        return not any(seed.learns for seed in self.outcomes.seeds)

    def seed_status(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first step of each seed that was not finite (-1: none), and whether the seed still learns."""
        seeds = self.outcomes.seeds
        return np.array([seed.bad_step for seed in seeds]), np.array([seed.learns for seed in seeds])

    def headline(self, row):
        score = row.get(self.outcomes.metric)
        if score is None:
            return ""
        number = len(self.outcomes.seeds)
        median = f" (median of {number} seeds)" if number > 1 else ""
        return f"{self.outcomes.metric.removeprefix('eval/')} {score:.4f}{median}"

    def batches(self, done):
        # The rows of a packed batch are a multiple of its parts: microbatches, and shards of each.
        unit = self.config.train.microbatches * math.prod(self.mesh.shape[axis] for axis in sharding.BATCH_AXES)
        make = functools.partial(batches.train_batch, self.config, self.task, self.learner.seeds, unit=unit)
        return _prefetched(make, sharding.hosts_of_rows(self.mesh), done, self.num_steps, self.config.data.prefetch)

    def put(self, batch):
        return sharding.put_rows(batch, self.mesh, leading=1)

    def due(self, done):
        settings, last = self.config.train, done == self.num_steps
        evaluates = done % (settings.eval_every or self._epoch) == 0 or last
        saves = done % settings.checkpoint_every == 0 or last if settings.checkpoint_every else evaluates
        return evaluates, saves

    def check(self, state, done, saves):
        bad_steps = jax.device_get(state["bad_step"])
        if saves:
            finite = jax.device_get(all_finite(state["params"]))
            bad_steps = np.where((bad_steps < 0) & ~finite, done - 1, bad_steps)
        for seed, bad in zip(self.outcomes.seeds, bad_steps.tolist(), strict=True):
            if bad < 0 or seed.bad_step >= 0:
                continue
            seed.bad_step = bad
            if len(bad_steps) > 1:
                say(f"seed {seed.seed} has failed: its loss, a gradient or a parameter is not finite at step {bad + 1}")
        if all(seed.bad_step >= 0 for seed in self.outcomes.seeds):
            self._all_failed(int(bad_steps.max()))

    def row(self, metrics):
        _, learns = self.seed_status()
        return {
            name: float(value[learns].mean() if value.ndim and learns.any() else value.mean())
            for name, value in metrics.items()
        }

    def evaluate(self, state, done):
        metrics = [{} for _ in self.outcomes.seeds]
        for name, examples in self.task.held_out.items():
            outputs, finite = self._outputs(state["params"], state["frozen"], examples)
            for seed_metrics, rows, good in zip(metrics, outputs, finite, strict=True):
                scores = self.task.score(examples, rows) if good else {self.task.metric: math.nan}
                seed_metrics |= {metric_name(name, key): value for key, value in scores.items()}
        metrics = distributed.broadcast(lambda: metrics)
        better = self.outcomes.record_evaluation(done, metrics, self.config.train.patience)
        if better.any():
            better = sharding.put(better, sharding.replicated(self.mesh))
            best = self.learner.keep_best(state["best"], state["params"], better)
            state = state | {"best": best}
        return state | self.learner.layout.flags(*self.seed_status()), metrics_row(self.outcomes, metrics)

    def save(self, state, done, held_out):
        self.checkpoints.save(done, self.learner.layout.to_items(state), record=self.outcomes.to_json())

    def _all_failed(self, bad):
        self.checkpoints.finish_save()
        seed = self.outcomes.seeds[-1].seed
        rows = batches.batch_rows(self.config, self.task.train, seed, bad)
        number = len(self.outcomes.seeds)
        subject = "the loss, a gradient or a parameter" if number == 1 else f"of all {number} seeds a loss or parameter"
        raise UserError(
            f"step {bad + 1}: {subject} is not finite; the batch of seed {seed} has the rows "
            f"{', '.join(map(str, rows[:5].tolist()))}, ... of config.task.train, from 0; try a lower "
            f"config.optimizer.learning_rate; {loop.last_good(self.checkpoints)}"
        )


def _prefetched(make, hosts_of_rows, start, stop, prefetch) -> Iterator[tuple[int, dict]]:
    """Yields (step, batch of this process's rows), made ahead in a thread."""
    import grain  # here, because it is slow to import

    hosts, number = hosts_of_rows

    def batch_of(step):
        parts = [make(int(step), host=host, num_hosts=number) for host in hosts]
        if len(parts) == 1:
            return int(step), parts[0]
        return int(step), {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}

    steps = grain.MapDataset.range(start, stop).map(batch_of)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=max(1, prefetch))))


def _first_state(config, learner, inputs):
    """Returns the state at step 0, and says which parameters are fresh or not taken."""
    source = inputs.source
    params = {} if config.from_scratch else _transferable(config, source, inputs.description)
    state, fresh, left = learner.layout.init(params)
    if config.from_scratch:
        say(f"every parameter fresh; architecture and vocabulary are those of {source.name}")
        return state
    redrawn = trainable.reinitialised_pattern(config.tuning, learner.model.spec)
    missing = [name for name in fresh if name.startswith("encoder") and not re.search(redrawn, name)]
    if missing:
        raise UserError(f"config.init_from={source.name}: it lacks {missing[0]} ({len(missing)} parameters in all)")
    notes = [("fresh", fresh), ("left out", left)]
    say("; ".join([f"starts from {source.name}", *(f"{label}: {_modules(names)}" for label, names in notes if names)]))
    return state


def _transferable(config, source, description):
    """Returns the source's parameters, without the output layer of its task if its labels mean something else."""
    task = source.model.spec.task
    same = task is not None and task.name == description["head"]["name"]
    is_reranker = "activation" in description["settings"]  # whose output means the same whatever its name
    same = same and (is_reranker or list(source.labels) == description["labels"])
    same = same and len(source.labels) == len(description["labels"]) and source.problem == description["problem"]
    params = dict(source.params)
    if config.task.name == "embedding":
        own_map = None if config.task.embedding_size else linear_map(source)
        params.pop("task", None)
        return params | ({"task": {"dense": dict(own_map.arrays)}} if own_map else {})
    if "task" in params and not same:
        params["task"] = {name: params["task"][name] for name in ("dense", "score") if name in params["task"]}
    return params


def _modules(names: Sequence[str]) -> str:
    """Returns the modules that parameters belong to, in words: "encoder/layers/11, pooler"."""
    return ", ".join(dict.fromkeys("/".join(n.split("/")[: 3 if n.startswith("encoder") else 1]) for n in names))


def _describe(learner):
    """Returns in words how many seeds train, and how large the model is."""
    trained, frozen = learner.layout.parts()
    size = loop.describe_model(learner.model, parameters.merge_trees(trained, frozen))
    trained_words = f", {model_lib.parameter_count(trained):,} of them trained" if frozen else ""
    return f"{len(learner.seeds)} seeds of " * (len(learner.seeds) > 1) + size + trained_words


def __getattr__(name):
    return _moved.find("finetuning.run", name)
