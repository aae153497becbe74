"""Compares RoBERTa's four input formats (RoBERTa section 4.2, table 2).

    python -m experiments.launch --experiment=experiments/input_formats.py --workdir=DIR --scale=cpu

Rows of some formats are shorter; their batches have more rows, so that each step has equally many tokens.
"""

from experiments import scales


def get_experiment(scale):
    pairs, single = {"objective.next_sentence": True}, {"objective.next_sentence": False}
    return scales.experiment(
        scale,
        question="Which rows are best to pre-train on, with and without next-sentence prediction?",
        overrides={"model.pooler": True},  # in every arm, also where nothing trains it
        arms={
            "segment-pair": {"data.format": "segment_pair", **pairs},
            "sentence-pair": {"data.format": "sentence_pair", **pairs},
            "full-sentences": {"data.format": "full_sentences", **single},
            "doc-sentences": {"data.format": "doc_sentences", **single},
        },
        equal_tokens=True,
        published=("roberta/2",),
        notes=(
            "data.batch_size differs between the arms so that a step has equally many tokens; the number of steps is "
            "the same.",
            "The held-out loss is of full-sentences rows for every arm: closest to what that arm was trained on.",
        ),
    )
