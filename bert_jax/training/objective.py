"""What is learned: sums of losses over a batch, and the counts that they are divided by."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax.model import Model
from bert_jax.training.cross_entropy import chunked_cross_entropy, chunks_of, token_cross_entropy


def counts(batch: Mapping, objective: Mapping) -> dict[str, jax.Array]:
    """How many predictions a batch holds, float32: mlm_count, and nsp_count with next-sentence prediction.

    They depend on no parameter, so they are known for the whole batch before its first microbatch.
    """
    found = {"mlm_count": _targets(batch, objective)[1].sum()}
    if objective["next_sentence"]:
        found["nsp_count"] = (batch["next_sentence_label"] >= 0).sum().astype(jnp.float32)
    return found


def sums(
    model: Model,
    params: dict,
    batch: Mapping,
    objective: Mapping,
    dropout_key: jax.Array | None = None,
    *,
    logits_chunk: int = 0,
    activations: bool = False,
) -> dict[str, jax.Array]:
    """Losses in nats and correct predictions, summed over a batch; float32 scalars.

    Args:
      model, params: the model and its parameters.
      batch: as the loader makes it; for "ltr" without masked_* arrays.
      objective: `name` ("mlm": Devlin et al. 2019 section 3.1, task 1; "ltr": each token from those before it,
        section 5.1) and `next_sentence` (task 2; rows labelled -1 are not counted).
      dropout_key: turns dropout on.
      logits_chunk: predictions whose vocabulary logits a device holds at once; 0 for all.
      activations: whether the squares of the hidden states are summed too.

    Returns:
      mlm_loss, mlm_correct, and nsp_loss, nsp_correct with next-sentence prediction; where asked for,
      activation_squares [1 + layers], the embeddings' first, over the tokens that are no padding.
    """
    labels, weights = _targets(batch, objective)
    chunked = chunks_of(*labels.shape, logits_chunk)[1] > 1
    outputs = model.apply(
        params, batch, dropout_key=dropout_key, hidden_states=activations, mlm_logits=not chunked
    )
    if chunked:
        loss, correct = chunked_cross_entropy(
            outputs["mlm_features"], *model.decoder(params), labels, weights, logits_chunk
        )
        found = {"mlm_loss": loss, "mlm_correct": correct}
    else:
        found = _cross_entropy("mlm", outputs["mlm_logits"], labels, weights)
    if objective["next_sentence"]:
        label = batch["next_sentence_label"]
        weights = (label >= 0).astype(jnp.float32)
        found |= _cross_entropy("nsp", outputs["next_sentence_logits"], jnp.maximum(label, 0), weights)
    if activations:
        present = (batch["attention_mask"] != 0)[None, :, :, None]
        squares = jnp.square(outputs["hidden_states"].astype(jnp.float32))
        found["activation_squares"] = jnp.where(present, squares, 0.0).sum((1, 2, 3))
    return found


def mean_loss(sums: Mapping, counts: Mapping) -> jax.Array:
    """The loss that is minimised: the mean over predicted tokens, plus the mean over rows of the pair task."""
    return sum(sums[f"{task}_loss"] / jnp.maximum(counts[f"{task}_count"], 1.0) for task in tasks(counts))


def tasks(counts: Mapping) -> list[str]:
    """The tasks that a dict of counts is about: "mlm", perhaps "nsp"."""
    return [key.removesuffix("_count") for key in counts]


def _targets(batch, objective):
    """Labels and float32 weights of the positions that the model gives logits for."""
    if objective["name"] == "mlm":
        return batch["masked_labels"], batch["masked_weights"]
    # Position t predicts token t + 1 where its sequence has one; a sequence's last position predicts nothing.
    labels = jnp.roll(batch["input_ids"], -1, axis=1)
    present = jnp.roll(batch["attention_mask"], -1, axis=1).at[:, -1].set(0)
    if "sequence_ids" in batch:
        sequences = batch["sequence_ids"]
        present = jnp.where(jnp.roll(sequences, -1, axis=1) == sequences, present, 0)
    return labels, present.astype(jnp.float32)


def _cross_entropy(task, logits, labels, weights):
    losses, behind = token_cross_entropy(logits, labels)
    correct = (behind == 0).astype(jnp.float32)
    return {f"{task}_loss": (losses * weights).sum(), f"{task}_correct": (correct * weights).sum()}
