"""Compares masking rates from 15 to 40 % (BERT masks 15 %, ModernBERT 30 %).

python -m experiments.launch --experiment=experiments/mask_rate.py --workdir=DIR --scale=cpu
"""

from experiments import scales

RATES = (0.15, 0.2, 0.25, 0.3, 0.4)


def get_experiment(scale):
    overrides = {}
    if scale == "paper":  # the recipe's phases without max_predictions, which is for 15 %
        overrides["data.phases"] = ({"share": 0.9, "sequence_length": 128}, {"share": 0.1, "sequence_length": 512})
    return scales.experiment(
        scale,
        question="What share of the tokens should be predicted?",
        overrides=overrides,
        arms={f"{rate:.0%}": {"data.mask_rate": rate} for rate in RATES},
        notes=("The held-out loss is of 15 % masks for every arm, as the first arm was trained with.",),
    )
