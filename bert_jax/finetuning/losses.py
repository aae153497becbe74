"""What fine-tuning learns: sums of losses over a batch, and the counts that they are divided by.

The means are those of transformers' heads, over the rows (or tokens) that count.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax import _moved
from bert_jax.model import Model, crf
from bert_jax.objectives.cross_entropy import token_cross_entropy


def loss_denominator(batch: Mapping, model: Model, problem: str) -> jax.Array:
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
    the end's, over the tokens of the row's text; of a CRF, the negative log-likelihood of a row's labels. The loss of
    packed rows is that of their sequences one by one.

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
            logits, batch["labels"], _labelled(batch), head["transitions"], head["first"], head["last"],
            batch.get("sequence_ids"),
        )  # fmt: skip
        return -likelihood.sum()
    if task.name == "token_classification":
        labelled = _labelled(batch)
        losses, _ = token_cross_entropy(logits, jnp.where(labelled, batch["labels"], 0))
        return jnp.where(labelled, losses, 0.0).sum()
    if task.name == "question_answering":
        starts = _place_cross_entropy(logits[..., 0], batch, batch["start_positions"])
        ends = _place_cross_entropy(logits[..., 1], batch, batch["end_positions"])
        return jnp.where(weights > 0, (starts + ends) * weights, 0.0).sum() / 2
    labels = batch["labels"]
    if problem == "regression":
        return (jnp.square(logits[..., 0] - labels) * weights).sum()
    if problem == "multi_label":
        losses = jnp.maximum(logits, 0.0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        return (losses * weights[..., None]).sum()
    return (token_cross_entropy(logits, labels)[0] * weights).sum()


def task_outputs(model: Model, params: dict, batch: Mapping) -> tuple[jax.Array, jax.Array]:
    """What a task is scored by, and whether all of it is finite.

    Returns:
      logits float32 [batch, labels] (of packed rows [batch, k, labels]) or [batch, sequence, labels], or int32 [batch,
      sequence], the labels that a CRF chose at the first sub-words; and a bool.
    """
    logits = model.apply(params, batch)["logits"]
    finite = jnp.isfinite(logits).all()
    if not model.spec.task.crf:
        return logits, finite
    head = params["task"]
    chain = batch["first_subwords"] > 0
    labels = crf.decode(logits, chain, head["transitions"], head["first"], head["last"], batch.get("sequence_ids"))
    return labels, finite


def _labelled(batch):
    labelled = batch["labels"] >= 0
    # Rows that count nothing have no labels; packed rows have a weight for each sequence and no such rows.
    return labelled if "sequence_ids" in batch else labelled & (batch["weights"] > 0)[:, None]


def _place_cross_entropy(logits, batch, places):
    """Cross-entropy of a place among the tokens of its text, in nats, of the shape of `places`.

    Padding takes no part, so that how far a row is padded changes no loss.

    Args:
      logits: float32 [batch, sequence].
      batch: the model's input.
      places: int32 [batch], or of packed rows [batch, k].
    """
    members = (batch["attention_mask"] != 0)[:, None, :]
    if "sequence_ids" in batch:
        numbers = jnp.arange(1, places.shape[1] + 1, dtype=jnp.int32)
        members = members & (batch["sequence_ids"][:, None, :] == numbers[None, :, None])
    among = jax.nn.logsumexp(jnp.where(members, logits[:, None, :], -1e30), axis=-1)
    chosen = jnp.take_along_axis(logits, places.reshape(among.shape), axis=1)
    return (among - chosen).reshape(places.shape)


def __getattr__(name):
    return _moved.find("finetuning.losses", name)
