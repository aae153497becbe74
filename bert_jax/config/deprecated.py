"""Keeps functions of earlier versions of bert_jax.config that nothing here calls any more."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from bert_jax.config import recipes
from bert_jax.config.keys import FINETUNING, PRETRAINING
from bert_jax.config.schema import LARGEST_INTEGER, check_name, check_type
from bert_jax.errors import UserError

MOST = LARGEST_INTEGER
CHOICES = {name: key.choices for name, key in PRETRAINING.items() if key.choices}
FINETUNING_CHOICES = {name: key.choices for name, key in FINETUNING.items() if key.choices}


def check_schema(
    config: ml_collections.ConfigDict, schema: ml_collections.ConfigDict, choices: Mapping[str, tuple]
) -> dict[str, Any]:
    """Returns the values of a config by dotted key; use `schema.check_values` instead.

    Raises:
      UserError: An unknown, missing or ill-typed key, or a value that is none of its choices.
    """
    values, defaults = recipes.flat(config), recipes.flat(schema)
    for key in values:
        check_name(key, defaults)
    for key, default in defaults.items():
        if key not in values:
            raise UserError(f"config.{key}: missing; expected a {type(default).__name__} such as {default!r}")
        check_type(f"config.{key}", values[key], default)
    for key, allowed in choices.items():
        if values[key] not in allowed:
            raise UserError(f"config.{key}: found {values[key]!r}; expected one of {', '.join(allowed)}")
    return values


def check_whole(key: str, value: Any, where: str = "") -> None:
    """Raises UserError for an integer that the arrays of a step cannot hold; use `Key.check` instead."""
    limit = PRETRAINING[key].at_most if key in PRETRAINING else None
    if isinstance(value, int) and value > (limit or MOST):
        raise UserError(f"config.{key}: found {value}{where}; expected at most {limit or MOST:,}")
