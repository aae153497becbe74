"""Reads weights as transformers' Flax classes saved them (FlaxBertModel and the like, until transformers 4).

flax_model.msgpack holds a nested dict of arrays by module, as flax.serialization writes it; large models have shards
and an index. The modules have the names of the torch classes, so that a path joined by dots is torch's name but for
its last part, and a kernel is torch's weight transposed (modeling_flax_pytorch_utils.py of transformers 4).
"""

import pathlib
from collections.abc import Mapping

import numpy as np

from bert_jax.errors import UserError

SINGLE, INDEX = "flax_model.msgpack", "flax_model.msgpack.index.json"
# The last part of a Flax path: torch's word for it.
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of one msgpack file by their torch names, weights [outputs, inputs]. Raises UserError."""
    from flax import serialization

    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # msgpack and numpy raise whatever the damage leads to
        raise UserError(f"{path}: cut off or not written by flax; copy or download it again") from error
    arrays = dict(_flatten(tree, path))
    if all(name.startswith("params.") for name in arrays):  # as a module's variables are saved
        arrays = {name.removeprefix("params."): array for name, array in arrays.items()}
    return to_torch(arrays)


def to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays by their torch names, kernels transposed.

    Args:
      arrays: by their Flax paths, joined by dots: kernels [inputs, outputs], embeddings [rows, size], scales and biases
        [size].
    """
    return {torch_name(name): array.T if name.endswith("kernel") else array for name, array in arrays.items()}


def torch_name(path: str) -> str:
    """Returns the torch name of a Flax path, joined by dots or slashes, such as "bert/pooler/dense/kernel"."""
    *modules, last = path.replace("/", ".").split(".")
    return ".".join([*modules, _LEAVES.get(last, last)])


def _flatten(tree, path, prefix=""):
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: found {type(tree).__name__}; expected a nested dictionary of arrays")
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("/", ".")
        if isinstance(value, np.ndarray):
            yield name, value
        else:
            yield from _flatten(value, path, f"{name}.")
