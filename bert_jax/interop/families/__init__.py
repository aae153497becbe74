"""Lists the families of models with a Hugging Face format. Each has a file in this folder, which is how it is found."""

import importlib
import pkgutil

from bert_jax.interop.families.family import Family

_families: list[Family] = []
for _module in pkgutil.iter_modules(__path__):
    _families += getattr(importlib.import_module(f"{__name__}.{_module.name}"), "FAMILIES", ())

# By model_type, in order of rank: a model is written in the first format that can express it.
FAMILIES: dict[str, Family] = {
    family.model_type: family for family in sorted(_families, key=lambda family: family.rank)
}
