"""Trains a student on a teacher's outputs for the same masked rows (Sanh et al. 2019, DistilBERT)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax import _moved
from bert_jax.model import Model, flops
from bert_jax.objectives.language_modeling import LanguageModeling, activation_squares, cross_entropy


class Distillation(LanguageModeling):
    """Minimises the weighted sum of three mean losses (sections 2 and 3), and of those of sentence pairs.

    "soft" is KL(teacher || student) of the token distributions, both at a temperature, times the temperature squared;
    "mlm" is the loss on masked tokens; "cosine" is one minus the cosine between the last hidden states of student and
    teacher, over the tokens that are not padding. "soft" and "cosine" are left out where their weight is 0.

    Args:
      model: the student.
      settings: config.objective.
      distillation: config.distillation. Its `positions` chooses whose distributions are compared: "masked", or "all"
        that are not padding, as the published script does by default (transformers,
        research_projects/distillation/distiller.py, restrict_ce_to_mask).
      teacher: a model with a language-model head and the same vocabulary, perhaps with more rows. Its parameters are
        given to `sums`; it runs without dropout.
    """

    def __init__(self, model: Model, settings: Mapping, distillation: Mapping, teacher: Model | None):
        super().__init__(model, settings)
        self._settings = settings
        self._teacher = teacher
        self._temperature = distillation["temperature"]
        self._all = distillation["positions"] == "all"
        extra = {task: distillation[f"{task}_weight"] for task in ("soft", "cosine")}
        self.weights |= {"mlm": distillation["mlm_weight"]} | {task: weight for task, weight in extra.items() if weight}

    @classmethod
    def from_config(cls, config, model, teacher=None):
        return cls(model, config.objective, config.distillation, teacher)

    @property
    def evaluated(self):
        """Returns the student's own language modeling, which needs no teacher."""
        return LanguageModeling(self.model, self._settings)

    def counts(self, batch):
        weights = {"soft": self._compared(batch), "cosine": _present(batch)}
        own = {f"{task}_count": weights[task].sum() for task in weights if task in self.weights}
        return super().counts(batch) | own

    def sums(self, params, batch, dropout_key=None, *, step_key=None, teacher=None, activations=False):
        del step_key
        rows = {name: batch[name] for name in batch if not (self._all and name == "masked_positions")}
        outputs = self.model.apply(params, rows, dropout_key=dropout_key, hidden_states=activations)
        taught = self._teacher.apply(teacher, rows)
        logits = outputs["mlm_logits"]
        guesses = jnp.take_along_axis(logits, batch["masked_positions"][:, :, None], axis=1) if self._all else logits
        sums = cross_entropy("mlm", guesses, *self._targets(batch)) | self._pair_sums(outputs, batch)
        if "soft" in self.weights:
            soft = divergence(taught["mlm_logits"][..., : logits.shape[-1]], logits, self._temperature)
            sums["soft_loss"] = (soft * self._compared(batch)).sum()
        if "cosine" in self.weights:
            sums["cosine_loss"] = ((1.0 - cosine(outputs["hidden"], taught["hidden"])) * _present(batch)).sum()
        if activations:
            sums["activation_squares"] = activation_squares(outputs["hidden_states"], batch)
        return sums

    def flops(self, batch):
        slots = {name: array for name, array in batch.items() if not (self._all and name.startswith("masked_"))}
        teacher_flops = flops.pretraining_flops(self._teacher.spec, slots) / 3  # a forward pass, one of a step's three
        return flops.pretraining_flops(self.model.spec, slots) + teacher_flops

    def _compared(self, batch):
        return _present(batch) if self._all else batch["masked_weights"]


def divergence(teacher: jax.Array, student: jax.Array, temperature: float) -> jax.Array:
    """Returns KL(teacher || student) in nats at a temperature, times its square; float32 [...].

    The square keeps the size of the gradient independent of the temperature.

    Args:
      teacher, student: logits, float32 [..., classes].
      temperature: what both are divided by.
    """
    teacher_log = jax.nn.log_softmax(teacher / temperature)
    student_log = jax.nn.log_softmax(student / temperature)
    return (jnp.exp(teacher_log) * (teacher_log - student_log)).sum(-1) * temperature**2


@_moved.renamed_arguments(one="first", other="second")
def cosine(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns cosines of the angles between vectors [..., size]; float32 [...], 0 where a vector is zero."""
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    squares = (jnp.square(first).sum(-1) + 1e-12) * (jnp.square(second).sum(-1) + 1e-12)
    return (first * second).sum(-1) * jax.lax.rsqrt(squares)


def _present(batch):
    return (batch["attention_mask"] != 0).astype(jnp.float32)
