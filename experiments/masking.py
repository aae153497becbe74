"""Compares static with dynamic masking (RoBERTa section 4.1, table 1).

    python -m experiments.launch --experiment=experiments/masking.py --workdir=DIR --scale=cpu

In the paper, static masking has ten masks for each instance and training makes forty passes over the text, so each mask
is seen four times. A difference can only show if masks repeat: small scales make fewer passes and use fewer masks.
"""

from experiments import scales

DUPE_FACTOR = {"smoke": 1, "cpu": 2, "gpu": 2}  # paper: the recipe's 10


def get_experiment(scale):
    static = {"data.masking": "static"}
    if scale in DUPE_FACTOR:
        static["data.dupe_factor"] = DUPE_FACTOR[scale]
    return scales.experiment(
        scale,
        question="Does it matter whether an instance is masked anew each time it is seen?",
        arms={"static": static, "dynamic": {"data.masking": "dynamic"}},
        published=("roberta/1",),
        notes=(
            "Each instance has data.dupe_factor masks in the static arm; in the dynamic one each pass over the text "
            "masks it anew.",
        ),
    )
