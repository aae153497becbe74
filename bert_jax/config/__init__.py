"""Holds the settings of runs: what they are, what they default to, and which values can work. No jax here.

`keys` is the table of all keys; `pretraining` and `finetuning` build and check configs of the two kinds of run. The
names below are imported on first use, so that bert_jax.model can read `keys` and `architecture` with jax, flax and
numpy alone (building configs needs ml_collections).
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bert_jax import _moved

if TYPE_CHECKING:
    import ml_collections

    from bert_jax.config.keys import ACTIVATIONS, FORMATS, PAIR_FORMATS
    from bert_jax.config.layout import check_layout
    from bert_jax.config.pretraining import base, check_devices, check_keys, check_optimizer, validate
    from bert_jax.config.recipes import expanded, flat, listed, load_recipe, recipe_names, recipe_path, value
    from bert_jax.config.run_phases import (
        Phase,
        batch_warmup,
        by_tokens,
        in_phase,
        num_steps,
        phase_at,
        phases,
        schedules,
    )
    from bert_jax.config.schema import check_type, closest, is_number

_HOMES = {
    "keys": ("ACTIVATIONS", "FORMATS", "PAIR_FORMATS"),
    "layout": ("check_layout",),
    "pretraining": ("base", "check_devices", "check_keys", "check_optimizer", "validate"),
    "recipes": ("expanded", "flat", "listed", "load_recipe", "recipe_names", "recipe_path", "value"),
    "run_phases": ("Phase", "batch_warmup", "by_tokens", "in_phase", "num_steps", "phase_at", "phases", "schedules"),
    "schema": ("check_type", "closest", "is_number"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ACTIVATIONS",
    "FORMATS",
    "PAIR_FORMATS",
    "Phase",
    "base",
    "batch_warmup",
    "by_tokens",
    "check_devices",
    "check_key",
    "check_keys",
    "check_layout",
    "check_optimizer",
    "check_type",
    "closest",
    "flat",
    "help_keys",
    "in_phase",
    "in_values",
    "is_number",
    "listed",
    "expanded",
    "load_recipe",
    "num_steps",
    "phase_at",
    "phases",
    "recipe_names",
    "recipe_path",
    "schedules",
    "validate",
    "value",
    "value_of_word",
]


def __getattr__(name):
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return _moved.find("config", name)


def check_key(key: str, schema: "ml_collections.ConfigDict | None" = None) -> None:
    """Raises UserError, with the closest valid name, if a config (by default one of pre-training) has no such key."""
    from bert_jax.config.keys import PRETRAINING
    from bert_jax.config.recipes import flat
    from bert_jax.config.schema import check_name

    check_name(key, PRETRAINING if schema is None else flat(schema))


def in_values(argument: str) -> str:
    """Returns an argument --config.KEY=VALUE with the value that a word such as "auto" stands for in its place."""
    option, equals, value = argument.partition("=")
    return f"{option}={value_of_word(option.lstrip('-').removeprefix('config.'), value)}" if equals else argument


def value_of_word(key: str, value: Any) -> Any:
    """Returns the value that a word such as "auto" stands for as the value of a dotted key; other values as they are.

    Args:
      key: dotted key of either kind of run; values of unknown keys are returned as they are.
      value: the value, as a command line or an experiment gives it.
    """
    from bert_jax.config.keys import FINETUNING, PRETRAINING

    known = PRETRAINING.get(key) or FINETUNING.get(key)
    return known.empty_value if known and known.empty_word and value == known.empty_word else value


def help_keys(config: Mapping, prefix: str = "") -> list[str]:
    """Returns the lines that --help-keys=PREFIX prints: every key that begins so, with its default and its meaning.

    Args:
      config: a recipe's config, whose own values are shown where they differ from the defaults; its kind (pre-training,
        or fine-tuning where it has a task) says which table of keys is meant.
      prefix: beginning of a dotted key, with or without "config."; "" for all keys.

    Raises:
      UserError: No key begins so.
    """
    from bert_jax.config.keys import FINETUNING, PRETRAINING
    from bert_jax.config.schema import help_lines

    return help_lines(FINETUNING if "task" in config else PRETRAINING, prefix, config)
