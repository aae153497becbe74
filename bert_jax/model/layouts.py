"""Where activations lie on the ambient mesh: the few places that are constrained, and how."""

import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

ROWS = ("data", "fsdp")  # axes over which the rows of a batch are split

LAYOUTS = {
    "hidden": P(ROWS, None, None),  # [batch, sequence, hidden]: between layers
    "heads": P(ROWS, "tensor", None, None),  # [batch, heads, sequence, head_size]: queries, keys, values
    "units": P(ROWS, None, "tensor"),  # [batch, sequence, units]: inside the MLP
    "logits": P(ROWS, None, "tensor"),  # [batch, positions, vocabulary]
    # [vocabulary, hidden], where it is read: gathered over fsdp like any parameter, before rows are looked up in it.
    # A lookup in a table whose hidden dimension is split would leave every row's hidden state split the same way.
    "vocabulary": P("tensor", None),
    "table": P(None, None),  # positions and segments: few rows
}


def constrained(x: jax.Array, place: str) -> jax.Array:
    """x, to be laid out as LAYOUTS says; without a mesh, x.

    A dimension that its axes do not divide evenly is split unevenly by the compiler, except the rows: they stay whole.
    """
    mesh = split_mesh()
    if mesh is None:
        return x
    layout = LAYOUTS[place]
    if layout[0] == ROWS and x.shape[0] % parts(mesh, ROWS):
        layout = P(None, *layout[1:])
    return jax.lax.with_sharding_constraint(x, layout)


def split_mesh():
    """The ambient mesh (jax.sharding.AbstractMesh), or None where there is nothing to split over.

    None too where the axes are not the compiler's to place, as inside a shard_map.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return None
    return mesh


def parts(mesh, axes: tuple[str, ...]) -> int:
    """Into how many parts some of a mesh's axes split a dimension."""
    return math.prod(mesh.shape[axis] for axis in axes)
