"""What BERT learns: masked tokens or each next one, and a label of each pair of segments.

The other objectives are made of this one: see objective.make.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax.model import Model, Spec, flops
from bert_jax.objectives.cross_entropy import chunked_cross_entropy, chunks_of, token_cross_entropy

# Tasks of a pair: what says that a model is asked, where its label stands in a batch, and the head's output.
_PAIR_TASKS = {
    "nsp": ("next_sentence", "next_sentence_label", "next_sentence_logits"),
    "sop": ("sentence_order", "sentence_order_label", "sentence_order_logits"),
}


class LanguageModeling:
    """Masked tokens (Devlin et al. 2019 section 3.1, task 1) or each token from those before it (section 5.1).

    Beside them, where the settings say so, next-sentence prediction (task 2) or sentence-order prediction (Lan et al.
    2020, ALBERT, section 3.1), with equal weight; rows labelled -1 are not counted.

    Attributes:
      model: what is trained, and opened from the workdir afterwards.
      weights: of each task's mean loss, in order; the tasks are "mlm", perhaps "nsp" or "sop".
      evaluated: the objective that held-out figures are of.

    Args:
      model: the model.
      settings: config.objective, or a mapping with its `name` and what of the rest is not False.
      logits_chunk: predictions whose vocabulary logits a device holds at once; 0 for all.
    """

    def __init__(self, model: Model, settings: Mapping, logits_chunk: int = 0):
        self.model = model
        self._causal = settings["name"] == "ltr"
        self._chunk = logits_chunk
        self._pairs = {task: names[1:] for task, names in _PAIR_TASKS.items() if settings.get(names[0])}
        self.weights = {"mlm": 1.0} | dict.fromkeys(self._pairs, 1.0)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Of the models that are trained."""
        return (self.model.spec,)

    @property
    def evaluated(self) -> "LanguageModeling":
        return self

    def init(self, key: jax.Array) -> dict:
        """Fresh parameters of all that is trained, layer by layer."""
        return self.model.init(key)

    def started(self, params: dict, key: jax.Array, generator: dict | None = None) -> dict:
        """Parameters of all that is trained, the model's being given.

        Args:
          params: the model's.
          key: of what is fresh.
          generator: a generator's, where there is one.
        """
        del key, generator
        return params

    def counts(self, batch: Mapping) -> dict[str, jax.Array]:
        """How many predictions a batch holds, TASK_count, float32.

        They depend on no parameter, so they are known for the whole batch before its first microbatch.
        """
        found = {"mlm_count": self._targets(batch)[1].sum()}
        for task, (label, _) in self._pairs.items():
            found[f"{task}_count"] = (batch[label] >= 0).sum().astype(jnp.float32)
        return found

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
        """Losses in nats and correct predictions, summed over a batch; float32 scalars.

        Args:
          params: of all that is trained.
          batch: as the loader makes it; left to right, without masked_* arrays.
          dropout_key: turns dropout on.
          step_key: of what else is drawn at random, the same for all parts of a step's batch; None: always the same.
          teacher: its parameters, where there is one.
          activations: whether the squares of the hidden states are summed too.

        Returns:
          TASK_loss and, of tasks with right answers, TASK_correct; where asked for, activation_squares [1 + layers],
          the embeddings' first, over the tokens that are no padding.
        """
        del step_key, teacher
        labels, weights = self._targets(batch)
        chunked = chunks_of(*labels.shape, self._chunk)[1] > 1
        outputs = self.model.apply(
            params, batch, dropout_key=dropout_key, hidden_states=activations, mlm_logits=not chunked
        )
        if chunked:
            loss, correct = chunked_cross_entropy(
                outputs["mlm_features"], *self.model.decoder(params), labels, weights, self._chunk
            )
            found = {"mlm_loss": loss, "mlm_correct": correct}
        else:
            found = cross_entropy("mlm", outputs["mlm_logits"], labels, weights)
        found |= self._pair_sums(outputs, batch)
        if activations:
            found["activation_squares"] = activation_squares(outputs["hidden_states"], batch)
        return found

    def mean_loss(self, sums: Mapping, counts: Mapping) -> jax.Array:
        """The loss that is minimised: each task's mean, times its weight."""

        def weighted(task, weight):
            mean = sums[f"{task}_loss"] / jnp.maximum(counts[f"{task}_count"], 1.0)
            return mean if weight == 1.0 else weight * mean

        return sum(weighted(task, weight) for task, weight in self.weights.items())

    def metrics(self, sums: Mapping, counts: Mapping) -> dict[str, jax.Array]:
        """TASK_loss and, where there are right answers, TASK_accuracy, means over a batch."""
        found = {}
        for task in self.tasks:
            count = jnp.maximum(counts[f"{task}_count"], 1.0)
            found[f"{task}_loss"] = sums[f"{task}_loss"] / count
            if f"{task}_correct" in sums:
                found[f"{task}_accuracy"] = sums[f"{task}_correct"] / count
        return found

    def flops(self, batch: Mapping) -> float:
        """FLOPs of the matrix products of a training step; the batch's arrays may be shapes alone."""
        return sum(flops.pretraining_flops(spec, batch) for spec in self.specs)

    def _pair_sums(self, outputs, batch):
        found = {}
        for task, (name, logits) in self._pairs.items():
            label = batch[name]
            weights = (label >= 0).astype(jnp.float32)
            found |= cross_entropy(task, outputs[logits], jnp.maximum(label, 0), weights)
        return found

    def _targets(self, batch):
        """Labels and float32 weights of the positions that the model gives logits for."""
        if not self._causal:
            return batch["masked_labels"], batch["masked_weights"]
        # Position t predicts token t + 1 where its sequence has one; a sequence's last position predicts nothing.
        labels = jnp.roll(batch["input_ids"], -1, axis=1)
        present = jnp.roll(batch["attention_mask"], -1, axis=1).at[:, -1].set(0)
        if "sequence_ids" in batch:
            sequences = batch["sequence_ids"]
            present = jnp.where(jnp.roll(sequences, -1, axis=1) == sequences, present, 0)
        return labels, present.astype(jnp.float32)


def cross_entropy(task: str, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """TASK_loss and TASK_correct of logits float32 [..., classes] and labels [...], summed with weights [...]."""
    losses, behind = token_cross_entropy(logits, labels)
    correct = (behind == 0).astype(jnp.float32)
    return {f"{task}_loss": (losses * weights).sum(), f"{task}_correct": (correct * weights).sum()}


def activation_squares(states: jax.Array, batch: Mapping) -> jax.Array:
    """Sums of squares of hidden states [layers, batch, sequence, hidden] over what is no padding; float32 [layers]."""
    present = (batch["attention_mask"] != 0)[None, :, :, None]
    squares = jnp.square(states.astype(jnp.float32))
    return jnp.where(present, squares, 0.0).sum((1, 2, 3))
