"""Converts state dicts of Hugging Face models to parameters and back, by a family's table of names.

A state dict maps torch's names to numpy arrays. Linear maps are transposed: torch keeps a weight as [outputs, inputs],
and a kernel here is [inputs, outputs].
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import ml_dtypes
import numpy as np

from bert_jax import _moved
from bert_jax.errors import UserError
from bert_jax.model import Model

# Name of a leaf here: its name in a state dict.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
_OLD_NORM = {"gamma": "weight", "beta": "bias"}  # TensorFlow's names, which old files have
# Buffers that older versions of transformers saved.
_BUFFERS = re.compile(r"(.+\.)?(position_ids|token_type_ids|rotary_emb\.inv_freq)")
# Modules that torch and its tools put around a model or around modules in it.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
DTYPES = ("float32", "float16", "bfloat16")  # what a parameter may be stored as


@dataclasses.dataclass(frozen=True)
class Module:
    """Names a module whose arrays correspond one to one to those of a torch module.

    Attributes:
      ours: path of the module in the parameters; "{layer}" stands for a layer's number.
      theirs: name of the torch module; "{layer}" as above, "{group}" and "{inner}" for the number of the layer's group
        and its number in the group.
    """

    ours: str
    theirs: str


@dataclasses.dataclass(frozen=True)
class Array:
    """Describes an array of a state dict that is made of one or several leaves of the parameters.

    Attributes:
      ours: paths of the leaves, with "{layer}" as in Module.
      theirs: name of the array in the state dict.
      join: makes the array from the leaves.
      cut: makes the leaves from the array; the inverse of `join`.
    """

    ours: tuple[str, ...]
    theirs: str
    join: Callable[..., np.ndarray]
    cut: Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds the names of the arrays of a model with a certain config.json.

    Attributes:
      prefix: first part of the encoder's names, which files of an encoder without heads leave out.
      names: the correspondences; an entry applies where the model has the entry's path.
      tied: {name of an array that repeats another array: name of that other}. Such an array is compared with the
        other where a file has it, and is not written.
      copies: the same for arrays that transformers' class has but does not read. They are not compared, and written.
      ignored: regular expressions of names that are skipped on purpose.
      kept: names of arrays that no parameter takes values from, and that are written again where a file had them.
      group_layers: number of layers in a group.
      old_prefixes: other first parts that files have had for the encoder's names.
      zeros: names of biases that a file may lack and that then are zeros.
      constants: {name of an array that follows from config.json: function that makes it}. Such an array is compared
        where a file has it, but for the rounding of its dtype, and written.
    """

    prefix: str
    names: tuple[Module | Array, ...]
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    group_layers: int = 1
    old_prefixes: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    constants: Mapping[str, Callable[[], np.ndarray]] = dataclasses.field(default_factory=dict)


def fused(ours: Sequence[str], theirs: str) -> tuple[Array, Array]:
    """Returns the weight and the bias of a torch module that concatenates several linear maps by their outputs.

    Args:
      ours: paths of the linear maps, with kernels [inputs, outputs].
      theirs: name of the torch module, with a weight [sum of outputs, inputs].
    """
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


def interleaved(ours: Sequence[str], theirs: str, heads: int, turned: Collection[str] = ()) -> Array:
    """Returns a torch weight that holds several kernels head by head: the first head of each, then the second of each.

    Args:
      ours: paths of the linear maps, with kernels [inputs, heads x size].
      theirs: name of the weight, [heads x maps x size, inputs].
      heads: number of attention heads.
      turned: paths of the maps in which rotary positions turn neighbours there (see rotated).
    """
    count = len(ours)

    def join(*kernels):
        parts = [
            _neighbours(kernel.T, heads) if path in turned else kernel.T
            for path, kernel in zip(ours, kernels, strict=True)
        ]
        by_head = [part.reshape(heads, -1, part.shape[1]) for part in parts]
        return np.concatenate(by_head, 1).reshape(-1, parts[0].shape[1])

    def cut(array):
        by_head = array.reshape(heads, -1, array.shape[1])
        parts = [part.reshape(-1, array.shape[1]) for part in np.split(by_head, count, 1)]
        return [(_halves(part, heads) if path in turned else part).T for path, part in zip(ours, parts, strict=True)]

    return Array(tuple(f"{path}/kernel" for path in ours), theirs, join, cut)


def rotated(ours: str, theirs: str, heads: int) -> tuple[Array, Array]:
    """Returns the weight and the bias of a torch map to queries or keys in which rotary positions turn neighbours.

    There units 2i and 2i + 1 of a head form a pair, as in Su et al. 2021, equation 15; here units i and i + size / 2.
    The i-th pair turns by the same angle, so that the scores are the same.

    Args:
      ours: path of the linear map, with a kernel [inputs, heads x size].
      theirs: name of the torch module.
      heads: number of attention heads.
    """
    return (
        Array(
            (f"{ours}/kernel",),
            f"{theirs}.weight",
            lambda kernel: _neighbours(kernel.T, heads),
            lambda array: [_halves(array, heads).T],
        ),
        Array(
            (f"{ours}/bias",),
            f"{theirs}.bias",
            lambda bias: _neighbours(bias, heads),
            lambda array: [_halves(array, heads)],
        ),
    )


def _neighbours(array, heads):
    """Puts units i and i + size / 2 of each head, which the first axis counts, next to each other."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _halves(array, heads):
    """Puts the first units of all pairs of neighbours before the second ones; the inverse of _neighbours."""
    size = array.shape[0] // heads
    return array.reshape(heads, size // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def leaf(ours: str, theirs: str, axes: tuple[int, ...] | None = None) -> Array:
    """Returns the correspondence of one leaf and one array.

    Args:
      ours: path of the leaf.
      theirs: name of the array.
      axes: the leaf's axes in the array's order, such as (1, 0) for a kernel [inputs, outputs]; None for no change.
    """
    if axes is None:
        return Array((ours,), theirs, lambda array: array, lambda array: [array])
    back = tuple(int(i) for i in np.argsort(axes))
    return Array((ours,), theirs, lambda array: array.transpose(axes), lambda array: [array.transpose(back)])


def from_state_dict(model: Model, state_dict: Mapping[str, np.ndarray], table: Table, source: str) -> dict:
    """Returns the parameters of a model, a nested dict of float32 numpy arrays, kernels [inputs, outputs].

    Args:
      model: the model whose parameters the arrays must fill, leaf by leaf.
      state_dict: arrays by name, weights [outputs, inputs]; the encoder's names with or without the table's prefix.
      table: the correspondences.
      source: the file or directory that errors name.

    Raises:
      UserError: names are missing or unused, shapes are wrong, or a tied array differs; all of it in one line.
    """
    spellings, problems = _spellings(state_dict, table)
    prefixed = any(name.startswith(f"{table.prefix}.") for name in state_dict) or not state_dict
    unused = set(spellings) - table.copies.keys()
    shapes = _flat(model.shapes())
    entries, nameless = _entries(shapes, table)
    problems += [f"missing {path}" for path in nameless]
    params = {}
    for entry in entries:
        name = entry.theirs if entry.theirs in spellings else _tied_copy(entry.theirs, spellings, table)
        if name is None and entry.theirs in table.zeros:
            params |= {path: np.zeros(shapes[path].shape, np.float32) for path in entry.ours}
            continue
        if name is None:
            problems.append(f"missing {entry.theirs if prefixed else entry.theirs.removeprefix(f'{table.prefix}.')}")
            continue
        unused.discard(name)
        array = state_dict[spellings[name]]
        expected = _expected_shape(entry, shapes)
        if array.shape != expected:
            problems.append(f"{spellings[name]} has shape {array.shape}, expected {expected}")
            continue
        if array.dtype.name not in DTYPES:
            problems.append(f"{spellings[name]} {_wrong_dtype(array.dtype)}")
            continue
        for path, part in zip(entry.ours, entry.cut(array), strict=True):
            params[path] = np.array(part, np.float32, order="C")
    for copy in unused & table.tied.keys():
        original = spellings.get(table.tied[copy])
        if original is not None:
            unused.discard(copy)
            if not same(state_dict[spellings[copy]], state_dict[original]):
                problems.append(f"{spellings[copy]} differs from {original}, which the model ties it to")
    for name in unused & table.constants.keys():
        unused.discard(name)
        if not _is_rounded(state_dict[spellings[name]], table.constants[name]()):
            problems.append(f"{spellings[name]} differs from what the model computes in its place")
    problems += [f"unused {spellings[name]}" for name in sorted(unused)]
    if problems:
        raise UserError(f"{source}: does not fit the model: {'; '.join(problems)}")
    return _nested(params)


def to_state_dict(params: Mapping, table: Table) -> dict[str, np.ndarray]:
    """Returns the state dict of parameters: arrays by name, the table's prefix included, weights [outputs, inputs].

    A tied decoder is left out, because its array is the embedding; the table's constants are among them.

    Args:
      params: the parameters, or a tree of the same structure such as their gradients; kernels [inputs, outputs].
      table: the correspondences.

    Raises:
      UserError: the table has no name for some of the parameters.
    """
    leaves = _flat(params)
    entries, nameless = _entries(leaves, table)
    if nameless:
        raise UserError(f"the family's format has no name for {', '.join(nameless)}")
    named = {
        entry.theirs: np.ascontiguousarray(entry.join(*(np.asarray(leaves[path]) for path in entry.ours)))
        for entry in entries
    }
    named |= {copy: named[name] for copy, name in table.copies.items() if name in named}
    return named | {name: make() for name, make in table.constants.items()}


def canonical_name(name: str, table: Table) -> str:
    """Returns the name that today's transformers gives an array: with the prefix, and without gamma and beta."""
    first, _, rest = name.partition(".")
    if first in table.old_prefixes:
        name = f"{table.prefix}.{rest}"
    elif first in _first_parts(table):
        name = f"{table.prefix}.{name}"
    module, _, last = name.rpartition(".")
    if module.endswith("LayerNorm"):
        name = f"{module}.{_OLD_NORM.get(last, last)}"
    return name


def unwrapped(names: Iterable[str], tables: Sequence[Table]) -> dict[str, str]:
    """Returns {name: name without what wrappers and trainers put around a model}, for the names that have such parts.

    These are the modules of DataParallel, torch.compile, FSDP and activation checkpointing, anywhere in a name, and
    first parts that most names share and without which the tables know them, such as "model." of a trainer's module.

    Args:
      names: names of arrays.
      tables: the tables that the names may follow.
    """
    original = list(names)
    short = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in original]
    known = max(count_known(short, table) for table in tables)
    for depth in (1, 2, 3):
        if known > len(short) / 2:
            break
        firsts = collections.Counter(".".join(name.split(".")[:depth]) for name in short if name.count(".") > depth)
        gains = {}
        for first, _ in firsts.most_common(2):
            inner = [name.removeprefix(f"{first}.") for name in short if name.startswith(f"{first}.")]
            count = max(count_known(inner, table) for table in tables)
            if count > max(known, len(inner) / 2):
                gains[first] = count
        if len(gains) == 1:  # where there are two towers, neither is the model
            (first,) = gains
            short = [name.removeprefix(f"{first}.") for name in short]
            break
    times = collections.Counter(short)
    return {name: other for name, other in zip(original, short, strict=True) if name != other and times[other] == 1}


def missing_names(model: Model, names: Iterable[str], table: Table) -> dict[str, list[str]]:
    """Returns {module of the model: names of its arrays that a file lacks}, modules such as "encoder", "mlm" or "task".

    Args:
      model: the model whose parameters are wanted.
      names: names of the arrays that the file has.
      table: the correspondences.
    """
    today = {canonical_name(name, table) for name in names}
    entries, nameless = _entries(_flat(model.shapes()), table)
    missing: dict[str, list[str]] = {}
    for path, name in [(entry.ours[0], entry.theirs) for entry in entries] + [(path, path) for path in nameless]:
        if name not in today and name not in table.zeros and _tied_copy(name, today, table) is None:
            missing.setdefault(path.split("/")[0], []).append(name)
    return missing


def wrong_arrays(
    model: Model, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str], table: Table
) -> dict[str, dict[str, str]]:
    """Returns {module of the model: {name of an array: what is wrong}} for arrays of a wrong shape or dtype.

    What is wrong is "has shape X, expected Y", or "is stored as X, expected one of ...". A copy that the table ties to
    an array of another shape counts as wrong, in the module "mlm".

    Args:
      model: the model whose parameters are wanted.
      shapes: {name of an array, as today's transformers has it: its shape}.
      dtypes: {the same: its dtype}.
      table: the correspondences.
    """
    leaves = _flat(model.shapes())
    wrong: dict[str, dict[str, str]] = {}
    expected = {}
    for entry in _entries(leaves, table)[0]:
        name = entry.theirs if entry.theirs in shapes else _tied_copy(entry.theirs, shapes, table)
        if name is not None:
            expected[name] = entry.ours[0].split("/")[0], _expected_shape(entry, leaves)
    if model.spec.language_model:
        tied = {copy: original for copy, original in table.tied.items() if original in shapes}
        expected |= {copy: ("mlm", tuple(shapes[original])) for copy, original in tied.items() if copy in shapes}
    for name, (module, shape) in expected.items():
        if tuple(shapes[name]) != shape:
            wrong.setdefault(module, {})[name] = f"has shape {tuple(shapes[name])}, expected {shape}"
        elif dtypes[name] not in DTYPES:
            wrong.setdefault(module, {})[name] = _wrong_dtype(dtypes[name])
    return wrong


def _wrong_dtype(dtype):
    return f"is stored as {dtype}, expected one of {', '.join(DTYPES)}"


def unused_names(model: Model, names: Iterable[str], table: Table) -> list[str]:
    """Returns the names of arrays that no parameter of a model takes values from.

    Buffers, names that the table ignores, and copies of arrays that the model has are not among them.

    Args:
      model: the model that reads the arrays.
      names: names of the arrays.
      table: the correspondences.
    """
    today = {name: canonical_name(name, table) for name in names}
    used = {entry.theirs for entry in _entries(_flat(model.shapes()), table)[0]}
    used |= {copy for copy, original in [*table.tied.items(), *table.copies.items()] if original in used}
    used |= table.constants.keys()
    return [name for name, other in today.items() if other not in used and not _is_ignored(other, table)]


def names_of_module(names: Iterable[str], table: Table, module: str) -> list[str]:
    """Returns the names that belong to a module of the model without layers, such as "mlm" or "task", in order."""
    ours = [(e.ours if isinstance(e, Module) else e.ours[0], e.theirs) for e in table.names]
    theirs = [name for path, name in ours if path.split("/")[0] == module]
    theirs += [*table.tied, *table.copies] if module == "mlm" else []
    return sorted(name for name in names if any(name == other or name.startswith(f"{other}.") for other in theirs))


def count_known(names: Sequence[str], table: Table) -> int:
    """Counts the names that the table has an entry for, whatever the number of layers."""
    patterns = _patterns(table)
    return sum(_pattern(canonical_name(name, table)) in patterns for name in names)


def _is_ignored(name, table):
    """Tells whether a name is that of a buffer or one that the table skips on purpose."""
    return (
        name in table.kept
        or bool(_BUFFERS.fullmatch(name))
        or any(re.fullmatch(pattern, name) for pattern in table.ignored)
    )


def _patterns(table):
    """Returns the names that a table has entries for, with 0 for every number."""
    patterns = set(table.constants)
    for entry in table.names:
        theirs = re.sub(r"\{\w+\}", "0", entry.theirs)
        patterns |= {f"{theirs}.{last}" for last in set(_LEAVES.values())} if isinstance(entry, Module) else {theirs}
    return patterns


def _pattern(name):
    return re.sub(r"(?<=\.)\d+(?=\.)", "0", name)


def _first_parts(table):
    """Returns the first parts of the encoder's names where they stand without the prefix."""
    begin, names = f"{table.prefix}.", (*(e.theirs for e in table.names), *table.kept)
    return {name.removeprefix(begin).split(".")[0] for name in names if name.startswith(begin)}


def _entries(leaves, table):
    """Returns (the arrays that hold these leaves, the leaves that no array holds)."""
    entries, left = [], dict.fromkeys(leaves)
    numbers = sorted({int(match[1]) for path in leaves if (match := re.search(r"layers/(\d+)/", path))})
    for entry in table.names:
        layers = numbers if "{layer}" in (entry.ours if isinstance(entry, Module) else entry.ours[0]) else [0]
        for layer in layers:
            for array in _arrays(entry, layer, leaves, table.group_layers):
                if all(path in left for path in array.ours):
                    entries.append(array)
                    for path in array.ours:
                        del left[path]
    return entries, list(left)


def _expected_shape(entry, leaves):
    """Returns the shape of an array that is made of leaves with known shapes."""
    return entry.join(*(np.empty(leaves[path].shape, bool) for path in entry.ours)).shape


def _arrays(entry, layer, leaves, group_layers):
    """Returns the arrays of an entry for one layer."""
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
    """Returns ({today's name: name in the file}, problems), without buffers and ignored names."""
    spellings, problems = {}, []
    for name in state_dict:
        today = canonical_name(name, table)
        if _is_ignored(today, table):
            continue
        if today in spellings:
            problems.append(f"{spellings[today]} and {name} are the same array's names")
        spellings[today] = name
    return spellings, problems


def _tied_copy(name, spellings, table):
    """Returns the name of a copy that a file has instead of the array itself, or None."""
    copies = (copy for copy, original in (*table.tied.items(), *table.copies.items()) if original == name)
    return next((copy for copy in copies if copy in spellings), None)


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Tells whether two arrays have one shape and the same numbers, whatever their types."""
    return first.shape == second.shape and np.array_equal(
        np.asarray(first, np.float32), np.asarray(second, np.float32), equal_nan=True
    )


def _is_rounded(array, exact):
    """Tells whether an array holds the numbers of another, of at most 1, to the precision of its dtype."""
    if array.shape != exact.shape or array.dtype.name not in DTYPES:
        return False
    return np.allclose(np.asarray(array, np.float32), exact, rtol=0, atol=2 * float(ml_dtypes.finfo(array.dtype).eps))


def _flat(tree, prefix=""):
    """Returns {path: leaf} of a nested dict."""
    leaves = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


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
