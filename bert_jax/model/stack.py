"""Runs the layers, one after the other or in loops, and chooses what each keeps for the backward pass.

The layers of a model are a list of patterns: single layers, and groups of layers that repeat (one layer 12 times; two
local ones and a global one 7 times), which a loop can run. Layers that share their parameters repeat without being
stacked.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax import _moved
from bert_jax.model.kernels import RESULTS
from bert_jax.model.spec import Spec

_policies = jax.checkpoint_policies

# config.model.remat: what a layer keeps of its forward pass; the rest is recomputed in the backward pass. "none" keeps
# everything, "attention" everything but the scores and weights inside attention (see attention.py).
REMAT = {
    "none": None,
    "attention": None,
    "full": _policies.nothing_saveable,
    "dots": _policies.save_from_both_policies(_policies.dots_saveable, _policies.save_only_these_names(RESULTS)),
    # Products without a batch dimension are those of the linear maps, not those inside attention.
    "dots_no_batch": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(RESULTS)
    ),
}

STACKED = "stacked"  # name under encoder/layers of the parameters of several layers together, [layers, ...]


@_moved.renamed_members(local="windows")
@dataclasses.dataclass(frozen=True)
class LayerPattern:
    """Describes consecutive layers made of one group of layers, repeated.

    Attributes:
      first: index of the first layer.
      sources: for each layer, repeats included, the number under encoder/layers of the parameters that it uses.
      windows: for each layer of the group, the tokens that a token sees; 0 for all.
      repeats: how many times the group occurs.
      shared: whether all repeats use the same parameters.
    """

    first: int
    sources: tuple[int, ...]
    windows: tuple[int, ...]
    repeats: int
    shared: bool


def parameter_layers(spec: Spec) -> list[int]:
    """Returns for each layer the number of the parameters it uses: its own, or with layer groups its group's."""
    if not spec.layer_groups:
        return list(range(spec.num_layers))
    applications = spec.num_layers // spec.group_layers
    groups = [int(i / (applications / spec.layer_groups)) for i in range(applications)]
    return [group * spec.group_layers + j for group in groups for j in range(spec.group_layers)]


@functools.cache
def layer_patterns(spec: Spec) -> tuple[LayerPattern, ...]:
    """Returns a model's layers as few patterns, taken greedily from the first layer on."""
    sources, count = parameter_layers(spec), spec.num_layers
    # Two layers can run as one program if their parameters have the same structure, or are the same parameters.
    special = [i == 0 and (not spec.first_norm or spec.conv_kernel_size > 0) for i in range(count)]
    shared = bool(spec.layer_groups)
    kinds: list[tuple] = list(zip(sources if shared else special, spec.windows, strict=True))
    if spec.mask_decoder == "enhanced" and spec.language_model:
        kinds[-1] = (*kinds[-1], "mask decoder")  # which reads the last layer's input: a pattern of its own
    patterns, first = [], 0
    while first < count:
        period, repeats = _longest_repeat(kinds[first:])
        stop = first + period * repeats
        group = spec.windows[first : first + period]
        patterns.append(LayerPattern(first, tuple(sources[first:stop]), group, repeats, shared))
        first = stop
    return tuple(patterns)


def _longest_repeat(kinds):
    """Returns (period, repeats) of the longest repetition that `kinds` begins with; of equals, the shortest period."""
    best = (1, 1)
    for period in range(1, len(kinds) // 2 + 1):
        repeats = 1
        while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
            repeats += 1
        if repeats > 1 and repeats * period > best[0] * best[1]:
            best = (period, repeats)
    return best


def stack_layers(tree):
    """Returns a tree of parameters with equal layers stacked: encoder/layers/STACKED/..., [layers, ...].

    Also takes trees with one leaf for each parameter, such as an optimizer's moments. A first layer of another
    structure than the others stays apart, as "0". Scanned training holds its state so, because whatever is done to all
    parameters alike is then compiled for one layer instead of each. Checkpoints and weight tables hold single layers.
    """

    def stacked(node):
        if not _is_layers(node):
            return node
        layers = [node[str(i)] for i in range(len(node))]
        num_single = int(len(layers) > 1 and jax.tree.structure(layers[0]) != jax.tree.structure(layers[1]))
        if len(layers) - num_single < 2:
            return node
        stack = {STACKED: jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers[num_single:])}
        return {"0": layers[0]} | stack if num_single else stack

    return jax.tree.map(stacked, tree, is_leaf=_is_layers)


def unstack_layers(tree):
    """Returns the inverse of `stack_layers`; a tree of single layers is returned unchanged."""

    def single(node):
        if not _is_stack(node):
            return node
        single_layers = [node[str(i)] for i in range(len(node) - 1)]
        count = len(jax.tree.leaves(node[STACKED])[0])
        stacked_layers = [jax.tree.map(lambda leaf, i=i: leaf[i], node[STACKED]) for i in range(count)]
        return {str(i): layer for i, layer in enumerate(single_layers + stacked_layers)}

    return jax.tree.map(single, tree, is_leaf=_is_stack)


def cast_layers(params: Mapping, dtype: jnp.dtype) -> dict:
    """Returns parameters with the layers' kernels in a dtype, as each layer reads them if it is the compute dtype.

    Args:
      params: a tree of parameters, of single layers or stacked ones.
      dtype: the dtype.
    """

    def cast(path, leaf):
        names = [entry.key for entry in path]
        return leaf.astype(dtype) if "layers" in names and leaf.ndim > 1 + (STACKED in names) else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def _is_layers(node):
    return isinstance(node, Mapping) and "0" in node and STACKED not in node


def _is_stack(node):
    return isinstance(node, Mapping) and STACKED in node


class Layers:
    """Holds the layers' modules and parameters, single or stacked; runs a pattern of them."""

    def __init__(self, modules: Mapping, remat: str, loops: bool):
        """Keeps the modules under encoder/layers.

        Args:
          modules: encoder.Layer modules by name: "0", "1", ..., or STACKED with the parameters of all layers, perhaps
            after "0".
          remat: a key of REMAT.
          loops: whether repeats are run as a loop, as they are in any case where layers are stacked.
        """
        self._parts = {name: nnx.split(modules[name]) for name in modules}
        self._apart = len(self._parts) - 1 if STACKED in self._parts else len(self._parts)
        self._remat, self._loops = remat, loops or STACKED in self._parts

    def module(self, source: int):
        """Returns the module of one layer, by the number of its parameters."""
        graph, state = self._single(source)
        return nnx.merge(graph, state)

    @_moved.renamed_arguments(segment="pattern", every="return_all_layers")
    def run(
        self, pattern: LayerPattern, hidden: jax.Array, context, seeds: jax.Array | None, return_all_layers: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Runs the layers of a pattern.

        Args:
          pattern: one of the model's patterns.
          hidden: [batch, sequence, hidden].
          context: attention.Context of the rows.
          seeds: dropout seeds, uint32 [layers of the model, seeds of a layer, 2]; None for no dropout.
          return_all_layers: whether every layer's output is returned too.

        Returns:
          The last layer's output [batch, sequence, hidden], and all outputs [layers, batch, sequence, hidden] or None.
        """
        if seeds is not None:
            seeds = seeds[pattern.first : pattern.first + len(pattern.sources)]
        looping = self._loops and pattern.repeats > 1
        return (self._loop if looping else self._one_by_one)(pattern, hidden, context, seeds, return_all_layers)

    def _one_by_one(self, pattern, hidden, context, seeds, return_all_layers):
        """Runs the layers one after the other: the reference."""
        outputs = []
        for i, source in enumerate(pattern.sources):
            graph, state = self._single(source)
            run = _layer(graph, context, pattern.windows[i % len(pattern.windows)], self._remat)
            hidden = run(hidden, state, None if seeds is None else seeds[i])
            outputs.append(hidden)
        return hidden, jnp.stack(outputs) if return_all_layers else None

    def _loop(self, pattern, hidden, context, seeds, return_all_layers):
        """Runs the group of layers as the body of a loop, which compiles once for all repeats."""
        period = len(pattern.windows)

        def by_turn(x):  # [layers, ...] -> [repeats, period, ...]
            return x if period == 1 else x.reshape(pattern.repeats, period, *x.shape[1:])

        graph = self._parts[str(pattern.sources[0]) if pattern.sources[0] < self._apart else STACKED][0]
        runs = [_layer(graph, context, window, self._remat, in_loop=True) for window in pattern.windows]
        states = self._shared(pattern, hidden.dtype) if pattern.shared else []
        inputs = None if pattern.shared else jax.tree.map(by_turn, self._stack(pattern, hidden.dtype))
        seeds = None if seeds is None else by_turn(seeds)

        def body(hidden, turn):
            inputs, seeds = turn
            outputs = []
            for j, run in enumerate(runs):
                state = states[j] if pattern.shared else _place(inputs, j, period)
                hidden = run(hidden, state, None if seeds is None else _place(seeds, j, period))
                outputs.append(hidden)
            return hidden, jnp.stack(outputs) if return_all_layers else None

        hidden, outputs = jax.lax.scan(body, hidden, (inputs, seeds), length=pattern.repeats)
        return hidden, None if outputs is None else outputs.reshape(-1, *outputs.shape[2:])

    def _single(self, source):
        """Returns (graph, parameters) of one layer."""
        if source < self._apart:
            return self._parts[str(source)]
        graph, state = self._parts[STACKED]
        return graph, jax.tree.map(lambda leaf: leaf[source - self._apart], state)

    def _shared(self, pattern, dtype):
        states = [self._single(source)[1] for source in pattern.sources[: len(pattern.windows)]]
        return [jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 1 else p, state) for state in states]

    def _stack(self, pattern, dtype):
        """Returns the parameters of a pattern's layers, [layers, ...], kernels in the compute dtype."""
        first, stop = pattern.sources[0], pattern.sources[-1] + 1
        if first < self._apart:
            states = [self._single(source)[1] for source in pattern.sources]
            # Kernels are cast before they are stacked: the copy then is the cast that the products need anyway.
            states = [jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 1 else p, state) for state in states]
            return jax.tree.map(lambda *leaves: _stacked(*leaves), *states)
        first, stop = first - self._apart, stop - self._apart
        state = self._parts[STACKED][1]
        has_all_layers = stop - first == len(jax.tree.leaves(state)[0])
        state = state if has_all_layers else jax.tree.map(lambda leaf: leaf[first:stop], state)
        return jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 2 else p, state)


def _layer(graph, context, window, remat, in_loop=False):
    def apply(hidden, state, seeds):
        return nnx.merge(graph, state)(hidden, context, seeds, window)

    return _kept(apply, remat, in_loop)


def _place(tree, j, period):
    """Returns the part of one loop iteration's inputs that belongs to the j-th layer of the group."""
    return tree if period == 1 else jax.tree.map(lambda leaf: leaf[j], tree)


@jax.custom_vjp
def _stacked(*leaves):
    return jnp.stack(leaves)


def _stacked_backward(_, gradient):
    # Unstacked behind a barrier: fused into the optimizer, each layer's slice of the stack would make its update a
    # program of its own, and compiling takes a quarter longer.
    return tuple(jax.lax.optimization_barrier(tuple(gradient[i] for i in range(gradient.shape[0]))))


_stacked.defvjp(lambda *leaves: (jnp.stack(leaves), None), _stacked_backward)


def _kept(run: Callable, remat: str, in_loop: bool = False) -> Callable:
    """Returns `run` with a remat policy applied."""
    policy = REMAT[remat]
    # In a loop the compiler cannot merge the recomputation with the original, so nothing need prevent it.
    return run if policy is None else jax.checkpoint(run, policy=policy, prevent_cse=not in_loop)


def __getattr__(name: str):
    return _moved.find("model.stack", name)
