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
    hidden, size = spec.hidden_size, spec.embedding_size
    queries, keys = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
    maps = 3 if spec.mlp == "gated" else 2
    layer = 2 * hidden * (queries + keys) + maps * hidden * spec.intermediate_size  # a token, without attention
    convolution = spec.conv_kernel_size * hidden * hidden // spec.conv_groups  # a token
    embedded = size * hidden if spec.embedding_projection else 0  # a token
    head = 0  # a row
    if spec.language_model:
        read = size if spec.mlm_transform else hidden
        head = slots * ((hidden * read if spec.mlm_transform else 0) + read * spec.vocab_size)
    pooled = (hidden * hidden if spec.pooler else 0) + 2 * hidden * (spec.next_sentence + spec.sentence_order)
    if spec.replaced_tokens:
        head += sequence * (hidden * hidden + hidden)
    if spec.task:
        reads = 1 if spec.task.name == "sequence_classification" and not spec.task.late else sequence
        dense = hidden * hidden if spec.task.transform or (spec.task.pooling == "dense" and reads == 1) else 0
        head += reads * (hidden * spec.task.num_labels + dense)
    through = passes * sequence * ((_layers_run(spec) * layer) + convolution + embedded)
    return 2.0 * batch * (through + 3.0 * (head + pooled)) + attention_flops(spec, batch, sequence, passes)


def pretraining_flops(spec: Spec, batch: Mapping) -> float:
    """As step_flops, of a step of pre-training on a global batch; its arrays may be shapes alone."""
    rows, sequence = batch["input_ids"].shape
    slots = batch["masked_labels"].shape[1] if "masked_labels" in batch else sequence
    return step_flops(spec, rows, sequence, slots)


def attention_flops(spec: Spec, batch: int, sequence: int, passes: float = 3.0) -> float:
    """Of step_flops, those of scores and weighted values: of all pairs of a row's tokens, also where a mask is on.

    Of layers with a window, of the pairs within it; of relative positions, with the products for each distance.
    """
    queries = spec.num_heads * spec.head_size
    near = min(sequence, 2 * (spec.local_window // 2) + 1)
    local = sum(i % spec.global_every > 0 for i in range(spec.num_layers)) if spec.local_window else 0
    pairs = sequence * ((_layers_run(spec) - local) * sequence + local * near)
    products = 2 * pairs * queries
    if spec.has_relative_positions:
        products += _layers_run(spec) * (spec.relative_score_terms - 1) * sequence * (2 * sequence - 1) * queries
    return 2.0 * batch * passes * products


def _layers_run(spec):
    """Layers that a token goes through; the enhanced mask decoder runs the last one twice more."""
    return spec.num_layers + (2 if spec.language_model and spec.mask_decoder == "enhanced" else 0)


def peak_flops(device: jax.Device) -> float | None:
    """The device's published bfloat16 FLOP/s; None where it is not known, as of any CPU."""
    return peak_of(device.device_kind)


def peak_of(kind: str) -> float | None:
    """As peak_flops, of a kind of device as JAX names it."""
    return next((peak for name, peak in PEAKS if name in kind), None)
