"""Computes the loss of a reranker on queries with their documents, from their scores, and metrics of the batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config.finetuning_keys import PAIR_LOSSES
from bert_jax.model import Model
from bert_jax.objectives import reranking

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True, eq=False)
class RankingLoss:
    """Computes the loss of config.loss on the scores of a model with one output.

    Attributes:
      model: the model.
      settings: config.loss.
      kind: the loss, one of config.finetuning_keys.PAIR_LOSSES and LIST_LOSSES.
    """

    model: Model
    settings: Any
    kind: str

    def counts(self, batch: Mapping) -> dict[str, jax.Array]:
        """Returns what the sums of a whole batch are divided by, float32 scalars; they depend on no parameter."""
        sums = self._sums(jnp.zeros_like(batch["labels"]), batch)
        return {name: jnp.maximum(count, 1.0) for name, (_, count) in sums.items()}

    def sums(self, params: dict, batch: Mapping, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the sum of the losses of some rows of a batch, `loss`, and of its metrics, float32 scalars.

        Args:
          params: the model's parameters.
          batch: arrays of data.tasks.reranking.Lists.batch, input_ids int32 [queries, documents, sequence].
          key: dropout key.
        """
        queries, documents, _ = batch["input_ids"].shape
        pairs = {name: batch[name].reshape(queries * documents, -1) for name in _INPUTS}
        logits = self.model.apply(params, pairs, dropout_key=key)["logits"]
        return {name: total for name, (total, _) in self._sums(logits[:, 0].reshape(queries, documents), batch).items()}

    def _sums(self, scores, batch):
        """Returns (sum, count) by name. With several documents `best_is_relevant` is the share of queries that have
        the most relevant one, or the teacher's, in the first place; of bce `pair_accuracy` of a threshold of 0.
        """
        judgements = reranking.Judgements(batch["labels"], batch["relevant"], batch["weights"])
        sums = {"loss": reranking.loss(self.kind, scores, judgements, self.settings.positive_weight)}
        if self.kind == "bce":
            right = (scores > 0) == (judgements.targets >= 0.5)
            sums["pair_accuracy"] = jnp.where(right, judgements.present, 0.0).sum(), judgements.present.sum()
        elif self.kind not in PAIR_LOSSES:
            sums["best_is_relevant"] = reranking.best_is_relevant(scores, judgements)
        return sums
