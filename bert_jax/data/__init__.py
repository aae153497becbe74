"""From text to masked batches. numpy and grain; no jax."""

from bert_jax.data.loader import batch_at, describe_batch

__all__ = ["batch_at", "describe_batch"]
