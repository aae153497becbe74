"""Counts floating-point operations of a step from the model's sizes; lists the published peaks of devices."""

from collections.abc import Mapping

import jax

from bert_jax import _moved
from bert_jax.model import Spec

# Dense bfloat16 FLOP/s per device as the makers publish them; the first name that the device's kind contains counts.
PEAKS = (
    ("TPU7x", 2307e12 / 2),  # a chip is two devices
    ("TPU v6 lite", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 123e12),
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L4", 121e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


def step_flops(spec: Spec, batch: int, sequence: int, slots: int, passes: float = 3.0, sequences: int = 1) -> float:
    """Returns the FLOPs of the matrix products of one training step; a backward pass counts as two forward passes.

    Args:
      spec: the model's spec.
      batch: number of rows.
      sequence: tokens in a row, padding included.
      slots: positions in a row whose vocabulary logits are computed.
      passes: cost of a step in forward passes of the layers; less than 3 where some layers are frozen.
      sequences: places of a packed row whose pairs are classified.
    """
    if spec.task and 0 < spec.task.chunk_length < sequence:  # the vectors of chunks cost next to nothing
        batch, sequence = batch * (sequence // spec.task.chunk_length), spec.task.chunk_length
    hidden, size = spec.hidden_size, spec.embedding_size
    queries, keys = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
    maps = 3 if spec.mlp == "gated" else 2
    layer = 2 * hidden * (queries + keys) + maps * hidden * spec.intermediate_size  # per token, without attention
    convolution = spec.conv_kernel_size * hidden * hidden // spec.conv_groups  # per token
    embedded = size * hidden if spec.embedding_projection else 0  # per token
    head = 0  # per row
    if spec.language_model:
        read = size if spec.mlm_transform else hidden
        head = slots * ((hidden * read if spec.mlm_transform else 0) + read * spec.vocab_size)
    pooled = (hidden * hidden if spec.pooler else 0) + 2 * hidden * (spec.next_sentence + spec.sentence_order)
    if spec.replaced_tokens:
        head += sequence * (hidden * hidden + hidden)
    if spec.task and spec.task.name == "embedding":
        pooled += hidden * spec.task.num_labels if spec.task.transform else 0
    elif spec.task:
        reads = 1 if spec.task.name == "sequence_classification" and not spec.task.late else sequence
        dense = hidden * hidden if spec.task.transform or (spec.task.pooling == "dense" and reads == 1) else 0
        head += reads * (hidden * spec.task.num_labels + dense)
    through = passes * sequence * ((_layers_run(spec) * layer) + convolution + embedded)
    return 2.0 * batch * (through + 3.0 * (head + sequences * pooled)) + attention_flops(spec, batch, sequence, passes)


def pretraining_flops(spec: Spec, batch: Mapping) -> float:
    """Returns `step_flops` of a pre-training step on a global batch, whose arrays may be jax.ShapeDtypeStruct."""
    rows, sequence = batch["input_ids"].shape
    slots = batch["masked_labels"].shape[1] if "masked_labels" in batch else sequence
    classifies_pairs = spec.next_sentence or spec.sentence_order
    sequences = batch["cls_positions"].shape[1] if classifies_pairs and "cls_positions" in batch else 1
    return step_flops(spec, rows, sequence, slots, sequences=sequences)


def attention_flops(spec: Spec, batch: int, sequence: int, passes: float = 3.0) -> float:
    """Returns the share of `step_flops` that attention scores and weighted values take.

    All pairs of a row's tokens count, masked or not; in layers with a window, the pairs within the window. Relative
    positions add their products with each distance. Arguments as of `step_flops`.
    """
    queries = spec.num_heads * spec.head_size
    near = [min(sequence, 2 * (window // 2) + 1) for window in spec.windows if window]
    pairs = sequence * ((_layers_run(spec) - len(near)) * sequence + sum(near))
    products = 2 * pairs * queries
    if spec.has_relative_positions:
        products += _layers_run(spec) * (spec.relative_score_terms - 1) * sequence * (2 * sequence - 1) * queries
    return 2.0 * batch * passes * products


def _layers_run(spec):
    """Returns the layers that a token passes through; the enhanced mask decoder runs the last one twice more."""
    return spec.num_layers + (2 if spec.language_model and spec.mask_decoder == "enhanced" else 0)


def peak_flops(device: jax.Device) -> float | None:
    """Returns the device's published bfloat16 FLOP/s; None where it is not known, as for any CPU."""
    return peak_flops_of_kind(device.device_kind)


def peak_flops_of_kind(kind: str) -> float | None:
    """Returns the published bfloat16 FLOP/s of a device kind as JAX names it (`Device.device_kind`), or None."""
    return next((peak for name, peak in PEAKS if name in kind), None)


def __getattr__(name: str):
    return _moved.find("model.flops", name)
