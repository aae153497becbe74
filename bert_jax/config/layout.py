"""Checks that a config's mesh, heads and batches fit a number of devices."""

import math
from collections.abc import Mapping, Sequence

import ml_collections

from bert_jax.config.mesh import AXES, BATCH_AXES
from bert_jax.config.recipes import value
from bert_jax.errors import UserError


def check_layout(
    config: ml_collections.ConfigDict, num_devices: int, heads: Mapping[str, int], batches: Sequence[tuple[int, str]]
) -> None:
    """Raises UserError if the mesh does not fit the devices, or heads or batches do not divide among them.

    Args:
      config: a config with mesh, data.batch_size, train.microbatches and train.eval_batch_size.
      num_devices: number of devices of all processes.
      heads: number of key and value heads of each model of the run, by the config key that sets it.
      batches: rows of each global batch, and what follows them in a message.
    """
    sizes = {axis: config.mesh[axis] for axis in AXES}
    fixed = [size for size in sizes.values() if size != -1]
    axis_sizes = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if len(fixed) < len(sizes) - 1 or any(size < 1 for size in fixed):
        raise UserError(
            f"config.mesh: found {axis_sizes}; expected positive sizes, and -1 (what is left) for one axis at most"
        )
    product = math.prod(fixed)
    if (len(fixed) == len(sizes) and product != num_devices) or num_devices % product:
        raise UserError(
            f"config.mesh: {axis_sizes.replace(', ', ' x ')} does not fit {num_devices} devices; "
            "set one axis to -1 to take what is left"
        )
    sizes = {axis: num_devices // product if size == -1 else size for axis, size in sizes.items()}
    parts = sizes["tensor"]
    for key, count in heads.items():
        if count % parts:
            raise UserError(
                f"config.mesh: tensor={parts} does not divide config.{key}={count}; expected one of "
                f"{', '.join(str(size) for size in range(1, count + 1) if count % size == 0)}"
            )
    shards = math.prod(sizes[axis] for axis in BATCH_AXES)
    microbatches = config.train.microbatches or 1  # 0: as many as divide the batch and fit the memory
    for size, name in batches:
        per_step = microbatches * shards
        if size % per_step:
            nearest = [n for n in (size // per_step * per_step, _next_multiple(size, per_step)) if n]
            raise UserError(
                f"config.data.batch_size: {size}{name} is not divisible by {shards} device shards x "
                f"{microbatches} microbatches = {per_step}; try {' or '.join(map(str, nearest))}"
                f"{_keeping_rows(config, num_devices, sizes, heads, [size for size, _ in batches])}"
            )
    eval_batch = value(config, "train.eval_batch_size")
    if eval_batch % shards:
        raise UserError(
            f"config.train.eval_batch_size: {eval_batch} is not divisible by {shards} device shards; "
            f"try {_next_multiple(eval_batch, shards)}"
        )


def _keeping_rows(config, num_devices, sizes, heads, batches):
    """Returns what divides the batches as they are, for a message: microbatches, a tensor axis, or fewer devices."""
    parts, count = sizes["tensor"], config.train.microbatches or 1

    def divide(shards, microbatches):
        return all(size % (shards * microbatches) == 0 for size in batches)

    def possible(tensor):
        return num_devices % (tensor * sizes["fsdp"]) == 0 and all(number % tensor == 0 for number in heads.values())

    ways = [f"--config.train.microbatches={n}" for n in range(count - 1, 0, -1) if divide(num_devices // parts, n)][:1]
    if config.mesh.data == -1:
        wider = filter(possible, range(2 * parts, num_devices + 1, parts))
        tensors = [n for n in wider if divide(num_devices // n, count)]
        ways += [f"--config.mesh.tensor={n} ({num_devices // n} shards)" for n in tensors[:1]]
        step = sizes["fsdp"] * parts
        fewer = [n for n in range(num_devices - step, 0, -step) if divide(n // parts, count)]
        ways += [f"{n} device{'s' if n > 1 else ''}" for n in fewer[:1]]
    return f", or keep the rows with {' or '.join(ways)}" if ways else ""


def _next_multiple(number, factor):
    return -(-number // factor) * factor
