"""Makes groups of configuration keys, and states the largest sizes and the properties that many keys share."""

from collections.abc import Mapping
from typing import Any

from bert_jax.config.schema import Key

SMALLEST_EPSILON = 1e-15  # its square is a number in float32
LARGEST_SEED = 2**32 - 1  # jax drops the higher bits of a seed
# Sizes beyond what anybody has trained, by far: a number over them is a slip. Smaller ones that the devices' memory
# does not hold are refused by an estimate (training/memory.py).
LARGEST_WIDTH = 2**16  # units of a hidden state; the widest published encoders have some 4,000, decoders 20,000
LARGEST_MLP = 2**18
LARGEST_DEPTH = 1_000  # layers; DeepNet (Wang et al. 2022) has as many
LARGEST_HEADS = 2**10
LARGEST_ROW = 2**20  # tokens
LARGEST_BATCH = 2**20  # rows; You et al. 2020 train with 65,536
LARGEST_VOCABULARY = 10_000_000
LARGEST_WORKERS = 1_024  # processes on one host


def group(name: str, role: str, /, **keys: tuple) -> dict[str, Key]:
    """Returns the keys of a group by dotted name, each given as the arguments of `key_of` behind the role."""
    return {f"{name}.{key}": key_of(role, *value) for key, value in keys.items()}


def key_of(role: str, default: Any, doc: str, properties: Mapping[str, Any] | None = None) -> Key:
    """Returns a Key with the given properties, which may name another role."""
    fields: dict[str, Any] = {"default": default, "doc": doc, "role": role} | dict(properties or {})
    return Key(**fields)


RATE = {"below": 1, "noun": "a rate"}
COUNT = {"at_least": 1}
WIDTH, DEPTH, HEADS = {"at_most": LARGEST_WIDTH}, {"at_most": LARGEST_DEPTH}, {"at_most": LARGEST_HEADS}
TOKENS, ROWS = {"at_most": LARGEST_ROW}, {"at_most": LARGEST_BATCH}
MAY_CHANGE = {"resumable": True}
IN_PHASES = {"in_phases": True}
