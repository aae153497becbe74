"""Makes a model's parameters from another's: some of its layers, more positions, or all tiled to a larger size.

Trees have a subtree for each layer ("0", "1", ... under encoder/layers), as checkpoints do.
"""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config.keys import MODEL
from bert_jax.config.schema import is_number
from bert_jax.model import Spec
from bert_jax.model.parameters import leaves_by_name, path_name

SIZES = (
    "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_size", "intermediate_size", "embedding_size",
)  # fmt: skip
# Keys that any model with rotary positions takes other values of: no parameter depends on them.
ROTARY = tuple(name for name in MODEL if "rotary_" in name)
# Keys that a model takes other values of with config.init_long.
LONG = (
    "local_window", "global_every", "global_offset", "layer_windows", "global_tokens", "global_projections",
)  # fmt: skip


def pick_layers(params: Mapping, numbers: Sequence[int], shapes: Mapping, zero_centered: bool = False) -> dict:
    """Returns a tree with some layers of another, in the order given.

    DistilBERT starts so from layers 0, 2, 4, 7, 9 and 11 of BERT's twelve (Sanh et al. 2019, section 3, takes one of
    two; transformers' research_projects/distillation/scripts/extract_distilbert.py says which).

    Args:
      params: parameters of the model that has the layers.
      numbers: numbers of the layers to take, from 0.
      shapes: shapes of the wanted parameters.
      zero_centered: whether a norm that changes nothing has scales of 0 (config.model.zero_centered_scale).
    """
    layers = _layers(params["encoder"]["layers"], numbers, shapes["encoder"]["layers"], zero_centered)
    return _with_layers(params, layers)


def grow(params: Mapping, small: Spec, large: Spec, shapes: Mapping) -> dict:
    """Returns parameters of a larger model: the smaller arrays lie in the centre of the larger ones and are tiled.

    Warner et al. 2024 (ModernBERT), section 2.2 on initialisation, after Phi and Gopher; as in AnswerDotAI/ModernBERT,
    tile_weights_from_middle and init_model_from_pretrained: element i of an axis of n is element (i - (n - m) // 2) mod
    m of the smaller one's m, and layer i of n is layer round(i m / n) of m. Values are not scaled. Heads are tiled as
    wholes, query heads within the group that shares keys and values, and units within a head; where heads keep their
    size and whole heads fit on both sides, this equals tiling the flat axis.

    Args:
      params: the smaller model's parameters; heads that the larger one lacks stay as they are.
      small, large: specs of both models; no size of SIZES is smaller in the larger one.
      shapes: shapes of the larger model's parameters.
    """
    layers, wanted = params["encoder"]["layers"], shapes["encoder"]["layers"]
    numbers = [min(round(i * len(layers) / len(wanted)), len(layers) - 1) for i in range(len(wanted))]
    spread = _with_layers(params, _layers(layers, numbers, wanted, large.zero_centered_scale))
    leaves = leaves_by_name(spread)

    def tiled(path, leaf):
        name = path_name(path)
        return _tiled(name, leaves[name], leaf.shape, small, large) if name in leaves else None

    grown = jax.tree_util.tree_map_with_path(tiled, shapes)
    return spread | {name: part for name, part in grown.items() if name in spread}


def with_global_maps(params: Mapping) -> dict:
    """Returns parameters whose global tokens have maps of their own, which are copies of those of all tokens.

    So Longformer starts from RoBERTa, and so are the maps copied once more after a masked-language objective, which
    trains none of them (Beltagy et al. 2020, section 5; scripts/convert_model_to_long.ipynb of allenai/longformer).

    Args:
      params: parameters of a model with such maps or without.
    """
    layers = {}
    for number, layer in params["encoder"]["layers"].items():
        # Arrays of their own: a step that is given one array twice cannot write into it.
        maps = {f"global_{name}": layer["attention"][name] for name in ("query", "key", "value")}
        copies = jax.tree.map(lambda leaf: np.array(leaf), maps)
        layers[number] = {**layer, "attention": {**layer["attention"], **copies}}
    return _with_layers(params, layers)


def changes_of_positions(old: Spec, new: Spec, rule: str) -> list[str]:
    """Returns in words what differs between the positions of two models, such as "max_positions from 512 to 1,024".

    Args:
      old, new: specs of the model that parameters come from, and of the model that takes them.
      rule: the rule by which a learned table is extended; "" for none.
    """
    notes = []
    for key in ("max_positions", *(ROTARY if new.has_rotary_positions else ())):
        before, after = getattr(old, key), getattr(new, key)
        extension = f" ({rule})" if key == "max_positions" and rule else ""
        notes += [f"{key} from {_written(before)} to {_written(after)}{extension}"] if before != after else []
    return notes


def _written(value):
    return f"{value:,g}" if is_number(value) else str(value)


def is_position_table(name: str) -> bool:
    """Returns whether a parameter of this name is a learned table of positions."""
    return name.endswith("embeddings/position/embedding")


def extend_positions(table: jax.Array, rows: int, offset: int, rule: str) -> jax.Array:
    """Returns a learned table of positions with more rows.

    Args:
      table: [offset + n, size], whose first `offset` rows are no positions and stay.
      rows: number of rows of the result, offset + m.
      offset: config.model.position_offset.
      rule: "tile" repeats the n positions, as Longformer did (Beltagy et al. 2020, section 5); "interpolate" stretches
        them: position i of m is position i (n - 1) / (m - 1) of n, between two rows a mean weighted by nearness.
    """
    old, new = table.shape[0] - offset, rows - offset
    if rule == "tile":
        return jnp.concatenate([table[:offset], table[offset + np.arange(new) % old]])
    places = np.arange(new) * ((old - 1) / max(1, new - 1))
    low = np.minimum(places.astype(np.int64), max(0, old - 2))
    share = jnp.asarray((places - low)[:, None], table.dtype)
    below, above = table[offset + low], table[offset + np.minimum(low + 1, old - 1)]
    return jnp.concatenate([table[:offset], below + (above - below) * share])


def _with_layers(params, layers):
    return params | {"encoder": params["encoder"] | {"layers": layers}}


def _layers(source, numbers, shapes, zero_centered):
    """Returns copies of layers by their new places, each with the parts that the new place has."""
    layers = {}
    for place, number in enumerate(numbers):
        layer = {name: part for name, part in source[str(number)].items() if name != "conv"}
        if "conv" in source["0"]:  # it is beside the first layer, whichever that is
            layer["conv"] = source["0"]["conv"]
        wanted = shapes[str(place)]
        layer = {name: part for name, part in layer.items() if name in wanted}
        if "attention_norm" in wanted and "attention_norm" not in layer:  # a first layer has no such norm
            layer["attention_norm"] = {
                name: np.full(source["0"]["mlp_norm"][name].shape, name == "scale" and not zero_centered, np.float32)
                for name in wanted["attention_norm"]
            }
        layers[str(place)] = layer
    return layers


def _tiled(name, array, shape, small, large):
    """Tiles an array of the smaller model to the shape of the larger one's."""
    array = np.asarray(array)
    inputs = re.search(r"attention/output/kernel$", name)
    outputs = re.search(r"attention/((?:position_|global_)?(?:query|key|value))/(kernel|bias)$", name)
    if large.query_key_norm_over == "heads":
        outputs = outputs or re.search(r"attention/(query|key)_norm/(scale|bias)$", name)
    head_axis = 0 if inputs else len(shape) - 1 if outputs else None
    is_key = bool(outputs) and "query" not in outputs[1]
    for axis, size in enumerate(shape):
        index = _heads(small, large, is_key) if axis == head_axis else _centred(array.shape[axis], size)
        array = array.take(index, axis)
    return array


def _heads(small, large, is_key):
    """Returns for each index of the larger axis of heads the index of the smaller one, of key or query heads."""

    def axes(spec):
        return spec.num_kv_heads, 1 if is_key else spec.num_heads // spec.num_kv_heads, spec.head_size

    old, new = axes(small), axes(large)
    places = np.arange(np.prod(old)).reshape(old)
    return places[np.ix_(*(_centred(m, n) for m, n in zip(old, new, strict=True)))].ravel()


def _centred(old, new):
    return (np.arange(new) - (new - old) // 2) % old
