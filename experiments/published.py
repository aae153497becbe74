"""Lists published results that reports show beside ours."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds a table of a paper.

    Attributes:
      title: paper and topic.
      source: reference, with the data sets and units of the values.
      columns: names of the metrics.
      rows: {the paper's name of a setting: a value for each column, None where the paper has none}.
    """

    title: str
    source: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | None]]


_BERT = "Devlin et al. 2019, BERT, arXiv 1810.04805"
_ROBERTA = "Liu et al. 2019, RoBERTa, arXiv 1907.11692"

TABLES: Mapping[str, Table] = {
    "bert/5": Table(
        "BERT, table 5: pre-training tasks, BERT Base",
        f"{_BERT}, table 5; development sets, in percent; how many seeds, and their spread, is not in the table",
        ("MNLI-m accuracy", "QNLI accuracy", "MRPC accuracy", "SST-2 accuracy", "SQuAD 1.1 F1"),
        {
            "MLM + NSP (BERT Base)": (84.4, 88.4, 86.7, 92.7, 88.5),
            "no NSP": (83.9, 84.9, 86.5, 92.6, 87.9),
            "LTR, no NSP": (82.1, 84.3, 77.5, 92.1, 77.8),
            "LTR, no NSP, + BiLSTM": (82.1, 84.1, 75.7, 91.6, 84.9),
        },
    ),
    "bert/8": Table(
        "BERT, table 8: what chosen tokens become (share of [MASK] / same / random)",
        f"{_BERT}, table 8; development sets, in percent; how many seeds, and their spread, is not in the table",
        ("MNLI, fine-tuned", "NER, fine-tuned", "NER, feature-based"),
        {
            "80/10/10": (84.2, 95.4, 94.9),
            "100/0/0": (84.3, 94.9, 94.0),
            "80/0/20": (84.1, 95.2, 94.6),
            "80/20/0": (84.4, 95.2, 94.7),
            "0/20/80": (83.7, 94.8, 94.6),
            "0/0/100": (83.6, 94.9, 94.6),
        },
    ),
    "roberta/1": Table(
        "RoBERTa, table 1: static and dynamic masking, BERT Base",
        f"{_ROBERTA}, table 1; in percent; medians of 5 seeds, without their spread; the reference is from Yang et "
        "al. 2019 (XLNet)",
        ("SQuAD 2.0 F1", "MNLI-m accuracy", "SST-2 accuracy"),
        {
            "reference": (76.3, 84.3, 92.8),
            "static": (78.3, 84.3, 92.5),
            "dynamic": (78.7, 84.0, 92.9),
        },
    ),
    "roberta/2": Table(
        "RoBERTa, table 2: input formats, with and without NSP, BERT Base",
        f"{_ROBERTA}, table 2; development sets, in percent; medians of 5 seeds, without their spread",
        ("SQuAD 1.1 F1", "SQuAD 2.0 F1", "MNLI-m accuracy", "SST-2 accuracy", "RACE accuracy"),
        {
            "segment-pair, NSP": (90.4, 78.7, 84.0, 92.9, 64.2),
            "sentence-pair, NSP": (88.7, 76.2, 82.9, 92.1, 63.0),
            "full-sentences": (90.4, 79.1, 84.7, 92.5, 64.8),
            "doc-sentences": (90.6, 79.7, 84.7, 92.7, 65.6),
        },
    ),
    "bert/whole_word": Table(
        "BERT, README: whole-word masking, BERT Large uncased",
        "README of google-research/bert; development sets, in percent; how many seeds, and their spread, is not said",
        ("SQuAD 1.1 F1", "SQuAD 1.1 exact match", "MNLI accuracy"),
        {
            "token (original)": (91.0, 84.3, 86.05),
            "whole word": (92.8, 86.7, 87.07),
        },
    ),
}
