"""Holds the settings of config.data with which `evaluate` reads a corpus, where they differ from its keys' defaults."""

from typing import Any

from bert_jax.config.keys import PRETRAINING

RECIPE = {"format": "full_sentences", "sequence_length": 128, "batch_size": 32}


def default(key: str) -> Any:
    """Returns the value of config.data.KEY in `evaluate`; sequence_length is lower for a model that reads less."""
    return RECIPE.get(key, PRETRAINING[f"data.{key}"].default)
