"""Defines objectives of pre-training: each sums its losses over a batch and counts what they are divided by.

What an objective needs is stated in `bert_jax.config.objective.OBJECTIVES`, which also names its class here; that
module says which three files a new objective touches.
"""

import importlib

from bert_jax.config.objective import OBJECTIVES
from bert_jax.config.objective import heads as heads
from bert_jax.model import Model
from bert_jax.objectives.language_modeling import LanguageModeling

Objective = LanguageModeling  # the base class of all objectives


def implementation(name: str) -> type[Objective]:
    """Returns the class of the objective that config.objective.name calls `name`."""
    module, _, class_name = OBJECTIVES[name].implementation.rpartition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), class_name)


def metric_labels() -> dict[str, str]:
    """Returns what the held-out metrics of all objectives are called in words, in the order of a report."""
    labels: dict[str, str] = {}
    for name in OBJECTIVES:
        labels |= implementation(name).metric_labels
    return labels


def make(config, model: Model, teacher: Model | None = None) -> Objective:
    """Builds the objective of a config.

    Args:
      config: a pre-training config; reads objective, train.logits_chunk, the groups of the objective's own settings,
        and model where a second model is derived from it.
      model: a model with the heads that `heads` names.
      teacher: the model to learn from. Without one, an objective that needs it can `init` parameters and be
        `evaluated`, and no more.

    Raises:
      UserError: the generator's sizes do not go with config.model's switches.
    """
    return implementation(config.objective["name"]).from_config(config, model, teacher)
