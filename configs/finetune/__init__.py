"""Holds fine-tuning recipes: one file, one task; each has get_config()."""

import importlib


def __getattr__(name):
    """Imports configs.finetune.sst2 and the like when they are first used."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"no recipe {name!r} in {__name__}") from error
