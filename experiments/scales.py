"""Defines the scales of sweeps: the same question from seconds on a laptop to the published setting.

    smoke   seconds for each run: shows that everything works, answers nothing
    cpu     minutes for each run on a core or two: 2 layers of 128
    gpu     about an hour for each run on one H200-class GPU: BERT Base at 128 tokens
    paper   the published setting, for pods

A scale sets what is equal in all arms: recipe, schedule, text, tasks and seeds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax import config as config_lib
from bert_jax.errors import UserError

from .experiment import Experiment, FineTuning, Measure, Text, configured

_OFF = {"train.tensorboard": False, "train.progress": False}
_SMALL_MODEL_OVERRIDES = {
    "optimizer.learning_rate": 2e-3,  # results/pretraining_helps.md
    "task.pooling": "mean",
    "data.sequence_length": 64,
}

# A task made from any text: are two neighbouring words of a sentence swapped? (Conneau et al. 2018, "What you can cram
# into a single vector", section 2)
BIGRAM_SHIFT = "bigram_shift"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Holds the settings that a sweep takes from its scale.

    Attributes:
      recipe: recipe of pre-training.
      overrides: overrides of the recipe in every arm.
      seeds: seeds of pre-training.
      tasks: names of the tasks that models are fine-tuned on.
      text: text of the corpus.
      evaluation: arguments of the evaluation that is the same for all arms.
    """

    recipe: str
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    text: Text
    evaluation: Mapping[str, Any]


def task(name: str, scale: str) -> FineTuning:
    """Returns a task of configs/finetune, or BIGRAM_SHIFT, with the settings of a scale."""
    small = _SMALL_MODEL_OVERRIDES if scale in ("smoke", "cpu") else {}
    steps = {"train.num_steps": 20, "train.eval_every": 10} if scale == "smoke" else {}
    seeds = {"smoke": 1, "cpu": 3, "gpu": 3}.get(scale, 5)
    if name == BIGRAM_SHIFT:
        labels = {"task.labels": ("original", "shifted")}
        return FineTuning(name, "finetune/sst2", {**_OFF, **small, **steps, **labels}, seeds, made_from_corpus=True)
    known = sorted(path.stem for path in config_lib.recipe_path("finetune/sst2").parent.glob("[!_]*.py"))
    if name not in known:
        near = config_lib.closest(name, known) or f"; expected some of {BIGRAM_SHIFT}, {', '.join(known)}"
        raise UserError(f"--tasks={name}: unknown{near}")
    return FineTuning(name, f"finetune/{name}", {**_OFF, **small, **steps}, seeds)


def score(task: FineTuning) -> Measure:
    """Returns the measure of a task: the metric that its recipe names first."""
    settings = configured(task.recipe, task.overrides).task
    metrics = settings.metrics or ("accuracy" if settings.name == "sequence_classification" else "f1",)
    label = "swapped neighbours found" if task.name == BIGRAM_SHIFT else task.name
    return Measure(f"{task.name}/{metrics[0]}", f"{label}, {metrics[0]}", higher_is_better=True)


def with_tasks(experiment: Experiment, names: Sequence[str], scale: str) -> Experiment:
    """Returns the experiment with other fine-tuning tasks and their measures."""
    before = tuple(f"{task.name}/" for task in experiment.fine_tuning)
    kept = [measure for measure in experiment.measures if not (before and measure.key.startswith(before))]
    tasks = tuple(task(name, scale) for name in names)
    return dataclasses.replace(experiment, fine_tuning=tasks, measures=(*kept, *map(score, tasks)))


def on_sst2(experiment: Experiment, scale: str) -> Experiment:
    """Returns the experiment with fine-tuning on SST-2 alone: five seeds of pre-training, each fine-tuned once.

    At smoke scale it is returned unchanged, with the task made from its own text.
    """
    if scale == "smoke":
        return experiment
    experiment = with_tasks(experiment, ("sst2",), scale)
    tasks = tuple(dataclasses.replace(task, seeds=1) for task in experiment.fine_tuning)
    return dataclasses.replace(experiment, fine_tuning=tasks, seeds=tuple(range(5)))


SCALES = {
    "smoke": Scale(
        "quickstart",
        {
            "model.hidden_size": 32,
            "model.num_heads": 2,
            "model.intermediate_size": 64,
            "data.batch_size": 16,
            "data.format": "full_sentences",
            "data.sequence_length": 32,
            "model.max_positions": 64,
            "optimizer.warmup_steps": 10,
            "optimizer.decay_steps": 20,
            "train.num_steps": 40,
            "train.log_every": 10,
            "train.eval_every": 20,
            "train.eval_batches": 2,
            "train.checkpoint_every": 10,
            "train.keep_every": 20,
            **_OFF,
        },
        (0, 1),
        (BIGRAM_SHIFT,),
        Text(tokenizer="train:wordpiece:1024", settings={"eval_share": 0.1}),
        {"batches": 4, "sequence_length": 32},
    ),
    "cpu": Scale(
        "quickstart",
        {
            "data.format": "full_sentences",
            "train.num_steps": 6000,
            "train.checkpoint_every": 500,
            "train.keep_every": 2_000,
            "optimizer.decay_steps": 1500,
            "train.keep_newest": 1,
            **_OFF,
        },
        (0, 1, 2),
        (BIGRAM_SHIFT,),
        Text(settings={"eval_share": 0.05}),
        {"sequence_length": 64, "batches": 64},
    ),
    "gpu": Scale(
        "bert_base",
        {
            "model.dtype": "bfloat16",
            "data.sequence_length": 128,
            "data.phases": (),
            "optimizer.warmup_steps": 2_000,
            "train.num_steps": 50_000,
            "train.eval_every": 5_000,
            "train.keep_every": 10_000,
            "train.progress": False,
        },
        (0, 1, 2),
        ("sst2", "mrpc"),
        Text(input="tfds:wikipedia/20230601.en:train", tokenizer="train:wordpiece:30522"),
        {"batches": 256},
    ),
    "paper": Scale(
        "bert_base",
        {"train.progress": False},
        (0, 1, 2, 3, 4),
        ("sst2", "mnli", "squad1", "squad2"),
        Text(input="tfds:wikipedia/20230601.en:train", tokenizer="train:wordpiece:30522"),
        {"batches": 1024, "sequence_length": 512},
    ),
}  # fmt: skip


def experiment(
    scale: str, *, overrides: Mapping[str, Any] | None = None, only: Sequence[str] = (), **fields: Any
) -> Experiment:
    """Returns an experiment at a scale, measured by the common held-out loss and the scale's tasks.

    Args:
      scale: a key of SCALES.
      overrides: overrides of the recipe in every arm, in addition to the scale's.
      only: the arms whose held-out losses are comparable; () for all.
      **fields: other fields of Experiment, such as question and arms.
    """
    settings = get(scale)
    extra_overrides = overrides or {}
    kept = {  # the scale's kept checkpoints suit its own interval between checkpoints
        key: value
        for key, value in settings.overrides.items()
        if key != "train.keep_every" or "train.checkpoint_every" not in extra_overrides
    }
    loss = Measure("common/mlm_loss", "held-out MLM loss, nats", only=only)
    return with_tasks(
        Experiment(
            recipe=settings.recipe,
            overrides={**kept, **extra_overrides},
            seeds=settings.seeds,
            measures=(loss,),
            evaluation=settings.evaluation,
            text=settings.text,
            **fields,
        ),
        settings.tasks,
        scale,
    )


def get(scale: str) -> Scale:
    """Returns the scale of a name. Raises UserError for an unknown one."""
    if scale not in SCALES:
        raise UserError(f"--scale={scale}: unknown; expected one of {', '.join(SCALES)}")
    return SCALES[scale]
