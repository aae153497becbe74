"""Settings of runs: what they are, what they default to, and which values can work. No jax here.

The names below are imported on first use, so that bert_jax.model can read `bert_jax.config.architecture` with jax, flax
and numpy alone (recipes need ml_collections).
"""

import importlib

_HOMES = {
    "bert_jax.config.run_phases": ("Phase", "batch_warmup", "by_tokens", "num_steps", "phases"),
    "bert_jax.config.pretraining": (
        "ACTIVATIONS",
        "CHOICES",
        "FORMATS",
        "MOST",
        "PAIR_FORMATS",
        "base",
        "check_devices",
        "check_key",
        "check_keys",
        "check_layout",
        "check_optimizer",
        "check_schema",
        "check_whole",
        "flat",
        "listed",
        "load_recipe",
        "recipe_path",
        "validate",
    ),
    "bert_jax.config.schema": ("check_type", "closest", "is_number"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name):
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
