"""Shards activations over the active mesh: the few places that are constrained, and how."""

import math

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P

from bert_jax import _moved
from bert_jax.config.mesh import BATCH_AXES

LAYOUTS = {
    "hidden": P(BATCH_AXES),  # [batch, ..., hidden]: hidden states between layers, and what is read from them
    "heads": P(BATCH_AXES, "tensor"),  # [batch, heads, sequence, head_size]: queries, keys, values
    "units": P(BATCH_AXES, None, "tensor"),  # [batch, sequence, units]: inside the MLP
    "logits": P(BATCH_AXES, None, "tensor"),  # [batch, positions, vocabulary]
    # Tables where they are read, gathered over fsdp like any parameter: a lookup in a table whose hidden dimension is
    # split would leave the hidden states split the same way, each row's on all devices.
    "vocabulary": P("tensor"),  # [vocabulary, hidden]
    "vocabulary_gradient": P("tensor"),  # the same, as the decoder's products give it
    "table": P(),  # [rows, hidden] of positions and segments: few rows
}


@_moved.renamed_arguments(place="layout")
def constrain(x: jax.Array, layout: str) -> jax.Array:
    """Returns x with the sharding that LAYOUTS[layout] names; x itself where no mesh is active.

    The compiler splits a dimension unevenly that its mesh axes do not divide, such as a vocabulary or a few rows.

    Args:
      x: an activation or a table, of the shape that the comment at its layout gives.
      layout: a key of LAYOUTS.
    """
    mesh = active_mesh()
    if mesh is None:
        return x
    if layout == "vocabulary" and x.shape[0] % num_shards(mesh, "tensor"):
        # The table itself is then split over its other dimension (see sharding.RULES), and is gathered first.
        x = jax.lax.with_sharding_constraint(x, LAYOUTS["table"])
    return jax.lax.with_sharding_constraint(x, LAYOUTS[layout])


def active_mesh() -> AbstractMesh | None:
    """Returns the mesh that the current computation is split over by the compiler.

    None for a single device, and inside a shard_map, where the axes are not the compiler's to place.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return None
    return mesh


def num_shards(mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    """Returns the number of shards that a dimension split over one or several mesh axes has; 1 for None."""
    if axes is None:
        return 1
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def __getattr__(name: str):
    return _moved.find("model.layouts", name)
