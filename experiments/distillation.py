"""Trains a student with and without a teacher (DistilBERT: Sanh et al. 2019, sections 3 and 4.2).

    python -m experiments.launch --experiment=experiments/distillation.py --workdir=DIR --scale=cpu --corpus=CORPUS \\
        --model=TEACHER

TEACHER is a model with the vocabulary of CORPUS and twice the student's layers; at cpu scale, the model of

    python -m bert_jax.pretrain --config=quickstart --workdir=TEACHER --config.data.corpus=CORPUS \\
        --config.data.format=full_sentences --config.model.num_layers=4 --config.train.num_steps=4000 \\
        --config.model.positions=rotary

Positions are rotary at that scale: with learned ones so short a run hardly leaves the unigram baseline, and a teacher
that knows little has little to teach. The student starts as every other layer of the teacher and trains with the losses
of distillation, or with masked language modeling alone; a third arm starts from random parameters. Steps and rows are
the same in all arms.
"""

from bert_jax.config import load_recipe
from experiments import scales
from experiments.experiment import MODEL

_CPU = {"train.num_steps": 2_000, "optimizer.decay_steps": 700, "model.positions": "rotary"}
ALONE, DISTILLED, FRESH = "no teacher", "distilled", "no teacher, fresh"


def get_experiment(scale):
    settings = scales.get(scale)
    layers = settings.overrides.get("model.num_layers", load_recipe(settings.recipe).model.num_layers)
    layers = layers if scale in ("smoke", "cpu") else layers // 2
    every_other = tuple(range(0, 2 * layers, 2))
    experiment = scales.experiment(
        scale,
        question="What does a teacher add to a student that begins as half of its layers?",
        overrides={
            "model.num_layers": layers,
            "model.pooler": False,
            "objective.next_sentence": False,
            "data.format": "full_sentences",
            "init_layers": every_other,
            "init_from": MODEL,
            **(_CPU if scale == "cpu" else {}),
        },
        arms={
            ALONE: {},
            DISTILLED: {"objective.name": "distillation", "distillation.teacher": MODEL},
            FRESH: {"init_from": "", "init_layers": ()},
        },
        notes=("The student has half of the teacher's layers; it reads as many rows in every arm.",),
    )
    return scales.on_sst2(experiment, scale)
