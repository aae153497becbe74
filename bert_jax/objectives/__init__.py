"""What is learned: the objective that a config names. It sums losses, and counts what they are divided by."""

from collections.abc import Mapping

from bert_jax.model import Model
from bert_jax.objectives.distillation import Distillation
from bert_jax.objectives.language_modeling import LanguageModeling
from bert_jax.objectives.replaced_tokens import ReplacedTokens, generator_model

Objective = LanguageModeling  # what all of them are made of


def make(config, model: Model, teacher: Model | None = None) -> Objective:
    """The objective of a run.

    Args:
      config: the run's; reads objective, generator, distillation, train.logits_chunk, and model where a second one is
        made like it.
      model: with the heads that `heads` says.
      teacher: of distillation; without one, only what needs none works: `init` and `evaluated`.

    Raises:
      UserError: the generator's sizes do not go with config.model's switches.
    """
    settings = config.objective
    if settings.name == "rtd":
        generator = generator_model(config, model.spec.vocab_size, model.spec.platform)
        return ReplacedTokens(model, generator, settings.embedding_sharing, settings.discriminator_weight)
    if settings.name == "distillation":
        return Distillation(model, settings, config.distillation, teacher)
    return LanguageModeling(model, settings, config.train.logits_chunk)


def heads(settings: Mapping) -> dict[str, bool]:
    """Which heads the model of config.objective has: arguments of model.build."""
    replaced = settings["name"] == "rtd"
    return {
        "next_sentence": settings["next_sentence"],
        "sentence_order": settings["sentence_order"],
        "language_model": not replaced,
        "replaced_tokens": replaced,
    }
