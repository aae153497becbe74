"""Measures what pre-training is worth at a small scale: the same architecture fine-tuned from two kinds of weights.

    python -m experiments.pretraining_helps --model=WORKDIR --data=DIR --workdir=DIR [--stages rates final ...]

--model is a pre-training run; --data holds `sst2/` (train.tsv, dev.tsv: sentence, label, no header), `stsb/`
(stsb-en-train.csv, stsb-en-dev.csv: two sentences and a score) and `mrpc/` (msr_paraphrase_train.txt,
msr_paraphrase_test.txt, with a header). Two arms start from the checkpoint ("pre-trained") and from fresh weights of
the same architecture, vocabulary and initialisation ("scratch", as `config.from_scratch`).

A tenth of the training examples is set apart ("tune"): rates are chosen on it, dev is reported. The stages:

    rates     every learning rate of a task, for each arm, trained on the other nine tenths
    final     each arm at the rate that is best on "tune", other seeds, all training examples
    labels    fewer examples, several rates; the report takes the best on "tune" for each count and arm
    variants  one setting at a time changed, at the arm's best rate
    starts    the checkpoint with other first weights (STARTS), at a low rate and at the best one

A score is that of the last step, never the best of several evaluations. Each run is a line of WORKDIR/results.jsonl,
and a run that is there is not run again. experiments/pretraining_report.py writes the tables.

The batches, heads, losses, optimizer and scores are those of bert_jax.finetune, with rows packed; the loop is here so
that one compiled step serves every rate, schedule and number of examples, since AdamW's update is its rate times what
does not depend on it.
"""

import argparse
import csv
import dataclasses
import functools
import json
import math
import pathlib
import random
import re
import statistics
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.data import tasks
from bert_jax.data.tasks import batches
from bert_jax.finetuning import losses, trainable
from bert_jax.model import parameters
from bert_jax.runs.models import open_model
from bert_jax.training import step as step_lib
from bert_jax.training.optimizer import make_optimizer, make_schedule

ARMS = ("pre-trained", "scratch")
LABELS = (100, 300, 1000, 3000)
LABEL_RATES = (3e-4, 1e-3, 3e-3)
LEAST_STEPS = 200  # so that two epochs of a few examples are not two steps
PACKED_ROWS = 16  # the number of packed rows of a batch is a multiple of it, so that few shapes are compiled
TASKS = {
    "SST-2": {
        "recipe": "finetune/sst2", "folder": "sst2", "train": "train.tsv", "dev": "dev.tsv", "metric": "accuracy",
        "epochs": 2, "rates": (1e-3, 3e-4, 2e-3, 1e-4, 3e-3, 5e-3, 3e-5, 1e-5),
        "task": {"columns": ("sentence", "label"), "text": "sentence", "label": "label"},
    },
    "STS-B": {
        "recipe": "finetune/stsb", "folder": "stsb", "train": "stsb-en-train.csv", "dev": "stsb-en-dev.csv",
        "metric": "pearson", "epochs": 4, "rates": (5e-4, 1e-3, 2e-3, 3e-3, 2e-4),
        "task": {
            "columns": ("sentence1", "sentence2", "score"), "text": "sentence1", "text_pair": "sentence2",
            "label": "score",
        },
    },
    "MRPC": {
        "recipe": "finetune/mrpc", "folder": "mrpc", "train": "msr_paraphrase_train.txt",
        "dev": "msr_paraphrase_test.txt", "header": True, "metric": "accuracy", "epochs": 4,
        "rates": (5e-4, 1e-3, 2e-3, 3e-3, 2e-4),
        "task": {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"},
    },
}  # fmt: skip
VARIANTS = {
    "dropout 0.1": {"model.hidden_dropout": 0.1, "model.attention_dropout": 0.1},
    "pooling cls": {"task.pooling": "cls"},
    "pooling max": {"task.pooling": "max"},
    "4 epochs": {"train.num_epochs": 4.0},
    "frozen encoder": {"tuning.freeze": "encoder"},
    "frozen embeddings": {"tuning.freeze": "embeddings"},
    "layer decay 0.5": {"optimizer.layer_decay": 0.5, "optimizer.layer_decay_offset": 0},
    "no warm-up": {"optimizer.warmup_share": 0.0},
    "no dropout before the head": {"task.dropout": 0.0},
    "initialisation 0.02": {"initializer_range": 0.02},
    "rows not packed": {"data.packing": False},
}  # keys without a group are the model's own settings
_SAME_STEP = ("optimizer.warmup_share", "train.num_epochs")  # keys that the compiled step does not depend on


def smaller_embeddings(params):
    """Returns the checkpoint with word and token-type embeddings as small as fresh ones: a norm undoes the factor."""

    def change(path, leaf):
        name = parameters.path_name(path)
        return (
            leaf * np.float32(0.385) if re.fullmatch(r"encoder/embeddings/(word|token_type)/embedding", name) else leaf
        )

    return jax.tree_util.tree_map_with_path(change, params)


def permuted(params):
    """Returns the checkpoint with the values of each array in a random order: their size without what they say."""
    draw = np.random.default_rng(0)
    encoder = jax.tree.map(lambda leaf: draw.permutation(np.ravel(leaf)).reshape(leaf.shape), params["encoder"])
    return dict(params) | {"encoder": encoder}


STARTS = {"embeddings x 0.385": smaller_embeddings, "values permuted": permuted}


@dataclasses.dataclass(frozen=True)
class Run:
    """Describes one seed of one fine-tuning.

    Attributes:
      stage, task: names.
      arm: one of ARMS.
      rate: the peak learning rate.
      labels: training examples; 0 for all that are not set apart, -1 for all.
      seed: seed of head, order and dropout, and from scratch of the weights.
      variant: what differs from the stage's settings: a key of VARIANTS or STARTS, or "".
    """

    stage: str
    task: str
    arm: str
    rate: float
    labels: int
    seed: int
    variant: str = ""

    @property
    def changes(self) -> dict:
        """Returns the variant as config keys."""
        return VARIANTS.get(self.variant, {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the workdir of the pre-trained model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["SST-2"])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    path = pathlib.Path(flags.workdir) / "results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path.parent / "compiled"))
    for stage in flags.stages:
        for task in flags.tasks:
            for run in STAGES[stage](flags, task, functools.partial(read, path)):
                if not any(dataclasses.asdict(run).items() <= result.items() for result in read(path)):
                    result = execute(run, flags)
                    with open(path, "a", encoding="utf-8") as file:
                        file.write(json.dumps(result) + "\n")
                    print(json.dumps(result), flush=True)


def read(path):
    """Returns every result so far."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def rates(flags, task, results):
    """Yields each arm at each rate; seed by seed, so that what is there first is the whole range."""
    for seed in range(flags.seeds):
        for rate in TASKS[task]["rates"]:
            for arm in ARMS:
                yield Run("rates", task, arm, rate, 0, seed)


def final(flags, task, results):
    """Yields each arm at its best rate, with seeds that chose nothing."""
    for seed in range(100, 100 + flags.seeds):
        for arm in ARMS:
            yield Run("final", task, arm, best_rate(results(), task, arm), -1, seed)


def labels(flags, task, results):
    """Yields runs on fewer training examples: one seed at each rate, then the others at the best rate of the arm."""
    for count in LABELS:
        for arm in ARMS:
            for rate in LABEL_RATES:
                yield Run("labels", task, arm, rate, count, 0)
    for seed in range(1, flags.seeds):
        for count in LABELS:
            for arm in ARMS:
                yield Run("labels", task, arm, best_rate(results(), task, arm, "labels", count), count, seed)


def variants(flags, task, results):
    """Yields runs with one setting changed, each arm at its best rate."""
    for variant, changes in VARIANTS.items():
        for seed in range(flags.seeds):
            for arm in ARMS:
                if "tuning.freeze" in changes and arm == "scratch":  # fresh weights are not worth keeping
                    continue
                yield Run("variants", task, arm, best_rate(results(), task, arm), 0, seed, variant)


def starts(flags, task, results):
    """Yields runs of the checkpoint with other first weights, at a low rate and at the best one of the checkpoint."""
    for start in STARTS:
        for rate in sorted({3e-4, best_rate(results(), task, "pre-trained")}):
            for seed in range(flags.seeds):
                yield Run("starts", task, "pre-trained", rate, 0, seed, start)


STAGES = {"rates": rates, "final": final, "labels": labels, "variants": variants, "starts": starts}


def best_rate(results, task, arm, stage="rates", count=0):
    """Returns the rate with the best mean score on the examples set apart, of the first seeds."""
    scores = {}
    for result in results:
        if [result[name] for name in ("stage", "task", "arm", "labels")] == [stage, task, arm, count]:
            scores.setdefault(result["rate"], []).append(result["tune"])
    if stage == "labels":  # later seeds were run at one rate alone
        scores = {rate: tunes[:1] for rate, tunes in scores.items()}
    return max(scores, key=lambda rate: statistics.mean(scores[rate]))


def execute(run, flags):
    """Fine-tunes and returns the run with its scores, steps and seconds."""
    began = time.time()
    config = make_config(run, flags)
    source = opened(config.init_from)
    data = loaded(run.task, run.labels, flags.data, flags.workdir, source.name)
    changes = tuple(sorted((key, value) for key, value in run.changes.items() if key not in _SAME_STEP))
    setup = compiled(run.task, changes, source.name)
    steps = config.train.num_steps or math.ceil(config.train.num_epochs * batches.steps_per_epoch(config, data.train))
    key, dropout_key = step_lib.keys(run.seed)
    params = {} if run.arm == "scratch" else STARTS.get(run.variant, dict)(source.params)
    taken, draw, _, _ = parameters.fit_parameters(setup.model, params)
    trained, frozen = trainable.split_params(parameters.merge_trees(taken, draw(key)), setup.frozen)
    trained = jax.tree.map(jnp.array, trained)  # copies, as the step consumes them
    opt_state = setup.optimizer.init(trained)
    settings = dict(config.optimizer) | {"warmup_steps": math.ceil(config.optimizer.warmup_share * steps)}
    schedule = make_schedule(settings, steps)
    for step in range(steps):
        batch = batches.train_batch(config, data, [run.seed], step, unit=PACKED_ROWS)
        batch = {name: array[0] for name, array in batch.items()}
        trained, opt_state, loss = setup.step(
            trained, opt_state, frozen, batch, jax.random.fold_in(dropout_key, step), schedule(step)
        )
    result = dataclasses.asdict(run) | {"metric": TASKS[run.task]["metric"], "steps": steps, "loss": float(loss)}
    for name, examples in data.held_out.items():
        outputs = [None] * len(examples.lengths)
        for rows, batch in batches.eval_batches(config, examples, 128):
            for row, output in zip(rows, np.asarray(setup.outputs(trained, frozen, batch)), strict=True):
                if row >= 0:
                    outputs[row] = output
        result[name] = float(data.score(examples, outputs)[result["metric"]])
    return result | {"seconds": round(time.time() - began)}


def make_config(run, flags):
    """Returns the fine-tuning config of a run."""
    task = TASKS[run.task]
    config = base_config(run.task, flags.model)
    config.optimizer.learning_rate = run.rate
    if run.labels > 0 and task["epochs"] * run.labels < LEAST_STEPS * config.data.batch_size:
        config.train.num_steps = LEAST_STEPS
    config.update_from_flattened_dict(config_keys(run.changes))
    return config


def config_keys(changes):
    """Returns the changes that a fine-tuning config can state."""
    return {key: value for key, value in dict(changes).items() if "." in key}


def base_config(task, model):
    """Returns what the fine-tuning configs of a task share."""
    config = config_lib.load_recipe(TASKS[task]["recipe"])
    config.init_from = model
    config.task.update(TASKS[task]["task"])
    config.task.pooling = "mean"
    config.data.update(sequence_length=64, batch_size=32, packing=True)
    config.train.num_epochs = float(TASKS[task]["epochs"])
    return config


@functools.cache
def opened(model):
    return open_model(model)


@functools.cache
def loaded(task, count, data, workdir, model):
    """Returns the task's data with `count` training examples, and the held-out sets "tune" and "dev"."""
    paths = split(task, count, pathlib.Path(data), pathlib.Path(workdir) / "data")
    config = base_config(task, model)
    config.task.update(train=str(paths["train"]), held_out=f"tune={paths['tune']},dev={paths['dev']}")
    if count < 0:
        config.task.held_out = f"dev={paths['dev']}"
    return tasks.load(config, opened(model).tokenizer)


@dataclasses.dataclass(frozen=True)
class Setup:
    """Holds a model with a task's head, and what trains it.

    Attributes:
      model: the model with the head.
      frozen: names of the parameters that are not trained.
      optimizer: the optimizer at a rate of 1.
      step: (trained, opt_state, frozen, batch, dropout key, rate) -> (trained, opt_state, loss).
      outputs: (trained, frozen, batch) -> logits.
    """

    model: model_lib.Model
    frozen: frozenset
    optimizer: optax.GradientTransformation
    step: object
    outputs: object


@functools.cache
def compiled(task, changes, model):
    """Returns the Setup of a task, of the changed config keys that the step depends on, and of an architecture."""
    config, source = base_config(task, model), opened(model)
    config.update_from_flattened_dict(config_keys(changes))
    problem, labels = config.task.problem, 1 if config.task.problem == "regression" else 2
    dropout = model_lib.Task.dropout if config.task.dropout < 0 else config.task.dropout
    head = model_lib.Task(config.task.name, labels, config.task.pooling, dropout)
    settings = dict(source.config) | {"pooler": False}
    settings |= {key: value for key, value in changes if "." not in key}
    for key in ("hidden_dropout", "attention_dropout"):
        if config.model[key] >= 0:
            settings[key] = config.model[key]
    heads = {"next_sentence": False, "language_model": False, "task": head}
    built = model_lib.build(settings, settings["vocab_size"], **heads)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    frozen = trainable.frozen_names(shapes, config.tuning)
    share = trainable.rate_multiplier(config.optimizer.layer_decay, built.spec, config.optimizer.layer_decay_offset)
    unit = dict(config.optimizer) | {"learning_rate": 1.0, "schedule": "constant", "warmup_steps": 0}
    optimizer = make_optimizer(unit, 1, share)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trained, opt_state, kept, batch, dropout_key, rate):
        count = jnp.maximum(losses.loss_denominator(batch, built, problem), 1.0)

        def loss_of(trained):
            params = parameters.merge_trees(trained, kept)
            return losses.loss_sum(built, params, batch, problem, dropout_key) / count

        loss, gradient = jax.value_and_grad(loss_of)(trained)
        updates, opt_state = optimizer.update(gradient, opt_state, trained)
        updates = jax.tree.map(lambda update: rate * update, updates)
        return optax.apply_updates(trained, updates), opt_state, loss

    @jax.jit
    def outputs(trained, kept, batch):
        return losses.task_outputs(built, parameters.merge_trees(trained, kept), batch)[0]

    return Setup(built, frozen, optimizer, step, outputs)


def split(name, count, source, folder) -> Mapping[str, pathlib.Path]:
    """Returns the files of the training examples, of the tenth that is set apart, and of dev; writes the first two."""
    task = TASKS[name]
    source, suffix = source / task["folder"], pathlib.Path(task["train"]).suffix
    paths = {part: folder / f"{task['folder']}-{part}{suffix}" for part in ("tune", "0", f"{count}")}
    if not paths["tune"].exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = read_rows(source / task["train"])
        header = [rows.pop(0)] if task.get("header") else []
        random.Random(0).shuffle(rows)
        write_rows(paths["0"], header + rows[len(rows) // 10 :])
        write_rows(paths["tune"], header + rows[: len(rows) // 10])
    if count > 0 and not paths[f"{count}"].exists():
        write_rows(paths[f"{count}"], read_rows(paths["0"])[: count + bool(task.get("header"))])
    train = source / task["train"] if count < 0 else paths[f"{count}"]
    return {"train": train, "tune": paths["tune"], "dev": source / task["dev"]}


def read_rows(path):
    """Returns the rows of a CSV file, or of a file separated by tabs, whose quotes are characters like others."""
    form = {} if path.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, **form))


def write_rows(path, rows):
    """Writes rows as read_rows reads them."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix != ".csv":
            file.writelines("\t".join(row) + "\n" for row in rows)
        else:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
