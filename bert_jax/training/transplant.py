"""Parameters for one model made of another's: some of its layers, or all of it, tiled.

Trees hold layers one by one ("0", "1", ... under encoder/layers), as checkpoints do.
"""

import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from bert_jax.model import Spec
from bert_jax.model.parameters import leaves_by_name, path_name

SIZES = (
    "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_size", "intermediate_size", "embedding_size",
)  # fmt: skip


def pick_layers(params: Mapping, numbers: Sequence[int], shapes: Mapping) -> dict:
    """The tree with some of its layers alone, in the order given.

    So DistilBERT begins, from layers 0, 2, 4, 7, 9 and 11 of BERT's twelve (Sanh et al. 2019, section 3: one of two;
    which, transformers' research_projects/distillation/scripts/extract_distilbert.py says).

    Args:
      params: of the model that has the layers.
      numbers: of the layers, from 0.
      shapes: of the parameters that are wanted.
    """
    return _with_layers(params, _layers(params["encoder"]["layers"], numbers, shapes["encoder"]["layers"]))


def grow(params: Mapping, small: Spec, large: Spec, shapes: Mapping) -> dict:
    """The tree as a larger model's: the smaller arrays in the centre of the larger ones, which they fill in a circle.

    Warner et al. 2024 (ModernBERT), section 2.2 on initialisation, after Phi and Gopher; as in AnswerDotAI/ModernBERT,
    tile_weights_from_middle and init_model_from_pretrained: element i of an axis of n is element (i - (n - m) // 2) mod
    m of the smaller one's m, and layer i of n is layer round(i m / n) of m. No number is scaled. Heads are tiled as
    wholes, those of queries within what their keys and values serve, and within a head its units; where heads keep
    their size and whole heads fit on both sides, this is the tiling of the flat axis.

    Args:
      params: the smaller model's; heads that the larger one lacks stay as they are.
      small, large: both models'; no size of SIZES is smaller in the larger one.
      shapes: of the larger model's parameters.
    """
    there, here = params["encoder"]["layers"], shapes["encoder"]["layers"]
    numbers = [min(round(i * len(there) / len(here)), len(there) - 1) for i in range(len(here))]
    spread = _with_layers(params, _layers(there, numbers, here))
    leaves = leaves_by_name(spread)

    def tiled(path, leaf):
        name = path_name(path)
        return _tiled(name, leaves[name], leaf.shape, small, large) if name in leaves else None

    grown = jax.tree_util.tree_map_with_path(tiled, shapes)
    return spread | {name: part for name, part in grown.items() if name in spread}


def _with_layers(params, layers):
    return params | {"encoder": params["encoder"] | {"layers": layers}}


def _layers(source, numbers, shapes):
    """Layers by number, each with the parts that its new place has."""
    found = {}
    for place, number in enumerate(numbers):
        layer = {name: part for name, part in source[str(number)].items() if name != "conv"}
        if "conv" in source["0"]:  # it stands beside the first layer, whichever that is
            layer["conv"] = source["0"]["conv"]
        wanted = shapes[str(place)]
        layer = {name: part for name, part in layer.items() if name in wanted}
        if "attention_norm" in wanted and "attention_norm" not in layer:  # of a first layer without one
            layer["attention_norm"] = {
                name: np.full(source["0"]["mlp_norm"][name].shape, float(name == "scale"), np.float32)
                for name in wanted["attention_norm"]
            }
        found[str(place)] = layer
    return found


def _tiled(name, array, shape, small, large):
    """An array of the smaller model as the larger one's at the same path."""
    array = np.asarray(array)
    inputs = re.search(r"attention/output/kernel$", name)
    outputs = re.search(r"attention/(query|key|value|position_query|position_key)/(kernel|bias)$", name)
    of_heads = 0 if inputs else len(shape) - 1 if outputs else None
    of_keys = bool(outputs) and "query" not in outputs[1]
    for axis, size in enumerate(shape):
        index = _heads(small, large, of_keys) if axis == of_heads else _centred(array.shape[axis], size)
        array = array.take(index, axis)
    return array


def _heads(small, large, of_keys):
    """Which number of the smaller axis of heads, of keys and values or of queries, stands at each of the larger's."""

    def axes(spec):
        return spec.num_kv_heads, 1 if of_keys else spec.num_heads // spec.num_kv_heads, spec.head_size

    old, new = axes(small), axes(large)
    places = np.arange(np.prod(old)).reshape(old)
    return places[np.ix_(*(_centred(m, n) for m, n in zip(old, new, strict=True)))].ravel()


def _centred(old, new):
    return (np.arange(new) - (new - old) // 2) % old
