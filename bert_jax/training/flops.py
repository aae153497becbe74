"""How much arithmetic a step is, counted from the model's sizes, and how much a device can do."""

from collections.abc import Mapping

import jax

from bert_jax.model import Spec

# Dense bfloat16 FLOP/s as the makers publish them; the first name that the device's kind contains.
PEAKS = (
    ("TPU7x", 2307e12 / 2),  # a chip is two devices
    ("TPU v6 lite", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 123e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L4", 121e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


def step_flops(spec: Spec, batch: int, sequence: int, slots: int, passes: float = 3.0) -> float:
    """FLOPs of the matrix products of one training step; the backward pass costs two forward passes.

    Args:
      spec: the model's.
      batch: rows.
      sequence: tokens a row, padding included.
      slots: positions a row whose vocabulary logits are computed.
      passes: what a step costs in forward passes of the layers; fewer than 3 where some are frozen.
    """
    hidden = spec.hidden_size
    layer = 4 * hidden * hidden + 2 * hidden * spec.intermediate_size  # a token, without attention
    head = slots * (hidden * hidden + hidden * spec.vocab_size)  # a row
    pooled = (hidden * hidden if spec.pooler else 0) + (2 * hidden if spec.next_sentence else 0)
    if spec.task:
        reads = 1 if spec.task.name == "sequence_classification" else sequence
        dense = hidden * hidden if spec.task.pooling == "dense" and reads == 1 else 0
        head += reads * hidden * spec.task.num_labels + dense
    layers = 2.0 * batch * passes * sequence * spec.num_layers * layer
    return layers + attention_flops(spec, batch, sequence, passes) + 2.0 * batch * 3.0 * (head + pooled)


def pretraining_flops(spec: Spec, batch: Mapping) -> float:
    """As step_flops, of a step of pre-training on a global batch; its arrays may be shapes alone."""
    rows, sequence = batch["input_ids"].shape
    slots = batch["masked_labels"].shape[1] if "masked_labels" in batch else sequence
    return step_flops(spec, rows, sequence, slots)


def attention_flops(spec: Spec, batch: int, sequence: int, passes: float = 3.0) -> float:
    """Of step_flops, those of scores and weighted values: of all pairs of a row's tokens, also where a mask is on."""
    return 2.0 * batch * passes * spec.num_layers * 2 * sequence * sequence * spec.hidden_size


def peak_flops(device: jax.Device) -> float | None:
    """The device's published bfloat16 FLOP/s; None where it is not known, as of any CPU."""
    return peak_of(device.device_kind)


def peak_of(kind: str) -> float | None:
    """As peak_flops, of a kind of device as JAX names it."""
    return next((peak for name, peak in PEAKS if name in kind), None)
