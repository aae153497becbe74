"""Hugging Face state dicts to parameters and back, by a family's table of names.

A state dict is a mapping from their names to numpy arrays. Kernels are transposed, because torch keeps a linear
map as [outputs, inputs].
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from bert_jax import _moved
from bert_jax.errors import UserError
from bert_jax.model import Model

# Our leaf's name: theirs.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
_OLD_NORM = {"gamma": "weight", "beta": "bias"}  # as TensorFlow called them
# Buffers that older versions of transformers saved.
_BUFFERS = re.compile(r"(.+\.)?(position_ids|token_type_ids|rotary_emb\.inv_freq)")
DTYPES = ("float32", "float16", "bfloat16")  # what a parameter may be stored as


@dataclasses.dataclass(frozen=True)
class Module:
    """A module of ours and theirs, whose arrays go with each other one by one.

    Attributes:
      ours, theirs: paths; "{layer}" stands for a layer's number, and of theirs "{group}" and "{inner}" for its group's
        and its number in the group.
    """

    ours: str
    theirs: str


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of theirs that is made of one or several leaves of ours.

    Attributes:
      ours: paths of leaves, as Module's.
      theirs: its name.
      join: our arrays to theirs.
      cut: the inverse.
    """

    ours: tuple[str, ...]
    theirs: str
    join: Callable[..., np.ndarray]
    cut: Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Table:
    """How the arrays of one config.json are named.

    Attributes:
      prefix: how the encoder's names begin, but in a file of a bare encoder.
      names: what goes with what; an entry is in force where the model has our path.
      tied: names that repeat another array of theirs, and that array's name; checked where present, not written.
      copies: the same of names that their model has, but does not read: passed over, and written.
      ignored: regular expressions of names that are dropped on purpose.
      group_layers: layers of a group.
      old_prefixes: other prefixes that files have had for the encoder's names.
      zeros: names of biases that a file may lack, which then are zeros.
    """

    prefix: str
    names: tuple[Module | Array, ...]
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    group_layers: int = 1
    old_prefixes: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()


def fused(ours: Sequence[str], theirs: str) -> tuple[Array, Array]:
    """Linear maps of ours that are one of theirs, outputs behind outputs: its weight and its bias."""
    count = len(ours)
    weight = Array(
        tuple(f"{path}/kernel" for path in ours),
        f"{theirs}.weight",
        lambda *kernels: np.concatenate([kernel.T for kernel in kernels]),
        lambda array: [part.T for part in np.split(array, count)],
    )
    bias = Array(
        tuple(f"{path}/bias" for path in ours),
        f"{theirs}.bias",
        lambda *biases: np.concatenate(biases),
        lambda array: np.split(array, count),
    )
    return weight, bias


def interleaved(ours: Sequence[str], theirs: str, heads: int) -> Array:
    """Kernels of ours that are one weight of theirs, head by head: the first head's of each, then the second's."""
    count = len(ours)

    def join(*kernels):
        by_head = [kernel.T.reshape(heads, -1, kernel.shape[0]) for kernel in kernels]
        return np.concatenate(by_head, 1).reshape(-1, kernels[0].shape[0])

    def cut(array):
        by_head = array.reshape(heads, -1, array.shape[1])
        return [part.reshape(-1, array.shape[1]).T for part in np.split(by_head, count, 1)]

    return Array(tuple(f"{path}/kernel" for path in ours), theirs, join, cut)


def leaf(ours: str, theirs: str, axes: tuple[int, ...] | None = None) -> Array:
    """One array for one leaf, as it is or with its axes transposed to `axes`."""
    if axes is None:
        return Array((ours,), theirs, lambda array: array, lambda array: [array])
    back = tuple(int(i) for i in np.argsort(axes))
    return Array((ours,), theirs, lambda array: array.transpose(axes), lambda array: [array.transpose(back)])


def from_state_dict(model: Model, state_dict: Mapping[str, np.ndarray], table: Table, source: str) -> dict:
    """float32 parameters of `model`, as numpy arrays.

    Args:
      model: what the arrays must fill, leaf by leaf.
      state_dict: their arrays by their names, the encoder's with or without the table's prefix.
      table: the names.
      source: the file or directory that the error names.

    Raises:
      UserError: every missing or unused name, wrong shape and untied copy, in one line.
    """
    spellings, problems = _spellings(state_dict, table)
    prefixed = any(name.startswith(f"{table.prefix}.") for name in state_dict) or not state_dict
    unused = set(spellings) - table.copies.keys()
    shapes = _flat(jax.eval_shape(model.init, jax.random.key(0)))
    entries, nameless = _entries(shapes, table)
    problems += [f"missing {path}" for path in nameless]
    found = {}
    for entry in entries:
        name = entry.theirs if entry.theirs in spellings else _tied_copy(entry.theirs, spellings, table)
        if name is None and entry.theirs in table.zeros:
            found |= {path: np.zeros(shapes[path].shape, np.float32) for path in entry.ours}
            continue
        if name is None:
            problems.append(f"missing {entry.theirs if prefixed else entry.theirs.removeprefix(f'{table.prefix}.')}")
            continue
        unused.discard(name)
        array = state_dict[spellings[name]]
        expected = entry.join(*(np.empty(shapes[path].shape, bool) for path in entry.ours)).shape
        if array.shape != expected:
            problems.append(f"{spellings[name]} has shape {array.shape}, expected {expected}")
            continue
        if array.dtype.name not in DTYPES:
            problems.append(f"{spellings[name]} is stored as {array.dtype}, expected one of {', '.join(DTYPES)}")
            continue
        for path, part in zip(entry.ours, entry.cut(array), strict=True):
            found[path] = np.array(part, np.float32, order="C")
    for copy in unused & table.tied.keys():
        original = spellings.get(table.tied[copy])
        if original is not None:
            unused.discard(copy)
            if not _same(state_dict[spellings[copy]], state_dict[original]):
                problems.append(f"{spellings[copy]} differs from {original}, which the model ties it to")
    problems += [f"unused {spellings[name]}" for name in sorted(unused)]
    if problems:
        raise UserError(f"{source}: does not fit the model: {'; '.join(problems)}")
    return _nested(found)


def to_state_dict(params: Mapping, table: Table) -> dict[str, np.ndarray]:
    """Their names, the table's prefix included, and arrays for our parameters.

    A tied decoder is left out, as its array is the embedding.

    Args:
      params: float32, or what else goes with each of them, such as gradients.
      table: the names.

    Raises:
      UserError: parameters that the table has no name for.
    """
    leaves = _flat(params)
    entries, nameless = _entries(leaves, table)
    if nameless:
        raise UserError(f"the family's format has no name for {', '.join(nameless)}")
    named = {
        entry.theirs: np.ascontiguousarray(entry.join(*(np.asarray(leaves[path]) for path in entry.ours)))
        for entry in entries
    }
    return named | {copy: named[name] for copy, name in table.copies.items() if name in named}


def canonical_name(name: str, table: Table) -> str:
    """The name that today's transformers gives an array: with the prefix, without gamma and beta."""
    first, _, rest = name.partition(".")
    if first in table.old_prefixes:
        name = f"{table.prefix}.{rest}"
    elif first in _first_parts(table):
        name = f"{table.prefix}.{name}"
    module, _, last = name.rpartition(".")
    if module.endswith("LayerNorm"):
        name = f"{module}.{_OLD_NORM.get(last, last)}"
    return name


def count_known(names: Sequence[str], table: Table) -> int:
    """How many of `names` the table could hold, whatever the number of layers."""
    patterns = set()
    for entry in table.names:
        theirs = re.sub(r"\{\w+\}", "0", entry.theirs)
        patterns |= {f"{theirs}.{last}" for last in set(_LEAVES.values())} if isinstance(entry, Module) else {theirs}
    return sum(re.sub(r"(?<=\.)\d+(?=\.)", "0", canonical_name(name, table)) in patterns for name in names)


def _first_parts(table):
    """How the encoder's names begin where they stand without the prefix."""
    begin = f"{table.prefix}."
    return {e.theirs.removeprefix(begin).split(".")[0] for e in table.names if e.theirs.startswith(begin)}


def _entries(leaves, table):
    """(the arrays of theirs that hold these leaves, the leaves that none holds)."""
    entries, left = [], dict.fromkeys(leaves)
    numbers = sorted({int(found[1]) for path in leaves if (found := re.search(r"layers/(\d+)/", path))})
    for entry in table.names:
        layers = numbers if "{layer}" in (entry.ours if isinstance(entry, Module) else entry.ours[0]) else [0]
        for layer in layers:
            for array in _arrays(entry, layer, leaves, table.group_layers):
                if all(path in left for path in array.ours):
                    entries.append(array)
                    for path in array.ours:
                        del left[path]
    return entries, list(left)


def _arrays(entry, layer, leaves, group_layers):
    """An entry's arrays for a layer."""
    numbers = {"layer": layer, "group": layer // group_layers, "inner": layer % group_layers}
    theirs = entry.theirs.format(**numbers)
    if isinstance(entry, Array):
        return [dataclasses.replace(entry, ours=tuple(path.format(**numbers) for path in entry.ours), theirs=theirs)]
    ours = entry.ours.format(**numbers)
    return [
        leaf(f"{ours}/{last}", f"{theirs}.{name}", (1, 0) if last == "kernel" else None)
        for last, name in _LEAVES.items()
        if f"{ours}/{last}" in leaves
    ]


def _spellings(state_dict, table):
    """({today's name: the file's}, problems), without buffers and what is ignored."""
    spellings, problems = {}, []
    for name in state_dict:
        today = canonical_name(name, table)
        if _BUFFERS.fullmatch(today) or any(re.fullmatch(pattern, today) for pattern in table.ignored):
            continue
        if today in spellings:
            problems.append(f"{spellings[today]} and {name} are the same array's names")
        spellings[today] = name
    return spellings, problems


def _tied_copy(name, spellings, table):
    """The copy that a file keeps instead of the array itself, or None."""
    copies = (copy for copy, original in (*table.tied.items(), *table.copies.items()) if original == name)
    return next((copy for copy in copies if copy in spellings), None)


def _same(first, second):
    return first.shape == second.shape and np.array_equal(
        np.asarray(first, np.float32), np.asarray(second, np.float32), equal_nan=True
    )


def _flat(tree, prefix=""):
    """{path: leaf}."""
    found = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _nested(flat):
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def __getattr__(name: str):
    return _moved.find("interop.weights", name)
