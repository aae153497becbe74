"""Computes what fine-tuned models output for a split, and writes a finished run's predictions and summary.

WORKDIR/summary.json                  each seed's scores, their median and spread, which failed
WORKDIR/predictions/held_out.jsonl    the best seed's best checkpoint, an object for each example, in data order;
                                      NAME.jsonl for several held-out sets, test.jsonl for config.task.test; the other
                                      columns of an example come first, input_NAME where NAME is of the prediction
WORKDIR/predictions/held_out.json     question answering: {id: answer}, which SQuAD's scripts read, and
                                      held_out.null_odds.json where questions may have no answer
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import files, sharding, storage
from bert_jax.data.tasks import Examples, TaskData, answering, batches, records
from bert_jax.finetuning.step import Learner
from bert_jax.processes import distributed
from bert_jax.runs import checkpoints
from bert_jax.runs.loggers import say
from bert_jax.runs.outcomes import Outcomes, format_table


class Outputs:
    """Computes the outputs of several seeds' models for a split.

    Args:
      config: a fine-tuning config; reads data and train.eval_batch_size.
      learner: the learner of these seeds.
    """

    def __init__(self, config: ml_collections.ConfigDict, learner: Learner):
        self._config = config
        self._num_seeds = len(learner.seeds)
        self._eval_step = learner.eval_step
        self._layout = sharding.batch_sharding(learner.mesh)

    def __call__(self, params: dict, frozen: dict, examples: Examples) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """Returns the outputs of each seed for each row, as TaskData.score takes them, and whether they are finite.

        Args:
          params: trained parameters, leaves [seeds, ...].
          frozen: the other parameters.
          examples: a split.

        Returns:
          (for each seed a list with the array of each row, bool [seeds]).
        """
        size = config_lib.value(self._config, "train.eval_batch_size")
        outputs: list[list[Any]] = [[None] * len(examples.lengths) for _ in range(self._num_seeds)]
        finite, running = np.ones(self._num_seeds, bool), []
        for rows, batch in batches.eval_batches(self._config, examples, size):
            made = self._eval_step(params, frozen, sharding.put(batch, self._layout))
            running.append((rows, batch.get("scored", batch["attention_mask"]) > 0, made))
            if len(running) > 1:  # one batch is computed while the one before is taken apart
                finite &= _distribute(outputs, *running.pop(0))
        for batch_outputs in running:
            finite &= _distribute(outputs, *batch_outputs)
        return outputs, finite


def metric_name(held_out: str, metric: str) -> str:
    """Returns the name that a metric of a held-out set has in metrics.jsonl; the only set is called ""."""
    return f"eval/{held_out}/{metric}" if held_out else f"eval/{metric}"


def selection_metric(task: TaskData) -> str:
    """Returns the name in metrics.jsonl of the metric that chooses the best checkpoint: the first held-out set's."""
    return metric_name(next(iter(task.held_out)), task.metric)


def write_results(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, learner: Learner, task: TaskData, outcomes: Outcomes
) -> dict[str, Any]:
    """Writes predictions of the best seed's best checkpoint, then summary.json, unless both are there.

    Returns:
      the content of summary.json.

    Raises:
      UserError: the checkpoint is damaged.
      OSError: a file cannot be written.
    """
    step = distributed.broadcast(lambda: checkpoints.find_step(workdir, None))
    path = workdir / "summary.json"
    summary = distributed.broadcast(lambda: json.loads(path.read_text()) if path.exists() else {})
    if summary.get("step") == step:
        return summary
    index = outcomes.best()
    seed = outcomes.seeds[index]
    predictions: dict[str, dict] = {}
    summary = {"step": step, **outcomes.summary(), "predictions": predictions}
    for line in format_table(summary):
        say(line)

    alone = learner if len(outcomes.seeds) == 1 else dataclasses.replace(learner, seeds=[seed.seed])
    items = checkpoints.load_items(workdir, step, [f"best-{index}", "frozen"])
    params, frozen = alone.layout.place(items[f"best-{index}"], items["frozen"])
    outputs = Outputs(config, alone)
    if isinstance(task, answering.QuestionTask):
        task.null_threshold = seed.best.get(metric_name(next(iter(task.held_out)), "null_threshold"), 0.0)
    splits = [(name or "held_out", examples, True) for name, examples in task.held_out.items()]
    splits += [("test", task.test, False)] if task.test is not None else []
    for name, examples, labelled in splits:
        (rows,), _ = outputs(params, frozen, examples)
        write = functools.partial(_write_predictions, workdir, name, task, examples, rows, config.task.name)
        written = {"file": distributed.broadcast(write)}
        if labelled:
            scores = task.score(examples, rows)
            written["scores"] = {key: value if math.isfinite(value) else None for key, value in scores.items()}
        predictions[name] = written
    distributed.run_on_first(lambda: storage.write_json(path, summary))
    names = ", ".join(written["file"] for written in predictions.values())
    seed_words = f"seed {seed.seed}, " if len(outcomes.seeds) > 1 else ""
    say(f"done: step {step:,}; best: {seed_words}step {seed.best_step:,}; in {workdir}: summary.json, {names}")
    return summary


def _distribute(outputs, rows, tokens, device_outputs):
    """Puts a batch's outputs in their rows' places, in place. Returns which seeds' are finite, bool [seeds].

    Outputs for tokens are kept where `tokens`, bool [batch, sequence], is True.
    """
    arrays, finite = jax.device_get(device_outputs)
    for rows_of_seed, array in zip(outputs, arrays, strict=True):
        per_token = array.ndim == 3 or array.dtype == np.int32
        for row, kept, output in zip(rows, tokens, array, strict=True):
            if row >= 0:
                rows_of_seed[row] = output[kept] if per_token else output
    return finite


def _write_predictions(workdir, name, task, examples, rows, task_name):
    """Writes the predictions of a split, each file whole or not at all. Returns the first one's path in the workdir."""
    path = workdir / "predictions" / f"{name}.jsonl"
    if not storage.is_remote(workdir):
        path.parent.mkdir(exist_ok=True)
    answers, odds = {}, {}
    with storage.atomic_open(path) as file:
        for i, prediction in enumerate(task.predictions(examples, rows)):
            others = examples.others[i] if examples.others else {}
            names = records.output_names(others, prediction)
            line = {names[name]: value for name, value in others.items()} | prediction
            file.write(files.json_line(line) + "\n")
            if task_name == "question_answering":
                answers |= answering.squad_predictions([prediction])
                odds |= answering.squad_null_odds([prediction])
    if answers:
        storage.write_json(path.with_suffix(".json"), answers)
    if odds:
        storage.write_json(path.with_suffix(".null_odds.json"), odds)
    return path.relative_to(workdir).as_posix()
