"""How the layers are run: one after the other or in loops, and what each keeps for the backward pass.

A stack is a row of segments: single layers, and patterns of layers that repeat (one layer 12 times; two local ones and
a global one 7 times), which a loop can run. Layers that share their parameters repeat without being stacked.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.kernels import RESULTS
from bert_jax.model.spec import Spec

_policies = jax.checkpoint_policies

# config.model.remat: what a layer keeps of its forward pass; the rest is computed again. "none" keeps everything,
# "attention" everything but what attention makes of its queries, keys and values (see attention.py).
REMAT = {
    "none": None,
    "attention": None,
    "full": _policies.nothing_saveable,
    "dots": _policies.save_from_both_policies(_policies.dots_saveable, _policies.save_only_these_names(RESULTS)),
    # Products without a batch dimension: those of the linear maps, not those inside attention.
    "dots_no_batch": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(RESULTS)
    ),
}

STACKED = "stacked"  # the name under encoder/layers of several layers' parameters together, [layers, ...]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A pattern of layers that follow each other, and how often it repeats.

    Attributes:
      first: the number of its first layer.
      sources: whose parameters each of its layers has, in order: numbers under encoder/layers.
      local: whether each layer of the pattern sees a window alone.
      repeats: how often the pattern follows itself.
      shared: whether all repeats have the same parameters.
    """

    first: int
    sources: tuple[int, ...]
    local: tuple[bool, ...]
    repeats: int
    shared: bool


def sources_of(spec: Spec) -> list[int]:
    """Whose parameters each layer has: its own number, or with layer groups that of the layer in its group."""
    if not spec.layer_groups:
        return list(range(spec.num_layers))
    applications = spec.num_layers // spec.group_layers
    groups = [int(i / (applications / spec.layer_groups)) for i in range(applications)]
    return [group * spec.group_layers + j for group in groups for j in range(spec.group_layers)]


@functools.cache
def segments_of(spec: Spec) -> tuple[Segment, ...]:
    """The layers of a model as the fewest patterns, found from the first layer on."""
    sources, count = sources_of(spec), spec.num_layers
    local = [bool(spec.local_window and i % spec.global_every) for i in range(count)]
    # What makes two layers one program: parameters of the same kind, or the same parameters.
    special = [i == 0 and (not spec.first_norm or spec.conv_kernel_size > 0) for i in range(count)]
    shared = bool(spec.layer_groups)
    kinds = list(zip(sources if shared else special, local, strict=True))
    if spec.mask_decoder == "enhanced" and spec.language_model:
        kinds[-1] = (*kinds[-1], "read again")  # the last layer's input must come to light
    found, first = [], 0
    while first < count:
        period, repeats = _longest_repeat(kinds[first:])
        stop = first + period * repeats
        found.append(Segment(first, tuple(sources[first:stop]), tuple(local[first : first + period]), repeats, shared))
        first = stop
    return tuple(found)


def _longest_repeat(kinds):
    """(period, repeats) of the repetition at the beginning that covers the most, the shorter period first."""
    best = (1, 1)
    for period in range(1, len(kinds) // 2 + 1):
        repeats = 1
        while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
            repeats += 1
        if repeats > 1 and repeats * period > best[0] * best[1]:
            best = (period, repeats)
    return best


def stack_layers(tree):
    """A tree of parameters, or of what goes with each parameter, with its equal layers as one, STACKED.

    A first layer of another kind than the others stays apart. So a run of scanned layers has them: what is done to
    every parameter alike is then compiled for one layer, not for each. Checkpoints and weight tables know single layers
    alone.
    """

    def stacked(node):
        if not _is_layers(node):
            return node
        layers = [node[str(i)] for i in range(len(node))]
        apart = int(len(layers) > 1 and jax.tree.structure(layers[0]) != jax.tree.structure(layers[1]))
        if len(layers) - apart < 2:
            return node
        found = {STACKED: jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers[apart:])}
        return {"0": layers[0]} | found if apart else found

    return jax.tree.map(stacked, tree, is_leaf=_is_layers)


def unstack_layers(tree):
    """The inverse of `stack_layers`; a tree of single layers as it is."""

    def single(node):
        if not _is_stack(node):
            return node
        apart = [node[str(i)] for i in range(len(node) - 1)]
        count = len(jax.tree.leaves(node[STACKED])[0])
        rest = [jax.tree.map(lambda leaf, i=i: leaf[i], node[STACKED]) for i in range(count)]
        return {str(i): layer for i, layer in enumerate(apart + rest)}

    return jax.tree.map(single, tree, is_leaf=_is_stack)


def _is_layers(node):
    return isinstance(node, Mapping) and "0" in node and STACKED not in node


def _is_stack(node):
    return isinstance(node, Mapping) and STACKED in node


class Layers:
    """The layers' modules and parameters, single or stacked, and how a segment of them is run."""

    def __init__(self, modules: Mapping, remat: str, loops: bool):
        """Takes the modules under encoder/layers by name: "0", "1", ..., or STACKED, behind "0" where that is apart.

        Args:
          modules: (hidden, context, seeds, local) -> hidden; that of STACKED holds the parameters of all its layers.
          remat: a key of REMAT.
          loops: whether repeats are run as a loop; where layers are stacked they are.
        """
        self._parts = {name: nnx.split(modules[name]) for name in modules}
        self._apart = len(self._parts) - 1 if STACKED in self._parts else len(self._parts)
        self._remat, self._loops = remat, loops or STACKED in self._parts

    def module(self, source: int):
        """The module of one layer, by the number of its parameters."""
        graph, state = self._single(source)
        return nnx.merge(graph, state)

    def run(self, segment: Segment, hidden: jax.Array, context, seeds: jax.Array | None, every: bool):
        """The layers of a segment.

        Args:
          segment: of the model's segments.
          hidden: [batch, sequence, hidden].
          context: of the rows (attention.Context).
          seeds: of dropout, [layers of the model, ...], or None.
          every: whether each layer's output is wanted.

        Returns:
          The last layer's output, and with `every` all of them, [layers, batch, sequence, hidden], else None.
        """
        if seeds is not None:
            seeds = seeds[segment.first : segment.first + len(segment.sources)]
        looping = self._loops and segment.repeats > 1
        return (self._loop if looping else self._one_by_one)(segment, hidden, context, seeds, every)

    def _one_by_one(self, segment, hidden, context, seeds, every):
        """The layers one after the other: the reference."""
        outputs = []
        for i, source in enumerate(segment.sources):
            graph, state = self._single(source)
            run = _layer(graph, context, segment.local[i % len(segment.local)], self._remat)
            hidden = run(hidden, state, None if seeds is None else seeds[i])
            outputs.append(hidden)
        return hidden, jnp.stack(outputs) if every else None

    def _loop(self, segment, hidden, context, seeds, every):
        """The pattern as the body of a loop: compiles once for all repeats."""
        period = len(segment.local)

        def by_turn(x):  # [layers, ...] -> [repeats, period, ...]
            return x if period == 1 else x.reshape(segment.repeats, period, *x.shape[1:])

        graph = self._parts[str(segment.sources[0]) if segment.sources[0] < self._apart else STACKED][0]
        runs = [_layer(graph, context, local, self._remat, in_loop=True) for local in segment.local]
        states = self._shared(segment, hidden.dtype) if segment.shared else None
        inputs = None if segment.shared else jax.tree.map(by_turn, self._stack(segment, hidden.dtype))
        seeds = None if seeds is None else by_turn(seeds)

        def body(hidden, turn):
            inputs, seeds = turn
            outputs = []
            for j, run in enumerate(runs):
                state = states[j] if segment.shared else _place(inputs, j, period)
                hidden = run(hidden, state, None if seeds is None else _place(seeds, j, period))
                outputs.append(hidden)
            return hidden, jnp.stack(outputs) if every else None

        hidden, outputs = jax.lax.scan(body, hidden, (inputs, seeds), length=segment.repeats)
        return hidden, outputs.reshape(-1, *outputs.shape[2:]) if every else None

    def _single(self, source):
        """(graph, parameters) of one layer."""
        if source < self._apart:
            return self._parts[str(source)]
        graph, state = self._parts[STACKED]
        return graph, jax.tree.map(lambda leaf: leaf[source - self._apart], state)

    def _shared(self, segment, dtype):
        states = [self._single(source)[1] for source in segment.sources[: len(segment.local)]]
        return [jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 1 else p, state) for state in states]

    def _stack(self, segment, dtype):
        """Parameters of the segment's layers, [layers, ...], kernels in the dtype of the computation."""
        first, stop = segment.sources[0], segment.sources[-1] + 1
        if first < self._apart:
            states = [self._single(source)[1] for source in segment.sources]
            # Kernels are cast before they are stacked, so that the copy is the cast that the products need anyway.
            states = [jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 1 else p, state) for state in states]
            return jax.tree.map(lambda *leaves: _stacked(*leaves), *states)
        first, stop = first - self._apart, stop - self._apart
        state = self._parts[STACKED][1]
        whole = stop - first == len(jax.tree.leaves(state)[0])
        state = state if whole else jax.tree.map(lambda leaf: leaf[first:stop], state)
        return jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 2 else p, state)


def _layer(graph, context, local, remat, in_loop=False):
    def one(hidden, state, seeds):
        return nnx.merge(graph, state)(hidden, context, seeds, local)

    return _kept(one, remat, in_loop)


def _place(tree, j, period):
    """What the j-th layer of a pattern has, of one turn of a loop."""
    return tree if period == 1 else jax.tree.map(lambda leaf: leaf[j], tree)


@jax.custom_vjp
def _stacked(*leaves):
    return jnp.stack(leaves)


def _stacked_backward(_, gradient):
    # Taken apart before anything else is done with them: fused into the optimizer, each layer's place in the stack
    # would make its update a program of its own, and compiling takes a quarter longer.
    return tuple(jax.lax.optimization_barrier(tuple(gradient[i] for i in range(gradient.shape[0]))))


_stacked.defvjp(lambda *leaves: (jnp.stack(leaves), None), _stacked_backward)


def _kept(run: Callable, remat: str, in_loop: bool = False) -> Callable:
    """A layer that keeps what the policy says."""
    policy = REMAT[remat]
    # In a loop the compiler cannot take the second computation for the first.
    return run if policy is None else jax.checkpoint(run, policy=policy, prevent_cse=not in_loop)
