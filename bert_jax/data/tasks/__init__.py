"""Reads the labelled tasks of fine-tuning, scores a model's outputs and turns them into predictions. Needs no jax."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import ml_collections
import numpy as np

from bert_jax.data.vocabularies.tokenizer import Tokenizer


class Examples(Protocol):
    """Holds a split as rows of model input; an example, such as a question about a long context, may have several rows.

    Attributes:
      lengths: int32 [rows], tokens of each row with special ones; at most data.sequence_length.
      tokenizer: the tokenizer of the rows.
      others: what else the record of each example holds, by column; () for train, and where that is nothing.
    """

    lengths: np.ndarray
    tokenizer: Tokenizer
    others: Sequence[Mapping[str, Any]]

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns inputs and labels of the given rows, padded to `length`.

        Args:
          rows: int [batch]; a row of -1 is a filler, whose `weights` is 0.
          length: tokens of a padded row.

        Returns:
          input_ids, attention_mask, token_type_ids int32 [batch, length]; weights float32 [batch]; and
          single-label: labels int32 [batch];
          multi-label: labels float32 [batch, labels];
          regression: labels float32 [batch];
          tokens: labels int32 [batch, length], -100 where there is none, and first_subwords int32 [batch, length],
          1 where a word's label is predicted;
          question answering: start_positions, end_positions int32 [batch], 0 (the [CLS]) where the row holds no answer,
          and global_positions int32 [batch, k], those of the question and of what stands before it, else -1;
          embedding: see data.tasks.vector_sets.Groups.batch for train; vectors of held-out texts have no labels;
          reranking: see data.tasks.reranking.Lists.batch for train; labels float32 [batch] of held-out pairs.
          Without labels in the data, the label arrays are 0 or -100.
        """
        ...


class TaskData(Protocol):
    """Holds a task's splits, labels and metrics.

    Attributes:
      labels: names of the outputs, in the order of ids. Regression: ("score",); question answering: ("start", "end");
        embedding: the classes of pairs, or (); reranking: ("score",).
      problem: config.task.problem for sequence classification; the loss of an embedder or reranker; else "".
      scheme: "BIO" or "BIOES" for token classification of entities; else "".
      metric: name of the metric that chooses the best checkpoint; larger is better.
      train: rows to train on.
      held_out: name -> rows; the name is "" where there is one held-out set.
      test: rows to predict, or None.
      baseline: the metric of a constant prediction; nan where there is none.
      notes: lines for the user: what was skipped or cut, and how often.
      settings: JSON values that the prediction of new texts needs, such as how words are cut.
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
    settings: Mapping[str, Any]

    def score(self, examples: Examples, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns the metrics of a split.

        Args:
          examples: one of `held_out`.
          outputs: for each row, in order: logits float32 [labels] for sequences, [length, labels] for tokens (the row's
            own length), [length, 2] for starts and ends; or int32 [length], the labels that a CRF chose.
        """
        ...

    def predictions(self, examples: Examples, outputs: Sequence[np.ndarray]) -> Iterator[dict]:
        """Yields one JSON object for each example (not row) of a split, in the order of the data.

        Args:
          examples: one of the splits.
          outputs: as in `score`: [labels], [length, labels] or [length, 2] for each row.
        """
        ...


def load(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> TaskData:
    """Reads, checks and encodes the task of a fine-tuning config (see config.finetuning.base).

    The name of a special token in the text, such as "[SEP]", becomes that token, as with transformers' tokenizers.

    Raises:
      UserError: a file, a record or a setting cannot work.
    """
    return task_classes()[config.task.name](config, tokenizer)


def task_classes() -> dict[str, type]:
    """Returns the class that reads each kind of task, by the value of config.task.name."""
    from bert_jax.data.tasks import (
        answering,
        classification,
        embedding,
        reranking,
        tagging,
    )  # here, so that importing a neighbour is cheap

    return {
        "sequence_classification": classification.SequenceTask,
        "token_classification": tagging.TokenTask,
        "question_answering": answering.QuestionTask,
        "embedding": embedding.EmbeddingTask,
        "reranking": reranking.RerankingTask,
    }
