"""The mesh, and the one table that says how each array lies on it.

The table is written over paths of single layers. It serves parameters and optimizer state alike, because an
optimizer keeps its moments under the parameters' own paths.
"""

import math
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# (end of the path, the layout, other layouts to take where an axis does not divide a dimension). First match wins.
# Kernels are [inputs, outputs]: the tensor axis splits what heads and MLP units do not share, fsdp the rest.
RULES = (
    (r"embeddings/word/embedding", P("tensor", "fsdp"), P(None, ("fsdp", "tensor"))),
    (r"embeddings/(position|token_type)/embedding", P(None, ("fsdp", "tensor"))),
    (r"attention/(query|key|value)/kernel", P("fsdp", "tensor")),
    (r"attention/(query|key|value)/bias", P("tensor")),
    (r"attention/output/kernel", P("tensor", "fsdp")),
    (r"mlp/up/kernel", P("fsdp", "tensor")),
    (r"mlp/up/bias", P("tensor")),
    (r"mlp/down/kernel", P("tensor", "fsdp")),
    (r"(pooler/dense|mlm/transform|next_sentence)/kernel", P("fsdp", None)),
    (r"(attention/output|mlp/down|pooler/dense|mlm/transform|next_sentence)/bias", P()),
    (r"task/dense/kernel", P("fsdp", None)),
    (r"task/.*", P()),
    (r"mlm/bias", P("tensor"), P()),
    (r"\w*norm/(scale|bias)", P()),
    (r"lora_(a|b)", P()),
    (r"count|bad_step|active", P()),
)


def make_mesh(sizes: Mapping, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of config.mesh: axes data, fsdp and tensor; a size of -1 takes the devices that are left.

    Raises:
      UserError: the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = [sizes[axis] for axis in AXES]
    if -1 in shape:
        taken = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = len(devices) // taken if taken > 0 else 0
    if min(shape) < 1 or math.prod(shape) != len(devices):
        found = ", ".join(f"{axis}={sizes[axis]}" for axis in AXES)
        raise UserError(
            f"config.mesh: found {found} for {len(devices)} devices; expected sizes whose product is "
            f"{len(devices)}, one of them -1 to take what is left"
        )
    return Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def tree_shardings(tree, mesh: Mesh, leading: int = 0):
    """The sharding of every leaf of a tree of arrays (or of their shapes).

    Args:
      tree: of one model's parameters, moments and counts, or of several stacked.
      mesh: where they lie.
      leading: axes before those that the table is about, such as one of seeds; they are not split.

    Raises:
      UserError: a leaf that no rule matches, or that no layout of its rule divides.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _sharding(path_name(path), leaf.shape, mesh, leading), tree
    )


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows over data and fsdp, behind `leading` axes that are not split; serves every array of a batch."""
    return NamedSharding(mesh, P(*[None] * leading, ("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def path_name(path) -> str:
    """A tree path as names joined by "/", such as "opt_state/1/mu/encoder/layers/0/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _sharding(name, shape, mesh, leading):
    matches = (layouts for pattern, *layouts in RULES if re.search(f"(^|/)({pattern})$", name))
    layouts = next(matches, None)
    if layouts is None:
        raise UserError(f"{name}: no rule of bert_jax.sharding.RULES matches this array of shape {shape}")
    for layout in layouts:
        if all(size % _parts(axes, mesh) == 0 for size, axes in zip(shape[leading:], layout, strict=False)):
            return NamedSharding(mesh, P(*[None] * leading, *layout) if len(layout) else layout)
    sizes = ", ".join(f"{axis}={mesh.shape[axis]}" for axis in AXES)
    raise UserError(f"config.mesh: {sizes} does not divide {name} of shape {shape}, laid out as {layouts[-1]}")


def _parts(axes, mesh):
    if axes is None:
        return 1
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))
