"""Compares next-sentence prediction, none, and left to right (BERT section 5.1, table 5).

    python -m experiments.launch --experiment=experiments/objectives.py --workdir=DIR --scale=cpu

All arms read the same rows, segment pairs. A left-to-right model predicts every next token, so its loss is not
comparable: it is compared by fine-tuning alone. There the classifier pools the mean of all tokens, since the first
token of a causal model attends to itself alone.
"""

import dataclasses

from experiments import scales

PAIRS, SINGLE, LTR = "MLM + NSP", "no NSP", "LTR, no NSP"


def get_experiment(scale):
    experiment = scales.experiment(
        scale,
        question="What do next-sentence prediction and reading in both directions add?",
        overrides={"model.pooler": True, "objective.next_sentence": True, "data.format": "segment_pair"},
        arms={
            PAIRS: {},
            SINGLE: {"objective.next_sentence": False},
            LTR: {"objective.next_sentence": False, "objective.name": "ltr", "model.attention": "causal"},
        },
        only=(PAIRS, SINGLE),
        published=("bert/5",),
        notes=(
            "The held-out loss of the left-to-right arm is of predicting the next token and not compared.",
            "In fine-tuning for classification every arm reads the mean of the last hidden states.",
        ),
    )
    tasks = [task if task.name.startswith("squad") else _with_mean_pooling(task) for task in experiment.fine_tuning]
    return dataclasses.replace(experiment, fine_tuning=tuple(tasks))


def _with_mean_pooling(task):
    return dataclasses.replace(task, overrides={**task.overrides, "task.pooling": "mean"})
