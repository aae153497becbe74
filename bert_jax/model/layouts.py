"""Where activations lie on the ambient mesh: the few places that are constrained, and how."""

import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from bert_jax.config.mesh import BATCH_AXES

ROWS = BATCH_AXES  # axes over which the rows of a batch are split

LAYOUTS = {
    "hidden": P(ROWS),  # [batch, ..., hidden]: hidden states between layers, and what is read from them
    "heads": P(ROWS, "tensor"),  # [batch, heads, sequence, head_size]: queries, keys, values
    "units": P(ROWS, None, "tensor"),  # [batch, sequence, units]: inside the MLP
    "logits": P(ROWS, None, "tensor"),  # [batch, positions, vocabulary]
    # Tables where they are read, gathered over fsdp like any parameter: a lookup in a table whose hidden dimension is
    # split would leave the hidden states split the same way, each row's on all devices.
    "vocabulary": P("tensor"),  # [vocabulary, hidden]
    "vocabulary_gradient": P("tensor"),  # the same, as the decoder's products give it
    "table": P(),  # [rows, hidden] of positions and segments: few rows
}


def constrained(x: jax.Array, place: str) -> jax.Array:
    """x, to be laid out as LAYOUTS says; without a mesh, x.

    A dimension that its axes do not divide, such as a vocabulary or a few rows, is split unevenly by the compiler.
    """
    mesh = split_mesh()
    if mesh is None:
        return x
    if place == "vocabulary" and x.shape[0] % parts(mesh, "tensor"):
        # The table lies split by its other dimension (see sharding.RULES), and is gathered on the way.
        x = jax.lax.with_sharding_constraint(x, LAYOUTS["table"])
    return jax.lax.with_sharding_constraint(x, LAYOUTS[place])


def split_mesh():
    """The ambient mesh (jax.sharding.AbstractMesh), or None where there is nothing to split over.

    None too where the axes are not the compiler's to place, as inside a shard_map.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return None
    return mesh


def parts(mesh, axes: str | tuple[str, ...]) -> int:
    """Into how many parts one or several of a mesh's axes split a dimension."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))
