"""How the layers are run: one after the other or as one loop, and what each keeps for the backward pass."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.kernels import RESULTS, Visibility

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

STACKED = "stacked"  # the name under encoder/layers of all layers' parameters together, [layers, ...]


def stack_layers(tree):
    """A tree of parameters, or of what goes with each parameter, with its equal layers "0", "1", ... as one, STACKED.

    So a run of scanned layers has them: what is done to every parameter alike is then compiled for one layer, not for
    each. Checkpoints and weight tables know single layers alone.
    """

    def stacked(node):
        if not _is_layers(node):
            return node
        layers = [node[str(i)] for i in range(len(node))]
        return {STACKED: jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}

    return jax.tree.map(stacked, tree, is_leaf=_is_layers)


def unstack_layers(tree):
    """The inverse of `stack_layers`; a tree of single layers as it is."""

    def single(node):
        if not _is_stack(node):
            return node
        count = len(jax.tree.leaves(node)[0])
        return {str(i): jax.tree.map(lambda leaf, i=i: leaf[i], node[STACKED]) for i in range(count)}

    return jax.tree.map(single, tree, is_leaf=_is_stack)


def _is_layers(node):
    return isinstance(node, Mapping) and "0" in node


def _is_stack(node):
    return isinstance(node, Mapping) and STACKED in node


def unrolled(layers, hidden: jax.Array, visibility: Visibility, seeds: jax.Array | None, remat: str, every: bool):
    """The layers one after the other: the reference.

    Args:
      layers: modules (hidden, visibility, seeds) -> hidden.
      hidden: [batch, sequence, hidden].
      visibility: of the rows.
      seeds: of dropout, [layers, ...], or None.
      remat: a key of REMAT.
      every: whether each layer's output is wanted.

    Returns:
      The last layer's output, and with `every` all of them, [layers, batch, sequence, hidden], else None.
    """
    outputs = []
    for i, layer in enumerate(layers):
        graph, state = nnx.split(layer)
        run = _kept(lambda hidden, state, seeds, graph=graph: nnx.merge(graph, state)(hidden, visibility, seeds), remat)
        hidden = run(hidden, state, None if seeds is None else seeds[i])
        outputs.append(hidden)
    return hidden, jnp.stack(outputs) if every else None


def scanned(layers, hidden: jax.Array, visibility: Visibility, seeds: jax.Array | None, remat: str, every: bool):
    """Equal layers as one loop over their stacked parameters: compiles once for all of them. As `unrolled`."""
    graphs, parameters = zip(*(nnx.split(layer) for layer in layers), strict=True)
    # Kernels are cast before they are stacked, so that the copy is the cast that the products need anyway.
    parameters = [jax.tree.map(lambda p: p.astype(hidden.dtype) if p.ndim > 1 else p, state) for state in parameters]
    stacked = jax.tree.map(lambda *leaves: _stacked(*leaves), *parameters)
    return _scanned(graphs[0], stacked, hidden, visibility, seeds, remat, every)


def scanned_stack(
    layer, hidden: jax.Array, visibility: Visibility, seeds: jax.Array | None, remat: str, every: bool
):
    """As `scanned`, of one module whose parameters are those of all layers, [layers, ...]."""
    graph, stacked = nnx.split(layer)
    stacked = jax.tree.map(lambda p: p.astype(hidden.dtype) if p.ndim > 2 else p, stacked)
    return _scanned(graph, stacked, hidden, visibility, seeds, remat, every)


def _scanned(graph, stacked, hidden, visibility, seeds, remat, every):
    def one(hidden, state, layer_seeds):
        return nnx.merge(graph, state)(hidden, visibility, layer_seeds)

    run = _kept(one, remat, in_loop=True)

    def body(hidden, layer_inputs):
        hidden = run(hidden, *layer_inputs)
        return hidden, hidden if every else None

    return jax.lax.scan(body, hidden, (stacked, seeds))


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
