"""Compares mask units: tokens, whole words (README of google-research/bert), or spans (SpanBERT section 3.1).

python -m experiments.launch --experiment=experiments/mask_unit.py --workdir=DIR --scale=cpu
"""

from experiments import scales


def get_experiment(scale):
    return scales.experiment(
        scale,
        question="Should tokens be masked one by one, or together with their word or phrase?",
        arms={unit.replace("_", "-"): {"data.mask_unit": unit} for unit in ("token", "whole_word", "span")},
        published=("bert/whole_word",),
        notes=("The held-out loss is of single tokens for every arm: what the first arm was trained on.",),
    )
