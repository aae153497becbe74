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
      prefix: how the encoder's names begin, but in a file of a bare encoder.
      names: pairs (our path, their name); "{layer}" stands for each layer's number. A pair is in force where the
        model has our path.
      tasks: the pairs of each fine-tuned head.
      tied: names that repeat another array of theirs, and that array's name; checked where present, not written.
    """

    prefix: str
    names: tuple[tuple[str, str], ...]
    tasks: Mapping[str, tuple[tuple[str, str], ...]]
    tied: Mapping[str, str]


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


_CLASSIFIER = (("task/output", "classifier"),)
_TOKEN_TASKS = {"token_classification": _CLASSIFIER, "question_answering": (("task/output", "qa_outputs"),)}

BERT = Family(
    prefix="bert",
    names=(
        *_encoder("bert"),
        ("mlm/transform", "cls.predictions.transform.dense"),
        ("mlm/norm", "cls.predictions.transform.LayerNorm"),
        ("mlm", "cls.predictions"),
        ("next_sentence", "cls.seq_relationship"),
    ),
    tasks={"sequence_classification": _CLASSIFIER, **_TOKEN_TASKS},
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)

ROBERTA = Family(
    prefix="roberta",
    names=(
        *_encoder("roberta"),
        ("mlm/transform", "lm_head.dense"),
        ("mlm/norm", "lm_head.layer_norm"),
        ("mlm", "lm_head"),
    ),
    tasks={
        "sequence_classification": (("task/dense", "classifier.dense"), ("task/output", "classifier.out_proj")),
        **_TOKEN_TASKS,
    },
    tied={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
)

FAMILIES = {"bert": BERT, "roberta": ROBERTA}

# Our leaf's name: theirs.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}


# Buffers that older versions of transformers saved.
_BUFFERS = re.compile(r"embeddings\.(position_ids|token_type_ids)")
DTYPES = ("float32", "float16", "bfloat16")  # what a parameter may be stored as
_OLD_NORM = {"gamma": "weight", "beta": "bias"}  # as TensorFlow called them


def from_state_dict(model: Model, state_dict: Mapping[str, np.ndarray], family: Family, source: str) -> dict:
    """float32 parameters of `model`, as numpy arrays.

    Args:
      model: what the arrays must fill, leaf by leaf.
      state_dict: their arrays by their names, the encoder's with or without the family's prefix.
      family: the table.
      source: the file or directory that the error names.

    Raises:
      UserError: every missing or unused name, wrong shape and untied copy, in one line.
    """
    spellings, problems = _spellings(state_dict, family)
    task = model.spec.task and model.spec.task.name
    prefixed = any(name.startswith(f"{family.prefix}.") for name in state_dict) or not state_dict
    unused = set(spellings)

    def fill(path, shape):
        name, transposed = _their_name(path, family, task)
        found = name if name in spellings else _tied_copy(name, spellings, family)
        if found is None:
            spelled = name if prefixed or name is None else name.removeprefix(f"{family.prefix}.")
            problems.append(f"missing {spelled or path}")
            return None
        unused.discard(found)
        array = state_dict[spellings[found]]
        expected = shape[::-1] if transposed else shape
        if array.shape != expected:
            problems.append(f"{spellings[found]} has shape {array.shape}, expected {expected}")
            return None
        if array.dtype.name not in DTYPES:
            problems.append(f"{spellings[found]} is stored as {array.dtype}, expected one of {', '.join(DTYPES)}")
            return None
        return np.array(array.T if transposed else array, np.float32, order="C")

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = _map_leaves(lambda path, leaf: fill(path, leaf.shape), shapes)
    for copy in unused & family.tied.keys():
        original = spellings.get(family.tied[copy])
        if original is not None:
            unused.discard(copy)
            if not _same(state_dict[spellings[copy]], state_dict[original]):
                problems.append(f"{spellings[copy]} differs from {original}, which the model ties it to")
    problems += [f"unused {spellings[name]}" for name in sorted(unused)]
    if problems:
        raise UserError(f"{source}: does not fit the model: {'; '.join(problems)}")
    return params


def to_state_dict(params: Mapping, family: Family, task: str | None = None) -> dict[str, np.ndarray]:
    """Their names, the family's prefix included, and arrays for our parameters.

    The tied decoder is left out, as its array is the embedding.

    Args:
      params: float32.
      family: the table.
      task: the name of the parameters' task, if they have one.

    Raises:
      UserError: parameters that the family has no name for.
    """
    state_dict, nameless = {}, []

    def put(path, leaf):
        name, transposed = _their_name(path, family, task)
        if name is None:
            nameless.append(path)
            return
        array = np.asarray(leaf)
        state_dict[name] = np.ascontiguousarray(array.T) if transposed else array

    _map_leaves(put, params)
    if nameless:
        raise UserError(f"the family's format has no name for {', '.join(nameless)}")
    return state_dict


def canonical(name: str, family: Family) -> str:
    """The name that today's transformers gives an array: with the prefix, without gamma and beta."""
    if name.split(".")[0] in ("embeddings", "encoder", "pooler"):
        name = f"{family.prefix}.{name}"
    module, _, leaf = name.rpartition(".")
    if module.endswith("LayerNorm"):
        name = f"{module}.{_OLD_NORM.get(leaf, leaf)}"
    return name


def _spellings(state_dict, family):
    """({today's name: the file's}, problems), without buffers."""
    spellings, problems = {}, []
    for name in state_dict:
        today = canonical(name, family)
        if _BUFFERS.fullmatch(today.removeprefix(f"{family.prefix}.")):
            continue
        if today in spellings:
            problems.append(f"{spellings[today]} and {name} are the same array's names")
        spellings[today] = name
    return spellings, problems


def _tied_copy(name, spellings, family):
    """The copy that a file keeps instead of the array itself, or None."""
    copies = (copy for copy, original in family.tied.items() if original == name)
    return next((copy for copy in copies if copy in spellings), None)


def _same(first, second):
    return first.shape == second.shape and np.array_equal(
        np.asarray(first, np.float32), np.asarray(second, np.float32), equal_nan=True
    )


def _their_name(path: str, family: Family, task: str | None) -> tuple[str | None, bool]:
    """Their name of a leaf of ours, and whether it is transposed; (None, False) where they have none."""
    module, _, leaf = path.rpartition("/")
    layer = re.search(r"layers/(\d+)", module)
    if layer:
        module = module.replace(layer[0], "layers/{layer}", 1)
    for ours, theirs in (*family.names, *family.tasks.get(task, ())):
        if ours == module and leaf in _LEAVES:
            return f"{theirs}.{_LEAVES[leaf]}".format(layer=layer and layer[1]), leaf == "kernel"
    return None, False


def _map_leaves(function, tree, prefix=""):
    if isinstance(tree, Mapping):
        return {key: _map_leaves(function, value, f"{prefix}{key}/") for key, value in tree.items()}
    return function(prefix.removesuffix("/"), tree)
