"""Names leaves of trees of parameters, nested dicts of arrays, by paths such as "encoder/layers/0/mlp/up/kernel".

Trees here have a subtree for each layer, as checkpoints do.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bert_jax import _moved
from bert_jax.model import Model


def path_name(path: tuple) -> str:
    """Returns a tree path as names joined by "/", such as "opt_state/1/mu/encoder/layers/0/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their names."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def select_leaves(tree: Mapping, wanted: Callable[[str], bool], prefix: str = "") -> dict:
    """Returns the part of a tree whose leaves' names are wanted, without dicts that this leaves empty.

    Args:
      tree: a nested dict.
      wanted: maps a name to whether its leaf is kept.
      prefix: what the names begin with.
    """
    selected = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            selected_below = select_leaves(value, wanted, f"{prefix}{name}/")
            if selected_below:
                selected[name] = selected_below
        elif wanted(prefix + name):
            selected[name] = value
    return selected


def set_leaf(tree: dict, name: str, leaf: Any) -> None:
    """Sets the leaf of a name in a nested dict, in place, with the dicts on its path."""
    *modules, last = name.split("/")
    for module in modules:
        tree = tree.setdefault(module, {})
    tree[last] = leaf


@_moved.renamed_arguments(trained="first", frozen="second")
def merge_trees(first: Mapping, second: Mapping) -> dict:
    """Returns a tree with the leaves of two nested dicts that share none."""
    merged = dict(first)
    for name, value in second.items():
        is_shared = name in first and isinstance(value, Mapping)
        merged[name] = merge_trees(first[name], value) if is_shared else value
    return merged


@_moved.renamed_arguments(reinit="redrawn")
def fit_parameters(
    model: Model, source: Mapping, redrawn: str = r"(?!)"
) -> tuple[dict, Callable[[jax.Array], dict], list[str], list[str]]:
    """Splits a model's parameters into those that another model's tree has, and those that have to be drawn.

    Args:
      model: the model whose parameters are wanted.
      source: parameters of another model; a leaf of another shape counts as absent.
      redrawn: a regular expression that names leaves to draw though the source has them.

    Returns:
      (leaves of the source, a compiled function from a PRNG key to the leaves that are drawn, names of the drawn ones,
      names of the source's leaves that the model has no place for).
    """
    source_leaves = leaves_by_name(source)
    shapes = {name: leaf.shape for name, leaf in leaves_by_name(model.shapes()).items()}
    fits = {
        name
        for name, shape in shapes.items()
        if name in source_leaves and np.shape(source_leaves[name]) == shape and not re.search(redrawn, name)
    }
    draw = jax.jit(lambda key: select_leaves(model.init(key), lambda name: name not in fits))
    taken = {}
    for name in sorted(fits):
        set_leaf(taken, name, source_leaves[name])
    return taken, draw, sorted(shapes.keys() - fits), sorted(source_leaves.keys() - shapes.keys())


def merge_adapters(params: Mapping, config: Mapping) -> dict:
    """Returns parameters with LoRA adapters added to their kernels: W + lora_alpha / lora_rank A B, without lora_*.

    Args:
      params: a tree in which adapters lora_a [inputs, rank] and lora_b [rank, outputs] lie beside the kernels [inputs,
        outputs] that they adapt.
      config: config.tuning; reads lora_rank and lora_alpha.
    """
    if not config["lora_rank"]:
        return dict(params)
    scale = config["lora_alpha"] / config["lora_rank"]

    def merged(tree):
        if not isinstance(tree, Mapping):
            return tree
        if "lora_a" in tree:
            others = {name: leaf for name, leaf in tree.items() if name not in ("lora_a", "lora_b")}
            return others | {"kernel": tree["kernel"] + tree["lora_a"] @ tree["lora_b"] * scale}
        return {name: merged(value) for name, value in tree.items()}

    return merged(params)
