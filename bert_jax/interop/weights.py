"""Hugging Face state dicts to parameters and back: one table of names per family.

A state dict is a mapping from their names to numpy arrays. Kernels are transposed, because torch keeps a linear
map as [outputs, inputs].
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import numpy as np

from bert_jax.errors import UserError
from bert_jax.model import Model


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family names its arrays.

    Attributes:
      names: pairs (our path, their name); "{layer}" stands for each layer's number. A pair is in force where the
        model has our path.
      tied: names that repeat another array of theirs, and that array's name; checked where present, not written.
      ignored: a regex of their names that hold no parameter.
    """

    names: tuple[tuple[str, str], ...]
    tied: Mapping[str, str]
    ignored: str


def _encoder(prefix):
    layer, theirs = "encoder/layers/{layer}", f"{prefix}.encoder.layer.{{layer}}"
    return (
        ("encoder/embeddings/word", f"{prefix}.embeddings.word_embeddings"),
        ("encoder/embeddings/position", f"{prefix}.embeddings.position_embeddings"),
        ("encoder/embeddings/token_type", f"{prefix}.embeddings.token_type_embeddings"),
        ("encoder/embeddings/norm", f"{prefix}.embeddings.LayerNorm"),
        (f"{layer}/attention/query", f"{theirs}.attention.self.query"),
        (f"{layer}/attention/key", f"{theirs}.attention.self.key"),
        (f"{layer}/attention/value", f"{theirs}.attention.self.value"),
        (f"{layer}/attention/output", f"{theirs}.attention.output.dense"),
        (f"{layer}/attention_norm", f"{theirs}.attention.output.LayerNorm"),
        (f"{layer}/mlp/up", f"{theirs}.intermediate.dense"),
        (f"{layer}/mlp/down", f"{theirs}.output.dense"),
        (f"{layer}/mlp_norm", f"{theirs}.output.LayerNorm"),
        ("pooler/dense", f"{prefix}.pooler.dense"),
    )


BERT = Family(
    names=(
        *_encoder("bert"),
        ("mlm/transform", "cls.predictions.transform.dense"),
        ("mlm/norm", "cls.predictions.transform.LayerNorm"),
        ("mlm", "cls.predictions"),
        ("next_sentence", "cls.seq_relationship"),
    ),
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=r"bert\.embeddings\.(position_ids|token_type_ids)",
)

ROBERTA = Family(
    names=(
        *_encoder("roberta"),
        ("mlm/transform", "lm_head.dense"),
        ("mlm/norm", "lm_head.layer_norm"),
        ("mlm", "lm_head"),
    ),
    tied={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=r"roberta\.embeddings\.(position_ids|token_type_ids)",
)

# Our leaf's name: theirs.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}


def from_state_dict(model: Model, state_dict: Mapping[str, np.ndarray], family: Family, source: str) -> dict:
    """float32 parameters of `model`, as numpy arrays.

    Args:
      model: what the arrays must fill, leaf by leaf.
      state_dict: their arrays by their names.
      family: the table.
      source: the file or directory that the error names.

    Raises:
      UserError: every missing or unused name, wrong shape and untied copy, in one line.
    """
    unused = {name for name in state_dict if not re.fullmatch(family.ignored, name)}
    problems = []

    def fill(path, shape):
        name, transposed = _their_name(path, family)
        if name not in state_dict:
            problems.append(f"missing {name or path} for {path}")
            return None
        unused.discard(name)
        array = np.asarray(state_dict[name], np.float32)
        array = array.T if transposed else array
        if array.shape != shape:
            problems.append(f"{name} has shape {state_dict[name].shape}, expected {shape[:: -1 if transposed else 1]}")
        return array

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = _map_leaves(lambda path, leaf: fill(path, leaf.shape), shapes)
    for copy in unused & family.tied.keys():
        unused.discard(copy)
        original = family.tied[copy]
        if original in state_dict and not np.array_equal(state_dict[copy], state_dict[original]):
            problems.append(f"{copy} differs from {original}, which the model ties it to")
    problems += [f"unused {name}" for name in sorted(unused)]
    if problems:
        raise UserError(f"{source}: does not fit the model: {'; '.join(problems)}")
    return params


def to_state_dict(params: Mapping, family: Family) -> dict[str, np.ndarray]:
    """Their names and arrays for our parameters; the tied decoder is left out, as its array is the embedding.

    Raises:
      UserError: parameters that the family has no name for.
    """
    state_dict, nameless = {}, []

    def put(path, leaf):
        name, transposed = _their_name(path, family)
        if name is None:
            nameless.append(path)
            return
        array = np.asarray(leaf)
        state_dict[name] = np.ascontiguousarray(array.T) if transposed else array

    _map_leaves(put, params)
    if nameless:
        raise UserError(f"the family's format has no name for {', '.join(nameless)}")
    return state_dict


def _their_name(path: str, family: Family) -> tuple[str | None, bool]:
    """Their name of a leaf of ours, and whether it is transposed; (None, False) where they have none."""
    module, leaf = path.rsplit("/", 1)
    layer = re.search(r"layers/(\d+)", module)
    if layer:
        module = module.replace(layer[0], "layers/{layer}", 1)
    for ours, theirs in family.names:
        if ours == module:
            return f"{theirs}.{_LEAVES[leaf]}".format(layer=layer and layer[1]), leaf == "kernel"
    return None, False


def _map_leaves(function, tree, prefix=""):
    if isinstance(tree, Mapping):
        return {key: _map_leaves(function, value, f"{prefix}{key}/") for key, value in tree.items()}
    return function(prefix.removesuffix("/"), tree)
