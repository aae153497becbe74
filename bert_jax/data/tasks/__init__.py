"""Labelled tasks: what fine-tuning reads, how it is scored, and what its outputs mean. numpy; no jax."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import ml_collections
import numpy as np

from bert_jax.data.vocabularies.tokenizer import Tokenizer


class Examples(Protocol):
    """A split as rows of model input; a long question-answering context gives several rows.

    Attributes:
      lengths: int32 [rows], tokens of each with special ones; none over data.sequence_length.
      tokenizer: of the rows' tokens.
    """

    lengths: np.ndarray
    tokenizer: Tokenizer

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Input and labels of these rows, padded to `length`.

        A row of -1 fills the batch: its `weights` is 0. Names and shapes:
          input_ids, attention_mask, token_type_ids int32 [batch, length]; weights float32 [batch];
          single-label: labels int32 [batch]; multi-label: labels float32 [batch, labels]; regression: labels float32
          [batch]; tokens: labels int32 [batch, length], -100 where there is none, and first_subwords int32 [batch,
          length], 1 where a word's label is predicted; question answering: start_positions, end_positions int32 [batch]
          (0, the [CLS], where the row holds no answer). Without labels in the data, the label arrays are 0 or -100.
        """
        ...


class TaskData(Protocol):
    """A task's splits, its labels and its scores.

    Attributes:
      labels: names of the outputs, in the order of ids. Regression: ("score",); question answering: ("start", "end").
      problem: of sequence classification, as in config.task.problem; else "".
      scheme: "BIO" or "BIOES" of token classification; else "".
      metric: the score that chooses the best checkpoint; larger is better.
      train: rows to learn from.
      held_out: name -> rows; the name is "" where there is one held-out set.
      test: rows to predict, or None.
      baseline: the metric of always giving the commonest answer; nan where there is none.
      notes: lines that the user should see: what was skipped or cut, and how often.
    """

    labels: tuple[str, ...]
    problem: str
    scheme: str
    metric: str
    train: Examples
    held_out: Mapping[str, Examples]
    test: Examples | None
    baseline: float
    notes: Sequence[str]

    def score(self, examples: Examples, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Every metric of a split.

        Args:
          examples: one of held_out's.
          outputs: for each row, in order: logits float32 [labels] of a sequence, [length, labels] of tokens (length:
            the row's own), [length, 2] of starts and ends; or int32 [length], the labels that a CRF chose.
        """
        ...

    def predictions(self, examples: Examples, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """One JSON object for each example (not row) of a split, in the order of the data."""
        ...


def load(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> TaskData:
    """The task of a fine-tuning config (see finetune_config.base), read, checked and tokenized.

    Text of special tokens, such as "[SEP]", becomes these tokens, as transformers' tokenizers have it.

    Raises:
      UserError: a file, a record or a setting that cannot work.
    """
    from bert_jax.data.tasks import answering, classification, tagging  # they import this module's neighbours

    kinds = {
        "sequence_classification": classification.SequenceTask,
        "token_classification": tagging.TokenTask,
        "question_answering": answering.QuestionTask,
    }
    return kinds[config.task.name](config, tokenizer)
