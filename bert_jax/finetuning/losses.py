"""Computes losses of fine-tuning: sums over a batch, and the counts that they are divided by.

The means are those of transformers' heads, over the rows (or tokens) that count.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax import _moved
from bert_jax.model import Model, crf
from bert_jax.objectives.cross_entropy import token_cross_entropy


def loss_denominator(batch: Mapping, model: Model, problem: str) -> jax.Array:
    """Returns the number that a batch's sum of losses is divided by, a float32 scalar.

    It is the number of labelled tokens, or of rows, or of labels of all rows for multi-label classification.

    It depends on no parameter, so it is known for the whole batch before its first microbatch.
    """
    rows = batch["weights"].sum()
    task = _task(model)
    if task.name == "token_classification":
        return _labelled(batch).sum().astype(jnp.float32)
    return rows * task.num_labels if problem == "multi_label" else rows


def loss_sum(model: Model, params: dict, batch: Mapping, problem: str, dropout_key=None) -> jax.Array:
    """Returns the sum of a batch's losses in nats (regression: squared errors), a float32 scalar.

    The loss is cross-entropy; for multi-label classification the binary cross-entropy of each label; for question
    answering the mean of the start's and the end's, over the tokens of the row's text; with a CRF the negative
    log-likelihood of a row's labels. Packed rows have the loss of their sequences one by one.

    Args:
      model, params: a model with a task's head, and its parameters.
      batch: as data.tasks.Examples.batch makes it.
      problem: problem of sequence classification: "single_label", "multi_label" or "regression".
      dropout_key: PRNG key; None turns dropout off.
    """
    logits = model.apply(params, batch, dropout_key=dropout_key)["logits"]
    task, weights = _task(model), batch["weights"]
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
    """Returns the outputs that a task is scored by, and whether all of them are finite.

    Returns:
      (outputs, bool). Outputs are logits float32 [batch, labels] (packed rows: [batch, k, labels]) or [batch, sequence,
      labels]; of an embedder vectors float32 [batch, size], or of its tokens [batch, sequence, size]; with a CRF the
      labels it chose at first sub-words, int32 [batch, sequence].
    """
    outputs = model.apply(params, batch)
    logits = outputs["vectors"] if "vectors" in outputs else outputs["logits"]
    finite = jnp.isfinite(logits).all()
    if not _task(model).crf:
        return logits, finite
    head = params["task"]
    chain = batch["first_subwords"] > 0
    labels = crf.decode(logits, chain, head["transitions"], head["first"], head["last"], batch.get("sequence_ids"))
    return labels, finite


def _task(model):
    task = model.spec.task
    assert task is not None, "a model that is fine-tuned has a task's head"
    return task


def _labelled(batch):
    labelled = batch["labels"] >= 0
    # Rows that count nothing have no labels; packed rows have a weight for each sequence and no such rows.
    return labelled if "sequence_ids" in batch else labelled & (batch["weights"] > 0)[:, None]


def _place_cross_entropy(logits, batch, places):
    """Returns the cross-entropy of a place among the tokens of its text, in nats, shaped like `places`.

    Padding takes no part, so that the length a row is padded to changes no loss.

    Args:
      logits: float32 [batch, sequence].
      batch: the model's input.
      places: int32 [batch], or of packed rows [batch, k].
    """
    members = (batch["attention_mask"] != 0)[:, None, :]
    if "sequence_ids" in batch:
        numbers = jnp.arange(1, places.shape[1] + 1, dtype=jnp.int32)
        members = members & (batch["sequence_ids"][:, None, :] == numbers[None, :, None])
    total = jax.nn.logsumexp(jnp.where(members, logits[:, None, :], -1e30), axis=-1)
    chosen = jnp.take_along_axis(logits, places.reshape(total.shape), axis=1)
    return (total - chosen).reshape(places.shape)


def __getattr__(name):
    return _moved.find("finetuning.losses", name)
