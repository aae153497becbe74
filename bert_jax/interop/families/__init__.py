"""The families of models that have a format of Hugging Face: one file each, found by lying in this folder."""

import importlib
import pkgutil

from bert_jax.interop.families.family import Family

_found = []
for _module in pkgutil.iter_modules(__path__):
    _found += getattr(importlib.import_module(f"{__name__}.{_module.name}"), "FAMILIES", ())

# By model_type; the first that can say a model is the one that it is written as.
FAMILIES: dict[str, Family] = {family.model_type: family for family in sorted(_found, key=lambda one: one.rank)}
