"""Computes the loss of an embedder on a batch of texts, from their vectors, and metrics of the batch.

A batch holds, for each example, an anchor and the texts that it is compared with, its others: the positive first, then
the negatives (see data.tasks.vector_sets.Groups).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.data.tasks.vector_sets import GUIDE, OTHERS
from bert_jax.model import Model, denoising
from bert_jax.objectives import contrastive
from bert_jax.objectives.cross_entropy import token_cross_entropy

_DIVERGENCE_TEMPERATURE = 0.3  # sentence-transformers' AdaptiveLayerLoss
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "skipped", "scored")


@dataclasses.dataclass(frozen=True, eq=False)
class _Pairs:
    """Holds the vectors of a batch, the cosines of its pairs, and what the losses of PAIR_SUMS read beside them."""

    anchors: jax.Array  # [examples, size]
    others: jax.Array  # [examples, texts, size]
    cosines: jax.Array  # [examples]
    scores: jax.Array  # dot products [examples, texts]
    labels: jax.Array  # [examples], or a teacher's scores [examples, texts]
    weights: jax.Array  # [examples]
    present: jax.Array  # 1.0 for a text that counts, else 0.0, [examples, texts]
    temperature: jax.Array | float
    margin: float


# Value of config.loss.name -> (sum, count) of pairs, for losses that need nothing else; see contrastive.py.
PAIR_SUMS: dict[str, Callable[[_Pairs], tuple[jax.Array, jax.Array]]] = {
    "cosent": lambda pairs: contrastive.cosent(pairs.cosines / pairs.temperature, pairs.labels, pairs.weights),
    "angle": lambda pairs: contrastive.cosent(
        contrastive.angle_similarities(pairs.anchors, pairs.others[:, 0]) / pairs.temperature,
        pairs.labels,
        pairs.weights,
    ),
    "cosine": lambda pairs: contrastive.cosine_regression(pairs.cosines, pairs.labels, pairs.weights),
    "triplet": lambda pairs: contrastive.triplet(
        pairs.anchors, pairs.others[:, 0], pairs.others[:, 1], pairs.margin, pairs.weights
    ),
    "margin_mse": lambda pairs: contrastive.margin_mse(pairs.scores, pairs.labels, pairs.present),
    "kl": lambda pairs: contrastive.divergence(pairs.scores / pairs.temperature, pairs.labels, pairs.present),
}


@dataclasses.dataclass(frozen=True, eq=False)
class VectorLoss:
    """Computes the loss of config.loss on the vectors of a model.

    Attributes:
      model: a model with an embedder's head.
      settings: config.loss.
      kind: the loss, one of config.finetuning.VECTOR_LOSSES.
      normalize: whether vectors are compared after they are scaled to length 1.
      sparse: whether they are weights of the vocabulary's tokens.
      cost_share: what loss.flops_anchor and flops_other are multiplied by.
      late: whether they are those of a text's tokens, compared by late interaction.
    """

    model: Model
    settings: Any
    kind: str
    normalize: bool
    sparse: bool = False
    cost_share: jax.Array | float = 1.0
    late: bool = False

    def encode(self, params: dict, batch: Mapping, numbers: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the vectors of examples: anchors float32 [examples, size] and others [examples, texts, size].

        For late interaction they are [examples, tokens, size] and [examples, texts, tokens, size].

        Args:
          params: the model's parameters.
          batch: arrays [examples, ...] of data.tasks.vector_sets.Groups.batch.
          numbers: number of each example in the whole batch, int32 [examples].
          key: dropout key.
        """
        inputs = [name for name in _INPUTS if name in batch]
        anchors = {name: batch[name] for name in inputs}
        if self.kind == "denoising":
            return self._rebuilt(params, anchors | {"row_numbers": numbers}, key)
        columns = batch[OTHERS + "input_ids"].shape[1]
        if not columns:  # each anchor is learned by itself
            first = self._vectors(params, anchors | {"row_numbers": numbers}, key, key)
            return {"anchors": first, "others": jnp.zeros((len(first), 0, first.shape[-1]), first.dtype)}
        others = {name: batch[OTHERS + name].reshape(-1, *batch[OTHERS + name].shape[2:]) for name in inputs}
        rows = (numbers[:, None] * columns + jnp.arange(columns, dtype=jnp.int32)[None]).reshape(-1)
        keys = jax.random.split(key)
        first = self._vectors(params, anchors | {"row_numbers": numbers}, keys[0], key)
        second = self._vectors(params, others | {"row_numbers": rows}, keys[1], key)
        return {"anchors": first, "others": second.reshape(-1, columns, *second.shape[1:])}

    def _vectors(self, params, texts, dropout_key, step_key):
        """Returns the vectors of texts, [texts, ...]; with loss.prior_layers those of drawn layers side by side.

        The last layer's come first.
        """
        number = self.settings.prior_layers
        outputs = self.model.apply(params, texts, dropout_key=dropout_key, hidden_states=number > 0)
        if not number:
            return outputs["vectors"]
        below = self.model.spec.num_layers - 1
        drawn = jax.random.choice(jax.random.fold_in(step_key, 1), below, (min(number, below),), replace=False)
        chosen = jnp.concatenate([jnp.full(1, below), drawn])
        return outputs["layer_vectors"][:, chosen].reshape(len(outputs["vectors"]), -1)

    def _rebuilt(self, params, texts, key):
        """Returns of each text the summed cross-entropy of its tokens, how many are predicted, and how many rightly.

        The text is rebuilt from the vector of what deletions leave of it (Wang et al. 2021, equation 1).
        """
        keys = jax.random.split(key, 3)
        padding = max(0, self.model.spec.position_offset - 1)
        noised = denoising.with_deletions(texts, self.settings.deletion, keys[0], padding)
        vectors = self.model.apply(params, noised, dropout_key=keys[1], mlm_logits=False)["vectors"]
        logits = self.model.rebuild(params, texts, vectors, dropout_key=keys[2])
        losses, short_of_best = token_cross_entropy(logits[:, :-1], texts["input_ids"][:, 1:])
        present = (texts["attention_mask"][:, 1:] != 0).astype(jnp.float32)
        correct = jnp.where(short_of_best == 0, present, 0.0)
        return {"losses": (losses * present).sum(1), "tokens": present.sum(1), "correct": correct.sum(1)}

    def loss(self, params: dict, vectors: Mapping, batch: Mapping) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns (the loss of the whole batch, metrics), float32 scalars.

        With loss.matryoshka it is the weighted sum of the losses of vectors cut to each width (Kusupati et al. 2022,
        equation 1). For sparse vectors the weighted costs of a search are added (SPLADE v2: Formal et al. 2021,
        equation 5), and metrics have the mean numbers of their terms. With loss.prior_layers the mean loss of the drawn
        layers' vectors is added, and how far these are from the last layer's (Li et al. 2024, section 3), as
        sentence-transformers' AdaptiveLayerLoss adds them.
        """
        if self.kind == "denoising":
            sums = {name: (array * batch["weights"]).sum() for name, array in vectors.items()}
            tokens = jnp.maximum(sums["tokens"], 1.0)
            return sums["losses"] / tokens, {"token_accuracy": sums["correct"] / tokens}
        if self.settings.prior_layers:
            return self._layers_loss(params, vectors, batch)
        loss, metrics = self._widths_loss(params, vectors, batch)
        if self.sparse:
            costs, terms = self._search_costs(vectors, batch)
            return loss + self.cost_share * costs, metrics | terms
        return loss, metrics

    def _widths_loss(self, params, vectors, batch):
        """Returns (loss, metrics) of whole vectors, or summed over those that are cut to the widths."""
        loss, metrics = self._loss_of(params, vectors, batch)
        widths = self.settings.matryoshka
        if widths:
            weights = self.settings.matryoshka_weights or (1.0,) * len(widths)
            loss = jnp.zeros(())
            for width, weight in zip(widths, weights, strict=True):
                cut = {name: array[..., :width] for name, array in vectors.items()}
                loss += weight * self._loss_of(params, cut, batch)[0]
        return loss, metrics

    def _layers_loss(self, params, vectors, batch):
        """Returns (loss, metrics) of the last layer's vectors and of those of the drawn layers beside them."""
        assert self.model.spec.task is not None
        size, settings = self.model.spec.task.num_labels, self.settings
        number = vectors["anchors"].shape[-1] // size
        layers = [{name: array[..., i * size : (i + 1) * size] for name, array in vectors.items()}
                  for i in range(number)]  # fmt: skip
        loss, metrics = self._widths_loss(params, layers[0], batch)
        present = jnp.concatenate([batch["weights"], _present(batch).reshape(-1)])
        last = jax.lax.stop_gradient(self._texts_of(layers[0]))
        for lower in layers[1:]:
            loss += settings.prior_layers_weight * self._widths_loss(params, lower, batch)[0] / (number - 1)
            scores = self._texts_of(lower) / _DIVERGENCE_TEMPERATURE
            shares = present[:, None] * jnp.ones((1, size))
            total, count = contrastive.divergence(scores, last / _DIVERGENCE_TEMPERATURE, shares)
            loss += settings.layer_divergence * _DIVERGENCE_TEMPERATURE * total / jnp.maximum(count, 1.0)
        return loss, metrics

    def _texts_of(self, vectors):
        """Returns the vectors of a batch's anchors and then of its others, as they are compared, [texts, size]."""
        size = vectors["anchors"].shape[-1]
        texts = jnp.concatenate([vectors["anchors"], vectors["others"].reshape(-1, size)])
        return contrastive.unit(texts) if self.normalize else texts

    def _search_costs(self, vectors, batch):
        """Returns (weighted costs of the texts' terms in a search, mean numbers of terms of a text)."""
        weights, others = batch["weights"], vectors["others"]
        present = _present(batch)
        kinds = {
            "anchor": (vectors["anchors"], weights, self.settings.flops_anchor),
            "other": (others.reshape(-1, others.shape[-1]), present.reshape(-1), self.settings.flops_other),
        }
        costs, terms = jnp.zeros(()), {}
        for name, (texts, counted, weight) in kinds.items():
            costs += weight * contrastive.flops(texts, counted)
            number = (texts != 0).sum(-1).astype(jnp.float32)
            terms[f"{name}_terms"] = (number * counted).sum() / jnp.maximum(counted.sum(), 1.0)
        return costs, terms

    def _loss_of(self, params, vectors, batch):
        """Returns (loss, metrics) of vectors as they are, or cut."""
        head, settings, weights = params.get("task", {}), self.settings, batch["weights"]
        anchors, others = vectors["anchors"], vectors["others"]
        if self.normalize:
            anchors, others = contrastive.unit(anchors), contrastive.unit(others)
        temperature = settings.temperature
        if "log_temperature" in head:
            temperature = jnp.exp(head["log_temperature"])
        if self.kind == "info_nce":
            return self._info_nce(anchors, others, batch, temperature)
        present = _present(batch)
        if self.kind == "mse":
            return self._regression(anchors, others, batch[GUIDE], weights, present)
        if self.late:
            return self._late_pairs(anchors, others, batch, temperature)
        first, labels = others[:, 0], batch["labels"]
        cosines = (contrastive.unit(anchors) * contrastive.unit(first)).sum(-1)
        if self.kind == "softmax":
            return _pair_classification(head["pair"], contrastive.pair_features(anchors, first), labels, weights)
        scores = jnp.einsum("is,ijs->ij", anchors, others, precision=jax.lax.Precision.HIGHEST)
        pairs = _Pairs(anchors, others, cosines, scores, labels, weights, present, temperature, settings.margin)
        sums = PAIR_SUMS[self.kind](pairs)
        metrics = {"pair_similarity": (cosines * weights).sum() / jnp.maximum(weights.sum(), 1.0)}
        return sums[0] / jnp.maximum(sums[1], 1.0), metrics

    def _regression(self, anchors, others, targets, weights, present):
        """Returns (mean squared difference of vectors and the teacher's, their mean cosine)."""
        targets = contrastive.unit(targets) if self.normalize else targets
        vectors = jnp.concatenate([anchors[:, None], others], axis=1)
        present = jnp.concatenate([weights[:, None], present], axis=1)
        total, number = contrastive.regression(vectors, targets, present)
        cosines = jnp.einsum("its,is->it", contrastive.unit(vectors), contrastive.unit(targets))
        number = jnp.maximum(number, 1.0)
        return total / number, {"teacher_similarity": (cosines * present).sum() / number}

    def _late_pairs(self, anchors, others, batch, temperature):
        """Returns (loss, metrics) of a teacher's scores of each anchor's own texts, by late interaction."""
        masks, weights, present = (batch["scored"], batch[OTHERS + "scored"]), batch["weights"], _present(batch)
        scores = contrastive.maxsim_of_own(anchors, others, *masks)
        similarity = scores[:, 0] / jnp.maximum(masks[0].sum(1).astype(jnp.float32), 1.0)
        pairs = _Pairs(anchors, others, similarity, scores, batch["labels"], weights, present, temperature, 0.0)
        total, number = PAIR_SUMS[self.kind](pairs)
        metrics = {"pair_similarity": (similarity * weights).sum() / jnp.maximum(weights.sum(), 1.0)}
        return total / jnp.maximum(number, 1.0), metrics

    def _scores(self, anchors, candidates, batch):
        """Returns (similarities of anchors and candidates, what divides those of each anchor in metrics)."""
        if not self.late:
            return contrastive.similarities(anchors, candidates, self.settings.similarity), None
        masks = batch["scored"], batch[OTHERS + "scored"].reshape(candidates.shape[:2])
        tokens = masks[0].sum(1, keepdims=True).astype(jnp.float32)
        return contrastive.maxsim(anchors, candidates, *masks), jnp.maximum(tokens, 1.0)

    def _info_nce(self, anchors, others, batch, temperature):
        settings, weights = self.settings, batch["weights"]
        count, columns = others.shape[:2]
        candidates = others.reshape(count * columns, *others.shape[2:])
        texts, groups = batch["texts"], batch["groups"]
        candidate_groups = jnp.full((count, columns), -1, jnp.int32).at[:, 0].set(groups)  # negatives have none
        places = jnp.arange(count, dtype=jnp.int32)
        scores, tokens = self._scores(anchors, candidates, batch)
        positives = places * columns
        positive_scores = jnp.take_along_axis(scores, positives[:, None], axis=1)
        proper = (batch["other_texts"] >= 0) & (weights > 0)[:, None]  # neither absent nor of a row that fills up
        candidate_texts = jnp.where(proper, batch["other_texts"], -1).reshape(-1)
        kept = contrastive.may_be_negatives(
            texts, batch["known"], candidate_texts, groups, candidate_groups.reshape(-1)
        )
        if GUIDE in batch:  # the guide's similarities decide (GISTEmbed: Solatorio 2024, equations 2 and 3)
            guide_vectors = batch[OTHERS + GUIDE]
            judged = contrastive.similarities(batch[GUIDE], guide_vectors.reshape(count * columns, -1))
        else:
            judged = jax.lax.stop_gradient(scores)
        if GUIDE in batch or settings.false_negative_margin >= 0:
            least = jnp.take_along_axis(judged, positives[:, None], axis=1) - max(0.0, settings.false_negative_margin)
            kept = kept & (judged <= least)
        contrast = contrastive.Contrast(positives, kept, weights)
        total, number = contrastive.info_nce(scores / temperature, contrast)
        if settings.symmetric:  # each positive among the anchors (Radford et al. 2021, figure 3)
            back = scores[:, ::columns].T
            back_allowed = kept[:, ::columns].T & (weights > 0)[None]
            total += contrastive.info_nce(back / temperature, contrastive.Contrast(places, back_allowed, weights))[0]
            total /= 2
        others_of_batch = (candidate_texts >= 0)[None] & (jnp.arange(count * columns)[None] != positives[:, None])
        if tokens is not None:
            scores, positive_scores = scores / tokens, positive_scores / tokens
        metrics = self._metrics(scores, positive_scores, kept, others_of_batch, weights)
        if not isinstance(temperature, float):
            metrics["temperature"] = temperature
        return total / jnp.maximum(number, 1.0), metrics

    def _metrics(self, scores, positive_scores, kept, candidates, weights):
        """Returns how well positives are told from negatives, means over the anchors.

        in_batch_accuracy: share of anchors whose positive is nearer than every negative; positive_rank: its mean rank,
        from 1; positive_similarity, negative_similarity, hardest_negative_similarity: means; alignment: mean squared
        distance of an anchor and its positive; uniformity: logarithm of the mean of exp(-2 x squared distance) of an
        anchor and the negatives (Wang & Isola 2020, equations 1 and 2; both of vectors of length 1); masked_negatives:
        share of the other candidates that are left out: known positives, copies, and false negatives by the margin.
        Similarities of late interaction are means over the anchor's tokens; alignment and uniformity are not computed.
        """
        scores, positive_scores = jax.lax.stop_gradient(scores), jax.lax.stop_gradient(positive_scores)
        count = jnp.maximum(weights.sum(), 1.0)
        nearer = ((scores >= positive_scores) & kept).sum(-1)

        def mean(values):
            return (values.astype(jnp.float32) * weights).sum() / count

        row_weights = weights[:, None]
        pairs = jnp.where(kept, row_weights, 0.0).sum()
        all_pairs = jnp.where(candidates, row_weights, 0.0).sum()
        hardest = jnp.where(kept, scores, -jnp.inf).max(-1)
        metrics = {
            "in_batch_accuracy": mean(nearer == 0),
            "positive_rank": mean(1 + nearer),
            "positive_similarity": mean(positive_scores[:, 0]),
            "negative_similarity": (jnp.where(kept, scores, 0.0) * row_weights).sum() / jnp.maximum(pairs, 1.0),
            "hardest_negative_similarity": mean(jnp.where(jnp.isfinite(hardest), hardest, 0.0)),
            "masked_negatives": 1.0 - pairs / jnp.maximum(all_pairs, 1.0),
        }
        if self.settings.similarity == "cosine" and not self.late:
            distances = jnp.where(kept, jnp.exp(-4.0 * (1.0 - scores)), 0.0)  # |u - v|^2 = 2 - 2 cos
            metrics["alignment"] = mean(2.0 - 2.0 * positive_scores[:, 0])
            share = (distances * row_weights).sum() / jnp.maximum(pairs, 1.0)
            metrics["uniformity"] = jnp.log(jnp.maximum(share, 1e-30))
        return metrics


def _present(batch):
    """Returns 1.0 for a text beside the anchor that counts, 0.0 for an absent one or a filler row's, [batch, texts]."""
    return ((batch["other_texts"] >= 0) & (batch["weights"] > 0)[:, None]).astype(jnp.float32)


def _pair_classification(layer, features, labels, weights):
    """Returns (mean cross-entropy of the classes of pairs, {"pair_accuracy"}); features [pairs, 3 * size]."""
    size = features.shape[-1] // 3
    classes = layer["kernel"].shape[-1]
    kernel = layer["kernel"].reshape(3, -1, classes)[:, :size].reshape(3 * size, -1)  # for vectors cut to this size
    logits = jnp.dot(features, kernel, precision=jax.lax.Precision.HIGHEST) + layer["bias"][None]
    losses, short_of_best = token_cross_entropy(logits, labels)
    count = jnp.maximum(weights.sum(), 1.0)
    correct = jnp.where(short_of_best == 0, weights, 0.0)
    return (losses * weights).sum() / count, {"pair_accuracy": correct.sum() / count}
