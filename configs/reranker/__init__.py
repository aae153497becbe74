"""Recipes of rerankers: one file, one way to learn; each has get_config()."""

import importlib


def __getattr__(name):
    """configs.reranker.pairs without an import of its own."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"no recipe {name!r} in {__name__}") from error
