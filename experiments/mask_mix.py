"""Compares replacements of chosen tokens: the mask token, unchanged, or a random token (BERT appendix C.2, table 8).

python -m experiments.launch --experiment=experiments/mask_mix.py --workdir=DIR --scale=cpu
"""

from experiments import scales

MIXES = ((80, 10, 10), (100, 0, 0), (80, 0, 20), (80, 20, 0), (0, 20, 80), (0, 0, 100))  # mask, same, random: percent


def get_experiment(scale):
    return scales.experiment(
        scale,
        question="What should become of the tokens that are predicted?",
        arms={
            f"{mask}-{same}-{other}": {"data.mask_token_share": mask / 100, "data.random_token_share": other / 100}
            for mask, same, other in MIXES
        },
        published=("bert/8",),
        notes=(
            "An arm is named by the percentages of [MASK], the same token and a random one.",
            "The held-out loss is of 80-10-10 masks for every arm, as the first arm was trained with.",
        ),
    )
