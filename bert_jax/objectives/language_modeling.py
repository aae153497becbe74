"""Defines BERT's objectives: masked or next tokens, and a label for each pair of segments.

The other objectives extend this one; `bert_jax.objectives.make` builds the one that a config names.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax import model as model_lib
from bert_jax.config.objective import OBJECTIVES, heads
from bert_jax.errors import UserError
from bert_jax.model import Model, Spec, flops
from bert_jax.objectives.cross_entropy import chunked_cross_entropy, chunks_of, token_cross_entropy

# Tasks on sentence pairs: the setting that adds one, its label in the batch, and the model's logits for it.
PAIR_TASKS = {
    "nsp": ("next_sentence", "next_sentence_label", "next_sentence_logits"),
    "sop": ("sentence_order", "sentence_order_label", "sentence_order_logits"),
}


class LanguageModeling:
    """Predicts masked tokens (Devlin et al. 2019, section 3.1, task 1) or each next token (section 5.1).

    If the settings say so, it also learns next-sentence prediction (task 2) or sentence-order prediction (Lan et al.
    2020, ALBERT, section 3.1), with equal weight; rows labelled -1 do not count.

    Attributes:
      facts: what config.objective.OBJECTIVES states about this objective.
      model: the model that is trained and that is opened from the workdir afterwards.
      weights: weight of each task's mean loss in the loss, in order; the tasks are "mlm" and perhaps "nsp" or "sop".
      evaluated: the objective that computes held-out metrics.
      metric_labels: what its held-out metrics are called in words, in the order of a report.

    Args:
      model: the model.
      settings: config.objective, or a mapping with its `name`; the keys of pair tasks may be absent.
      logits_chunk: number of predictions whose vocabulary logits a device holds at once; 0 for all.
    """

    metric_labels: Mapping[str, str] = {
        "mlm_loss": "loss, nats a token",
        "unigram_loss": "unigram loss (token frequencies)",
        "mlm_perplexity": "perplexity",
        "mlm_accuracy": "accuracy",
        "nsp_accuracy": "next-sentence accuracy",
        "sop_accuracy": "sentence-order accuracy",
    }

    def __init__(self, model: Model, settings: Mapping, logits_chunk: int = 0):
        self.facts = OBJECTIVES[settings["name"]]
        self.model = model
        self._chunk = logits_chunk
        self._pairs = {task: names[1:] for task, names in PAIR_TASKS.items() if settings.get(names[0])}
        self.weights = {"mlm": 1.0} | dict.fromkeys(self._pairs, 1.0)

    @classmethod
    def from_config(cls, config, model: Model, teacher: Model | None = None) -> "LanguageModeling":
        """Builds the objective of a config; arguments as of `bert_jax.objectives.make`."""
        del teacher
        return cls(model, config.objective, config.train.logits_chunk)

    @classmethod
    def trained_part(
        cls, config, vocab_size: int, params: Mapping, part: str = "discriminator"
    ) -> tuple[dict[str, Any], Model, dict]:
        """Returns one of the models that a run with this objective has trained.

        Args:
          config: the run's config; reads model and what `make` reads.
          vocab_size: number of entries of the run's vocabulary.
          params: the run's parameters, as its checkpoints hold them.
          part: "discriminator", the model itself, or "generator".

        Returns:
          (values of config.model, the model, its parameters).

        Raises:
          UserError: the objective trains no such part.
        """
        if part == "generator":
            generators = ", ".join(name for name, facts in OBJECTIVES.items() if facts.generator)
            raise UserError(
                f"config.objective.name={config.objective['name']} trains no generator; expected {generators}"
            )
        model_settings = config.model.to_dict()
        model = model_lib.build(model_settings, vocab_size, **heads(config.objective))
        return model_settings, model, dict(params)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Returns the names of the tasks whose weighted losses add up to the loss."""
        return tuple(self.weights)

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Returns the specs of the models that are trained, the main one first."""
        return (self.model.spec,)

    @staticmethod
    def network(name: str) -> str:
        """Returns which of the models that are trained the parameter at a path belongs to: "model", the main one."""
        del name
        return "model"

    @property
    def evaluated(self) -> "LanguageModeling":
        """Returns the objective whose metrics are computed on held-out text."""
        return self

    def init(self, key: jax.Array) -> dict:
        """Draws the parameters of every model that is trained, with a subtree for each layer.

        Args:
          key: PRNG key, a scalar.
        """
        return self.model.init(key)

    def started(self, params: dict, key: jax.Array, generator: dict | None = None) -> dict:
        """Returns the parameters of every model that is trained, starting from given ones of the main model.

        Args:
          params: the main model's parameters.
          key: PRNG key of what is drawn anew, a scalar.
          generator: a generator's parameters; None to draw them, where the objective has one.
        """
        del key, generator
        return params

    def counts(self, batch: Mapping) -> dict[str, jax.Array]:
        """Counts the predictions of each task in a batch; TASK_count, float32 scalars.

        They depend on no parameter, so they are known for the whole batch before its first microbatch.
        """
        counts = {"mlm_count": self._targets(batch)[1].sum()}
        for task, (label, _) in self._pairs.items():
            counts[f"{task}_count"] = (batch[label] >= 0).sum().astype(jnp.float32)
        return counts

    def sums(
        self,
        params: dict,
        batch: Mapping,
        dropout_key: jax.Array | None = None,
        *,
        step_key: jax.Array | None = None,
        teacher: dict | None = None,
        activations: bool = False,
    ) -> dict[str, jax.Array]:
        """Sums losses in nats and correct predictions over a batch; float32 scalars.

        Args:
          params: parameters of every model that is trained.
          batch: arrays as the loader makes them; without masked_* arrays where the objective is not masked.
          dropout_key: PRNG key of dropout, a scalar; None turns dropout off.
          step_key: PRNG key of other random draws, the same for all microbatches of a step; None draws the same
            numbers every time.
          teacher: the teacher's parameters, where the objective has one.
          activations: whether to sum the squares of the hidden states too.

        Returns:
          TASK_loss and, for tasks with right answers, TASK_correct; with `activations` also activation_squares
          [1 + layers], the embeddings' first, over the tokens that are not padding.
        """
        del step_key, teacher
        labels, weights = self._targets(batch)
        rows, slots = labels.shape
        chunked = chunks_of(rows, slots, self._chunk)[1] > 1
        outputs = self.model.apply(
            params, batch, dropout_key=dropout_key, hidden_states=activations, mlm_logits=not chunked
        )
        if chunked:
            loss, correct = chunked_cross_entropy(
                outputs["mlm_features"], *self.model.decoder(params), labels, weights, self._chunk
            )
            sums = {"mlm_loss": loss, "mlm_correct": correct}
        else:
            sums = cross_entropy("mlm", outputs["mlm_logits"], labels, weights)
        sums |= self._pair_sums(outputs, batch)
        if activations:
            sums["activation_squares"] = activation_squares(outputs["hidden_states"], batch)
        return sums

    def mean_loss(self, sums: Mapping, counts: Mapping) -> jax.Array:
        """Returns the loss that is minimised: the weighted sum of the tasks' means; float32 scalar."""

        def weighted(task, weight):
            mean = sums[f"{task}_loss"] / jnp.maximum(counts[f"{task}_count"], 1.0)
            return mean if weight == 1.0 else weight * mean

        return sum(weighted(task, weight) for task, weight in self.weights.items())

    def metrics(self, sums: Mapping, counts: Mapping) -> dict[str, jax.Array]:
        """Returns TASK_loss and, for tasks with right answers, TASK_accuracy: means over a batch, float32 scalars."""
        metrics = {}
        for task in self.tasks:
            count = jnp.maximum(counts[f"{task}_count"], 1.0)
            metrics[f"{task}_loss"] = sums[f"{task}_loss"] / count
            if f"{task}_correct" in sums:
                metrics[f"{task}_accuracy"] = sums[f"{task}_correct"] / count
        return metrics

    def headline(self, row: Mapping) -> str:
        """Returns the held-out metrics in a row of the log in a few words; "" where it has none."""
        return mlm_headline(row)

    def summary(self, held_out: Mapping) -> str:
        """Returns a run's last held-out metrics, eval/..., in words."""
        loss, baseline = held_out["eval/mlm_loss"], held_out["eval/unigram_loss"]
        side = "under" if loss < baseline else "over"
        return (
            f"held-out loss {loss:.4f}, {abs(baseline - loss):.4f} nats {side} the unigram baseline of {baseline:.4f}"
        )

    def flops(self, batch: Mapping) -> float:
        """Returns the FLOPs of a training step's matrix products; the batch's arrays may be shapes alone."""
        return sum(flops.pretraining_flops(spec, batch) for spec in self.specs)

    def _pair_sums(self, outputs, batch):
        sums = {}
        for task, (name, logits) in self._pairs.items():
            label = batch[name]
            weights = (label >= 0).astype(jnp.float32)
            sums |= cross_entropy(task, outputs[logits], jnp.maximum(label, 0), weights)
        return sums

    def _targets(self, batch):
        """Returns labels, int32, and weights, float32, of the positions with logits, both [batch, positions]."""
        if self.facts.masked:
            return batch["masked_labels"], batch["masked_weights"]
        # Position t predicts token t + 1 where its sequence has one; a sequence's last position predicts nothing.
        labels = jnp.roll(batch["input_ids"], -1, axis=1)
        present = jnp.roll(batch["attention_mask"], -1, axis=1).at[:, -1].set(0)
        if "sequence_ids" in batch:
            sequences = batch["sequence_ids"]
            present = jnp.where(jnp.roll(sequences, -1, axis=1) == sequences, present, 0)
        return labels, present.astype(jnp.float32)


def mlm_headline(row: Mapping) -> str:
    """Returns the held-out loss of predicted tokens in a row of the log in words; "" where it has none."""
    if row.get("eval/mlm_loss") is None:
        return ""
    return f"held-out {row['eval/mlm_loss']:.4f} (unigram {row['eval/unigram_loss']:.4f})"


def cross_entropy(task: str, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """Sums weighted losses and correct predictions; TASK_loss and TASK_correct, float32 scalars.

    Args:
      task: the prefix of both names.
      logits: float32 [..., classes].
      labels: int32 [...].
      weights: float32 [...].
    """
    losses, short_of_best = token_cross_entropy(logits, labels)
    correct = (short_of_best == 0).astype(jnp.float32)
    return {f"{task}_loss": (losses * weights).sum(), f"{task}_correct": (correct * weights).sum()}


def activation_squares(states: jax.Array, batch: Mapping) -> jax.Array:
    """Sums the squares of hidden states [layers, batch, sequence, hidden] over real tokens; float32 [layers]."""
    present = (batch["attention_mask"] != 0)[None, :, :, None]
    squares = jnp.square(states.astype(jnp.float32))
    return jnp.where(present, squares, 0.0).sum((1, 2, 3))
