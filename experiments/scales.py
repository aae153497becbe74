"""How large the runs of a sweep are: the same question from seconds on a laptop to the published setting.

    smoke   seconds a run: whether everything works, no answer
    cpu     minutes a run on a core or two: 2 layers of 128
    gpu     an hour or so a run on one H200-class GPU: BERT Base at 128 tokens
    paper   the published setting, for pods

A scale changes what is equal in all arms: the recipe, the schedule, the text, the tasks, the seeds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax import config as config_lib
from bert_jax.errors import UserError

from .experiment import Experiment, FineTuning, Measure, Text, configured

_OFF = {"train.tensorboard": False, "train.progress": False}
_OF_SMALL_MODELS = {
    "optimizer.learning_rate": 3e-4,
    "optimizer.learning_rate_range": (1e-5, 1e-3),  # the published one is for Base and Large
    "task.pooling": "mean",
    "data.sequence_length": 64,
}

# Two neighbouring words of a sentence swapped or not (Conneau et al. 2018, "What you can cram into a single vector",
# section 2): a task that is made from any text.
BIGRAM_SHIFT = "bigram_shift"


@dataclasses.dataclass(frozen=True)
class Scale:
    """What a sweep takes from its scale.

    Attributes:
      recipe: of pre-training.
      overrides: of the recipe, in every arm.
      seeds: of pre-training.
      tasks: names of those that models are fine-tuned on.
      text: of the corpus.
      evaluation: arguments of the evaluation that is the same for all arms.
    """

    recipe: str
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    text: Text
    evaluation: Mapping[str, Any]


def task(name: str, scale: str) -> FineTuning:
    """A task of configs/finetune, or BIGRAM_SHIFT, with the settings of a scale."""
    small = _OF_SMALL_MODELS if scale in ("smoke", "cpu") else {}
    steps = {"train.num_steps": 20, "train.eval_every": 10} if scale == "smoke" else {}
    seeds = {"smoke": 1, "cpu": 3, "gpu": 3}.get(scale, 5)
    if name == BIGRAM_SHIFT:
        labels = {"task.labels": ("original", "shifted")}
        return FineTuning(name, "finetune/sst2", {**_OFF, **small, **steps, **labels}, seeds, made_from_corpus=True)
    known = sorted(path.stem for path in config_lib.recipe_path("finetune/sst2").parent.glob("[!_]*.py"))
    if name not in known:
        raise UserError(f"--tasks={name}: unknown; expected some of {BIGRAM_SHIFT}, {', '.join(known)}")
    return FineTuning(name, f"finetune/{name}", {**_OFF, **small, **steps}, seeds)


def score(task: FineTuning) -> Measure:
    """The figure of a task that arms are compared by: the metric that its recipe names first."""
    settings = configured(task.recipe, task.overrides).task
    metrics = settings.metrics or ("accuracy" if settings.name == "sequence_classification" else "f1",)
    label = "swapped neighbours found" if task.name == BIGRAM_SHIFT else task.name
    return Measure(f"{task.name}/{metrics[0]}", f"{label}, {metrics[0]}", higher_is_better=True)


def with_tasks(experiment: Experiment, names: Sequence[str], scale: str) -> Experiment:
    """An experiment that fine-tunes on other tasks."""
    before = tuple(f"{task.name}/" for task in experiment.fine_tuning)
    kept = [measure for measure in experiment.measures if not (before and measure.key.startswith(before))]
    tasks = tuple(task(name, scale) for name in names)
    return dataclasses.replace(experiment, fine_tuning=tasks, measures=(*kept, *map(score, tasks)))


def on_sst2(experiment: Experiment, scale: str) -> Experiment:
    """An experiment that is decided by fine-tuning on SST-2: five seeds of pre-training, each fine-tuned once.

    Smoke runs keep the task that is made from any text.
    """
    if scale == "smoke":
        return experiment
    found = with_tasks(experiment, ("sst2",), scale)
    tasks = tuple(dataclasses.replace(task, seeds=1) for task in found.fine_tuning)
    return dataclasses.replace(found, fine_tuning=tasks, seeds=tuple(range(5)))


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
    """An experiment at a scale, compared by held-out loss, the same for all arms, and by the scale's tasks.

    Args:
      scale: a key of SCALES.
      overrides: of the recipe in every arm, beyond the scale's.
      only: the arms whose held-out losses can be compared; () for all.
      fields: of Experiment.
    """
    found = get(scale)
    loss = Measure("common/mlm_loss", "held-out MLM loss, nats", only=only)
    return with_tasks(
        Experiment(
            recipe=found.recipe,
            overrides={**found.overrides, **(overrides or {})},
            seeds=found.seeds,
            measures=(loss,),
            evaluation=found.evaluation,
            text=found.text,
            **fields,
        ),
        found.tasks,
        scale,
    )


def get(scale: str) -> Scale:
    """Raises UserError for a scale that is none."""
    if scale not in SCALES:
        raise UserError(f"--scale={scale}: unknown; expected one of {', '.join(SCALES)}")
    return SCALES[scale]
