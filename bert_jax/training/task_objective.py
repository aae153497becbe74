"""What fine-tuning learns: sums of losses over a batch, and the counts that they are divided by.

The means are those of transformers' heads, over the rows (or tokens) that count.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax.model import Model, crf
from bert_jax.training.objective import token_cross_entropy


def count(batch: Mapping, model: Model, problem: str) -> jax.Array:
    """What the sum of losses is divided by, float32: labelled tokens, rows, or of several labels each of each row.

    It depends on no parameter, so it is known for the whole batch before its first microbatch.
    """
    rows = batch["weights"].sum()
    if model.spec.task.name == "token_classification":
        return _labelled(batch).sum().astype(jnp.float32)
    return rows * model.spec.task.num_labels if problem == "multi_label" else rows


def loss_sum(model: Model, params: dict, batch: Mapping, problem: str, dropout_key=None) -> jax.Array:
    """The losses of a batch in nats (regression: squared errors), summed; a float32 scalar.

    Cross-entropy; of several labels, the binary one of each; of question answering, half of the start's and half of
    the end's; of a CRF, the negative log-likelihood of a row's labels.

    Args:
      model, params: a model with a task's head, and its parameters.
      batch: as data.tasks.Examples.batch makes it.
      problem: of sequence classification: "single_label", "multi_label" or "regression".
      dropout_key: turns dropout on.
    """
    logits = model.apply(params, batch, dropout_key=dropout_key)["logits"]
    task, weights = model.spec.task, batch["weights"]
    if task.crf:
        head = params["task"]
        likelihood = crf.log_likelihood(
            logits, batch["labels"], _labelled(batch), head["transitions"], head["first"], head["last"]
        )
        return -likelihood.sum()
    if task.name == "token_classification":
        labelled = _labelled(batch)
        losses, _ = token_cross_entropy(logits, jnp.where(labelled, batch["labels"], 0))
        return jnp.where(labelled, losses, 0.0).sum()
    if task.name == "question_answering":
        starts, _ = token_cross_entropy(logits[..., 0], batch["start_positions"])
        ends, _ = token_cross_entropy(logits[..., 1], batch["end_positions"])
        return ((starts + ends) * weights).sum() / 2
    labels = batch["labels"]
    if problem == "regression":
        return (jnp.square(logits[:, 0] - labels) * weights).sum()
    if problem == "multi_label":
        losses = jnp.maximum(logits, 0.0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        return (losses * weights[:, None]).sum()
    return (token_cross_entropy(logits, labels)[0] * weights).sum()


def outputs(model: Model, params: dict, batch: Mapping) -> tuple[jax.Array, jax.Array]:
    """What a task is scored by, and whether all of it is finite.

    Returns:
      logits float32 [batch, labels] or [batch, sequence, labels], or int32 [batch, sequence], the labels that a CRF
      chose at the first sub-words; and a bool.
    """
    logits = model.apply(params, batch)["logits"]
    finite = jnp.isfinite(logits).all()
    if not model.spec.task.crf:
        return logits, finite
    head = params["task"]
    return crf.decode(logits, batch["first_subwords"] > 0, head["transitions"], head["first"], head["last"]), finite


def _labelled(batch):
    return (batch["labels"] >= 0) & (batch["weights"] > 0)[:, None]
