"""The fine-tuning run, from top to bottom.

    WORKDIR/summary.json                  each seed's scores, their median and spread, which failed
    WORKDIR/predictions/held_out.jsonl    of the best seed's best checkpoint, an object for each example, in data order;
                                          NAME.jsonl of several held-out sets, test.jsonl of config.task.test
    WORKDIR/predictions/held_out.json     of question answering: {id: answer}, what SQuAD's scripts read, and
                                          held_out.null_odds.json where questions may have no answer

The rest of WORKDIR is as in workdir.py.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import files, sharding, storage
from bert_jax import model as model_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.data.tasks import Examples, TaskData, answering, batches
from bert_jax.errors import UserError
from bert_jax.finetuning import trainable
from bert_jax.finetuning.step import Learner, all_finite
from bert_jax.interop import formats
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import parameters
from bert_jax.processes import distributed
from bert_jax.runs import checkpoints, identity, outcomes
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.claim import claim
from bert_jax.runs.loggers import say
from bert_jax.runs.models import build_fine_tuned, load_tokenizer, open_model
from bert_jax.training import loop, runtime


def finetune(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict:
    """Fine-tunes as the config says, or continues the run that the workdir holds.

    SIGTERM or SIGINT ends it early, after the step at hand and with a checkpoint; a second one ends it at once.

    Args:
      config: a fine-tuning recipe's.
      workdir: a local directory, or gs://BUCKET/FOLDER; see above for what comes to lie there.

    Returns:
      what summary.json holds; {} where a signal ended the run early.

    Raises:
      UserError: config, model, data, workdir and devices do not go together; no seed's loss is finite any more; or the
        last checkpoint could not be saved.
    """
    config = finetune_config.without_search(config.copy_and_resolve_references())
    workdir = workdir_lib.to_path(workdir, "--workdir=")
    finetune_config.validate(config)
    if jax.default_backend() == "cpu":
        runtime.keep_freed_memory()
    if finetune_config.rate_warning(config):
        say(finetune_config.rate_warning(config))
    identity.check_same_run(workdir, config)

    with claim(workdir), runtime.compilation_cache(config.train.compilation_cache, workdir):
        run = identity.check_config(workdir, config)
        begun = distributed.broadcast(lambda: bool(checkpoints.saved_steps(workdir / "checkpoints")))
        source = None if begun else open_model(config.init_from)
        tokenizer = source.tokenizer if source else load_tokenizer(workdir)
        task = tasks.load(config, tokenizer)
        for note in task.notes:
            say(note)
        run = _described(config, source, task) if source else run
        _check_data(workdir, run, task)
        distributed.check_same({"config.task (the data)": _data(task)})
        model = build_fine_tuned(run)
        trainable.check_tuning(config.tuning, model.spec)
        _check_rows(config, model.spec)
        if task.test is not None and "test" in task.held_out:
            raise UserError('config.task.held_out: a set is named "test", as config.task.test is; name it otherwise')
        finetune_config.check_devices(config, jax.device_count(), _key_heads(model.spec))
        num_steps = _num_steps(config, task)

        mesh = sharding.make_mesh(config.mesh)
        seeds = range(config.seed, config.seed + config.seeds)
        learner = Learner(config, model, task.problem, seeds, mesh, num_steps)
        saver = checkpoints.Checkpoints(workdir, config, say)
        if begun:
            items, done = saver.restore(learner.abstract_items())
            reached = outcomes.Outcomes.from_json(checkpoints.load_record(workdir, done))
            state = learner.from_items(items, *_marks(reached))
        else:
            state, done = _first_state(config, learner, source, run), 0
            reached = _nothing_yet(config, task)
            source = None  # its arrays are not held while training
        distributed.run_on_first(lambda: workdir_lib.write_run(workdir, config, run, tokenizer.save))
        training = _Finetuning(config, workdir, learner, task, saver, reached)
        if done < num_steps and not training.over:
            say(f"{_size(learner)}; step {done:,} of {num_steps:,}, in {workdir}")
            if loop.train(training, state, done) is None:
                return {}
        else:
            say(f"nothing to do: step {done:,} of {num_steps:,} is done; its checkpoint is in {workdir}")
        del state
        return _finish(config, workdir, learner, task, reached)


def _key_heads(spec):
    """How many heads of keys and values there are, by the key of the config that says it."""
    return {"model.num_heads" if spec.num_kv_heads == spec.num_heads else "model.num_kv_heads": spec.num_kv_heads}


class _Finetuning(loop.Run):
    def __init__(self, config, workdir, learner, task, saver, reached):
        self.config, self.workdir, self.num_steps, self.mesh = config, workdir, learner.num_steps, learner.mesh
        self.checkpoints = saver
        self.train_step, self.key = learner.train_step, learner.dropout_keys()
        self.flops = learner.flops
        self._learner, self._task, self._reached = learner, task, reached
        self._outputs = Outputs(config, learner)
        self._epoch = batches.steps_per_epoch(config, task.train)

    @property
    def over(self):
        return not any(seed.learns for seed in self._reached.seeds)

    def headline(self, row):
        score = row.get(self._reached.metric)
        if score is None:
            return ""
        number = len(self._reached.seeds)
        median = f" (median of {number} seeds)" if number > 1 else ""
        return f"{self._reached.metric.removeprefix('eval/')} {score:.4f}{median}"

    def batches(self, done):
        # What each part of a packed batch has as many rows of.
        unit = self.config.train.microbatches * math.prod(self.mesh.shape[axis] for axis in sharding.BATCH_AXES)
        make = functools.partial(batches.train_batch, self.config, self._task, self._learner.seeds, unit=unit)
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
        for seed, bad in zip(self._reached.seeds, bad_steps.tolist(), strict=True):
            if bad < 0 or seed.bad_step >= 0:
                continue
            seed.bad_step = bad
            if len(bad_steps) > 1:
                say(f"seed {seed.seed} has failed: its loss, a gradient or a parameter is not finite at step {bad + 1}")
        if all(seed.bad_step >= 0 for seed in self._reached.seeds):
            self._all_failed(int(bad_steps.max()))

    def row(self, metrics):
        learns = np.array([seed.learns for seed in self._reached.seeds])
        return {
            name: float(value[learns].mean() if value.ndim and learns.any() else value.mean())
            for name, value in metrics.items()
        }

    def evaluate(self, state, done):
        figures = [{} for _ in self._reached.seeds]
        for name, examples in self._task.held_out.items():
            outputs, finite = self._outputs(state["params"], state["frozen"], examples)
            for found, rows, good in zip(figures, outputs, finite, strict=True):
                scores = self._task.score(examples, rows) if good else {self._task.metric: math.nan}
                found |= {_figure(name, key): value for key, value in scores.items()}
        figures = distributed.broadcast(lambda: figures)
        better = self._reached.record_evaluation(done, figures, self.config.train.patience)
        if better.any():
            better = sharding.put(better, sharding.replicated(self.mesh))
            best = self._learner.keep_best(state["best"], state["params"], better)
            state = state | {"best": best}
        return state | self._learner.marks(*_marks(self._reached)), outcomes.metrics_row(self._reached, figures)

    def save(self, state, done, held_out):
        self.checkpoints.save(done, self._learner.to_items(state), record=self._reached.to_json())

    def _all_failed(self, bad):
        self.checkpoints.finish_save()
        seed = self._reached.seeds[-1].seed
        rows = batches.batch_rows(self.config, self._task.train, seed, bad)
        number = len(self._reached.seeds)
        whose = "the loss, a gradient or a parameter" if number == 1 else f"of all {number} seeds a loss or parameter"
        raise UserError(
            f"step {bad + 1}: {whose} is not finite; the batch of seed {seed} has the rows "
            f"{', '.join(map(str, rows[:5].tolist()))}, ... of config.task.train, from 0; try a lower "
            f"config.optimizer.learning_rate; {loop.last_good(self.checkpoints)}"
        )


class Outputs:
    """What models of several seeds say of a split.

    Args:
      config: a fine-tuning config; reads data and train.eval_batch_size.
      learner: of those seeds.
    """

    def __init__(self, config: ml_collections.ConfigDict, learner: Learner):
        self._config = config
        self._number = len(learner.seeds)
        self._eval_step = learner.eval_step
        self._rows = sharding.batch_sharding(learner.mesh)

    def __call__(self, params: dict, frozen: dict, examples: Examples) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """The outputs of each seed for each row, as TaskData.score takes them; and which seeds' are finite.

        Args:
          params: trained parameters with leaves [seeds, ...].
          frozen: the others.
          examples: a split.
        """
        size = config_lib.value(self._config, "train.eval_batch_size")
        found = [[None] * len(examples.lengths) for _ in range(self._number)]
        finite, running = np.ones(self._number, bool), None
        for rows, batch in batches.eval_batches(self._config, examples, size):
            made = self._eval_step(params, frozen, sharding.put(batch, self._rows))
            if running:  # one batch is computed while the one before is taken apart
                finite &= _take(found, *running)
            running = rows, batch["attention_mask"].sum(1), made
        return found, finite & _take(found, *running)


def _take(found, rows, lengths, made):
    """Puts a batch's outputs in their rows' places; which seeds' are finite."""
    outputs, finite = jax.device_get(made)
    for of_seed, output in zip(found, outputs, strict=True):
        of_tokens = output.ndim == 3 or output.dtype == np.int32
        for row, length, one in zip(rows, lengths, output, strict=True):
            if row >= 0:
                of_seed[row] = one[:length] if of_tokens else one
    return finite


def _figure(name, key):
    return f"eval/{name}/{key}" if name else f"eval/{key}"


def _metric(task):
    return _figure(next(iter(task.held_out)), task.metric)


def _nothing_yet(config, task):
    seeds = [outcomes.Seed(seed) for seed in range(config.seed, config.seed + config.seeds)]
    return outcomes.Outcomes(_metric(task), float(task.baseline), config.train.failed_below, seeds)


def _marks(reached):
    """The step at which each seed met what is not finite, and which seeds still learn."""
    return np.array([seed.bad_step for seed in reached.seeds]), np.array([seed.learns for seed in reached.seeds])


def _num_steps(config, task):
    epoch = batches.steps_per_epoch(config, task.train)
    return config.train.num_steps or math.ceil(config.train.num_epochs * epoch)


def _prefetched(make, hosts_of_rows, start, stop, prefetch) -> Iterator[tuple[int, dict]]:
    """(step, batch of this process's rows), made ahead in a thread."""
    import grain  # here, because it is slow to import

    hosts, number = hosts_of_rows

    def batch_of(step):
        parts = [make(int(step), host=host, num_hosts=number) for host in hosts]
        if len(parts) == 1:
            return int(step), parts[0]
        return int(step), {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}

    batches = grain.MapDataset.range(start, stop).map(batch_of)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=max(1, prefetch))))


def _described(config: ml_collections.ConfigDict, source: Pretrained, task: TaskData) -> dict:
    """What run.json says: all that opening the model needs, and what tells the data."""
    of_sequence = config.task.name == "sequence_classification"
    dropout = 0.0 if config.task.name == "question_answering" else config.task.dropout
    if config.task.pooling == "auto":
        head = formats.task_head(source, config.task.name, len(task.labels), dropout)
    else:
        head = model_lib.Task(config.task.name, len(task.labels), config.task.pooling, dropout)
    head = dataclasses.replace(head, crf=config.task.crf)
    switches = {key: config.model[key] for key in ("dtype", "scan_layers", "attention_kernel", "remat")}
    model = dict(source.config) | switches
    model["pooler"] = of_sequence and head.pooling == "pooler"
    for key in ("hidden_dropout", "attention_dropout"):
        if config.model[key] >= 0:
            model[key] = config.model[key]
    settings = {"max_length": config.data.sequence_length}
    if config.task.name == "question_answering":
        names = ("doc_stride", "max_query_length", "max_answer_length", "n_best")
        settings |= {name: config.task[name] for name in names}
    return {
        "kind": "finetune",
        "family": source.family,
        "model": model,
        "head": dataclasses.asdict(head),
        "labels": list(task.labels),
        "problem": task.problem,
        "scheme": task.scheme,
        "settings": settings,
        "data": _data(task),
    }


def _data(task):
    """What tells a task's data from others: rows of each split, and a digest of their lengths and the first ones."""

    def digest_of(examples):
        some = np.arange(min(64, len(examples.lengths)))
        digest = hashlib.blake2b(np.asarray(examples.lengths, np.int32), digest_size=8)
        for _, array in sorted(examples.batch(some, int(examples.lengths[some].max(initial=1))).items()):
            digest.update(np.ascontiguousarray(array))
        return [len(examples.lengths), digest.hexdigest()]

    held_out = {f"held out {name}".rstrip(): examples for name, examples in task.held_out.items()}
    return {name: digest_of(examples) for name, examples in ({"train": task.train} | held_out).items()}


def _check_data(workdir, run, task):
    if run["data"] == _data(task) and run["labels"] == list(task.labels):
        return
    old, new = run["data"]["train"][0], len(task.train.lengths)
    raise UserError(
        f"--workdir={workdir}: its run began with other data ({old:,} rows to learn from, now {new:,}; labels "
        f"{', '.join(run['labels'][:5])}, now {', '.join(task.labels[:5])}); give the old data, or another --workdir"
    )


def _check_rows(config, spec):
    length, positions = config.data.sequence_length, spec.max_positions
    if length > positions:
        raise UserError(
            f"config.data.sequence_length: {length} is over the {positions} positions of config.init_from="
            f"{config.init_from}; expected at most {positions}"
        )


def _first_state(config, learner, source, run):
    params = {} if config.from_scratch else _fitting(source, run)
    state, fresh, left = learner.init_state(params)
    if config.from_scratch:
        say(f"every parameter fresh; architecture and vocabulary are those of {source.name}")
        return state
    anew = trainable.reinitialised_pattern(config.tuning, learner.model.spec)
    wrong = [name for name in fresh if name.startswith("encoder") and not re.search(anew, name)]
    if wrong:
        raise UserError(f"config.init_from={source.name}: it lacks {wrong[0]} ({len(wrong)} parameters in all)")
    notes = [("fresh", fresh), ("left out", left)]
    say("; ".join([f"starts from {source.name}", *(f"{what}: {_modules(names)}" for what, names in notes if names)]))
    return state


def _size(learner):
    trained, frozen = learner.parts()
    size = loop.describe_model(learner.model, parameters.merge_trees(trained, frozen))
    some = f", {model_lib.parameter_count(trained):,} of them trained" if frozen else ""
    return f"{len(learner.seeds)} seeds of " * (len(learner.seeds) > 1) + size + some


def _fitting(source, run):
    """The source's parameters; without the output layer of its task if its labels mean something else."""
    task = source.model.spec.task
    same = task is not None and task.name == run["head"]["name"]
    same = same and list(source.labels) == run["labels"] and source.problem == run["problem"]
    params = dict(source.params)
    if "task" in params and not same:
        params["task"] = {name: params["task"][name] for name in ("dense", "score") if name in params["task"]}
    return params


def _modules(names: Sequence[str]) -> str:
    """The modules that parameters belong to, in words: "encoder/layers/11, pooler"."""
    return ", ".join(dict.fromkeys("/".join(n.split("/")[: 3 if n.startswith("encoder") else 1]) for n in names))


def _finish(config, workdir, learner, task, reached):
    """Writes predictions of the best seed's best checkpoint, then the summary; unless they are there."""
    step = distributed.broadcast(lambda: checkpoints.find_step(workdir, None))
    path = workdir / "summary.json"
    summary = distributed.broadcast(lambda: json.loads(path.read_text()) if path.exists() else {})
    if summary.get("step") == step:
        return summary
    index = reached.best()
    seed = reached.seeds[index]
    summary = {"step": step, **reached.summary(), "predictions": {}}
    for line in outcomes.format_table(summary):
        say(line)

    alone = learner if len(reached.seeds) == 1 else dataclasses.replace(learner, seeds=[seed.seed])
    items = checkpoints.load_items(workdir, step, [f"best-{index}", "frozen"])
    params, frozen = alone.place(items[f"best-{index}"], items["frozen"])
    outputs = Outputs(config, alone)
    if hasattr(task, "null_threshold"):
        task.null_threshold = seed.best.get(_figure(next(iter(task.held_out)), "null_threshold"), 0.0)
    splits = [(name or "held_out", examples, True) for name, examples in task.held_out.items()]
    splits += [("test", task.test, False)] if task.test is not None else []
    for name, examples, labelled in splits:
        (rows,), _ = outputs(params, frozen, examples)
        write = functools.partial(_write_predictions, workdir, name, task, examples, rows, config.task.name)
        written = {"file": distributed.broadcast(write)}
        if labelled:
            scores = task.score(examples, rows)
            written["scores"] = {key: value if math.isfinite(value) else None for key, value in scores.items()}
        summary["predictions"][name] = written
    distributed.run_on_first(lambda: storage.write_json(path, summary))
    files = ", ".join(written["file"] for written in summary["predictions"].values())
    whose = f"seed {seed.seed}, " if len(reached.seeds) > 1 else ""
    say(f"done: step {step:,}; best: {whose}step {seed.best_step:,}; in {workdir}: summary.json, {files}")
    return summary


def _write_predictions(workdir, name, task, examples, rows, task_name):
    """The file of a split's predictions, named from the workdir; written whole or not at all."""
    path = workdir / "predictions" / f"{name}.jsonl"
    if not storage.is_remote(workdir):
        path.parent.mkdir(exist_ok=True)
    answers, odds = {}, {}
    with storage.atomic_open(path) as file:
        for row in task.predictions(examples, rows):
            file.write(files.json_line(row) + "\n")
            if task_name == "question_answering":
                answers |= answering.squad_predictions([row])
                odds |= answering.squad_null_odds([row])
    if answers:
        storage.write_json(path.with_suffix(".json"), answers)
    if odds:
        storage.write_json(path.with_suffix(".null_odds.json"), odds)
    return path.relative_to(workdir).as_posix()
