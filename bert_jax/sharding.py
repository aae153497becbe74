"""Makes the mesh, holds the table of partition rules of all arrays, and places arrays from one or several processes.

The table is written for paths of single layers; stacked layers have one more axis in front, which is not split. It
serves parameters and optimizer state alike, because an optimizer keeps its moments under the parameters' own paths.
Activations are laid out in model/layouts.py. config/mesh.py says how to add an axis.
"""

import math
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config.mesh import AXES, BATCH_AXES
from bert_jax.errors import UserError
from bert_jax.model.layouts import num_shards
from bert_jax.model.parameters import path_name as path_name
from bert_jax.model.stack import STACKED
from bert_jax.processes import private_jax

# (end of the path, the layout, other layouts to take where an axis does not divide a dimension). First match wins.
# Kernels are [inputs, outputs]: the tensor axis splits what heads and MLP units do not share, fsdp the rest.
RULES = (
    (r"(embeddings/word|mlm/decoder)/embedding", P("tensor", "fsdp"), P(None, ("fsdp", "tensor"))),
    (r"embeddings/(position|token_type)/embedding", P(None, ("fsdp", "tensor"))),
    (r"(encoder/relative|mask_decoder/position)/embedding", P(None, ("fsdp", "tensor"))),
    (r"encoder/position_bias/embedding", P(None, "tensor")),
    (r"embeddings/projection/kernel", P(None, "fsdp")),
    (r"attention/(position_|global_)?(query|key|value)/kernel", P("fsdp", "tensor")),
    (r"attention/(position_|global_)?(query|key|value)/bias", P("tensor")),
    (r"attention/output/kernel", P("tensor", "fsdp")),
    (r"mlp/(up|gate)/kernel", P("fsdp", "tensor")),
    (r"mlp/(up|gate)/bias", P("tensor")),
    (r"conv/(kernel|bias)", P()),
    (r"mlp/down/kernel", P("tensor", "fsdp")),
    (r"(pooler/dense|mlm/transform|next_sentence|sentence_order|replaced/(dense|output))/kernel", P("fsdp", None)),
    (r"(attention/output|mlp/down|embeddings/projection)/bias", P()),
    (r"(pooler/dense|mlm/transform|next_sentence|sentence_order|replaced/(dense|output))/bias", P()),
    (r"(task/dense|chunks/dense)/kernel", P("fsdp", None)),
    (r"chunks/(position/embedding|score/kernel|dense/bias)", P()),
    (r"task/.*", P()),
    (r"mlm/bias", P("tensor"), P()),
    (r"\w*norm/(scale|bias)", P()),
    (r"lora_(a|b)", P()),
    (r"count|bad_step|active", P()),
)


def make_mesh(sizes: Mapping, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of config.mesh, with axes data, fsdp and tensor; a size of -1 takes the devices that are left.

    With several TPU slices, the axis `across_slices` ("data" if absent) spans slices, the others stay within one.

    Args:
      sizes: config.mesh, or a mapping with its keys.
      devices: devices of this machine, of all processes, or of a topology to compile for; None for jax.devices().

    Raises:
      UserError: the sizes do not fit the devices, or the axis across slices is no multiple of their number.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = [sizes[axis] for axis in AXES]
    if shape.count(-1) == 1:
        taken = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = len(devices) // taken if taken > 0 else 0
    if min(shape) < 1 or math.prod(shape) != len(devices):
        axis_sizes = ", ".join(f"{axis}={sizes[axis]}" for axis in AXES)
        raise UserError(
            f"config.mesh: found {axis_sizes} for {len(devices)} devices; expected sizes whose product is "
            f"{len(devices)}, one of them -1 to take what is left"
        )
    placed = _placed(shape, devices, sizes.get("across_slices", AXES[0]))
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _placed(shape, devices, across):
    """Arranges the devices in the mesh's shape, so that the last axes have the fastest links."""
    slices = {_slice(device) for device in devices}
    if len(slices) > 1:
        axis = AXES.index(across)
        if shape[axis] % len(slices):
            raise UserError(
                f"config.mesh.{across}: found {shape[axis]}, but config.mesh.across_slices={across} spans "
                f"{len(slices)} slices of {len(devices) // len(slices)} devices; expected a multiple of {len(slices)}"
            )
        within, between = list(shape), [1] * len(shape)
        within[axis], between[axis] = shape[axis] // len(slices), len(slices)
        create = private_jax.mesh_utils().create_hybrid_device_mesh
        return create(within, between, devices, allow_split_physical_axes=True)
    if devices[0].platform == "tpu":
        try:
            return private_jax.mesh_utils().create_device_mesh(shape, devices, allow_split_physical_axes=True)
        except (AssertionError, NotImplementedError, ValueError):
            pass  # a part of a slice that is no box: any order is as good
    return np.array(devices).reshape(shape)


def _slice(device):
    # jax numbers the hosts of GPUs as slices; their order by host is that of the mesh as it is.
    return 0 if device.platform == "gpu" else getattr(device, "slice_index", 0)


def tree_shardings(tree, mesh: Mesh, leading: int = 0):
    """Returns the sharding of every leaf of a tree of arrays or shapes.

    Args:
      tree: parameters, moments and counts of one model, or of several that are stacked.
      mesh: the mesh.
      leading: number of axes before those of the table, such as one of seeds; they are not split.

    Raises:
      UserError: a leaf that no rule matches, or that no layout of its rule divides.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _sharding(path_name(path), leaf.shape, mesh, leading), tree
    )


def state_shardings(state: Mapping, mesh: Mesh, split: bool = False) -> dict:
    """Returns the sharding of every leaf of a training state: that of `tree_shardings`.

    With `split`, devices that hold the same parameters hold a part each of what the optimizer keeps for them (ZeRO's
    first stage; Rajbhandari et al. 2020, section 5.1).
    """
    layouts = tree_shardings(state, mesh)
    if split and "opt_state" in state:
        layouts["opt_state"] = split_over_data(layouts["opt_state"], state["opt_state"])
    return layouts


def splits_optimizer_state(setting: str, mesh: Mesh) -> bool:
    """Returns whether config.mesh.optimizer_state splits moments over data: "auto" does on accelerators."""
    if setting == "auto":
        return mesh.devices.flat[0].platform != "cpu"
    return setting == "split"


def split_over_data(shardings, tree):
    """Returns shardings with one more axis of each array split over data, where the number of its parts allows it.

    An axis that is whole is split first, and an axis of stacked layers never: each layer's part is then contiguous.

    Args:
      shardings: the shardings of `tree`, from `tree_shardings`.
      tree: arrays or shapes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, layout: _split_over_data(path_name(path), leaf.shape, layout), tree, shardings
    )


def leading_axes(name: str) -> int:
    """Returns the number of axes of the array at a path before those of a single layer's: 1 if layers are stacked."""
    return int(f"/{STACKED}/" in name)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Returns the sharding of a batch's arrays: rows over data and fsdp, after `leading` axes that are not split."""
    return NamedSharding(mesh, P(*[None] * leading, BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device has whole."""
    return NamedSharding(mesh, P())


def hosts_of_rows(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """Returns which rows of each batch this process holds, as `host` and `num_hosts` of data.loader.

    Processes hold the same rows if an axis that splits no rows spans them.
    """
    parts = num_shards(mesh, BATCH_AXES)
    indexes = batch_sharding(mesh).addressable_devices_indices_map((parts,)).values()
    hosts = tuple(sorted({index[0].start or 0 for index in indexes if index is not None}))
    count = len(hosts)
    if parts % count == 0 and hosts[0] % count == 0 and hosts == tuple(range(hosts[0], hosts[0] + count)):
        return (hosts[0] // count,), parts // count
    return hosts, parts


def put(tree, shardings):
    """Makes global arrays of arrays that every process has whole; no process waits for another.

    Args:
      tree: a tree of numpy arrays, arrays on this process's devices, or PRNG keys.
      shardings: a sharding, or a tree with one for each leaf.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda leaf: shardings, tree)
    return jax.tree.map(_put_whole, tree, shardings)


def put_rows(batch: Mapping, mesh: Mesh, leading: int = 0) -> dict:
    """Makes global arrays of a batch whose rows are spread over the processes; no process waits for another.

    Args:
      batch: arrays of this process's rows, in the order of `hosts_of_rows`.
      mesh: the mesh.
      leading: number of axes in front of the rows.
    """
    layout = batch_sharding(mesh, leading)
    if jax.process_count() == 1:
        return jax.device_put(batch, layout)
    hosts, number = hosts_of_rows(mesh)
    return {name: _put_rows(array, layout, leading, hosts, number) for name, array in batch.items()}


def _put_whole(leaf, layout):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put_whole(jax.random.key_data(leaf), layout)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    leaf = np.asarray(leaf)
    return _assembled(leaf.shape, layout, lambda place: leaf[place])


def _put_rows(rows, layout, leading, hosts, number):
    size = rows.shape[leading] // len(hosts)  # rows of one host
    shape = (*rows.shape[:leading], size * number, *rows.shape[leading + 1 :])

    def own_rows(place):
        start, stop, _ = place[leading].indices(size * number)
        shift = size * (start // size - hosts.index(start // size))  # rows before these that other processes hold
        return rows[(*place[:leading], slice(start - shift, stop - shift))]

    return _assembled(shape, layout, own_rows)


def _assembled(shape, layout, part_at):
    with jax.transfer_guard_host_to_device("allow"):  # jax takes this for an implicit transfer
        return jax.make_array_from_callback(shape, layout, part_at)


def _split_over_data(name, shape, layout):
    mesh = layout.mesh
    if mesh.shape["data"] == 1:
        return layout
    axes = [(axis,) if isinstance(axis, str) else tuple(axis or ()) for axis in layout.spec]
    axes += [()] * (len(shape) - len(axes))
    places = range(leading_axes(name), len(shape))
    for place in sorted(places, key=lambda place: num_shards(mesh, axes[place]) > 1):
        if shape[place] % num_shards(mesh, (*axes[place], "data")) == 0:
            axes[place] += ("data",)
            return NamedSharding(mesh, P(*axes))
    return layout


def _sharding(name, shape, mesh, leading):
    matches = (layouts for pattern, *layouts in RULES if re.search(f"(^|/)({pattern})$", name))
    layouts = next(matches, None)
    if layouts is None:
        raise UserError(f"{name}: no rule of bert_jax.sharding.RULES matches this array of shape {shape}")
    leading += leading_axes(name)
    for layout in layouts:
        if all(size % num_shards(mesh, axes) == 0 for size, axes in zip(shape[leading:], layout, strict=False)):
            return NamedSharding(mesh, P(*[None] * leading, *layout) if len(layout) else layout)
    sizes = ", ".join(f"{axis}={mesh.shape[axis]}" for axis in AXES)
    raise UserError(
        f"config.mesh: {sizes} does not divide {name} of shape {shape}, laid out as {layouts[-1]}; expected "
        "axes that divide it"
    )
