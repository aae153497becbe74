"""Multi-head self-attention."""

import functools
from collections.abc import Mapping

import jax
from flax import nnx

from bert_jax.errors import UserError
from bert_jax.kernel_choice import resolve_kernel
from bert_jax.model.kernels import Visibility, attend, weights
from bert_jax.model.layers import Linear, project
from bert_jax.model.layouts import constrained
from bert_jax.model.spec import Spec


class SelfAttention(nnx.Module):
    """softmax(Q K^T / sqrt(head_size)) V over num_heads heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, stddev = spec.hidden_size, spec.initializer_range
        self.query = Linear(size, size, stddev=stddev, rngs=rngs)
        self.key = Linear(size, size, stddev=stddev, rngs=rngs)
        self.value = Linear(size, size, stddev=stddev, rngs=rngs)
        self.output = Linear(size, size, stddev=stddev, rngs=rngs)
        self.spec = spec

    def __call__(self, hidden: jax.Array, visibility: Visibility, seed: jax.Array | None) -> jax.Array:
        """[batch, sequence, hidden], before dropout and residual.

        Args:
          hidden: [batch, sequence, hidden].
          visibility: of the rows.
          seed: of the dropout of the attention weights; None for none.
        """
        query, value, key = self._heads(self.query(hidden)), self._heads(self.value(hidden)), self._keys(hidden)
        kernel = kernel_of(self.spec, hidden.shape[1], visibility.sequence_ids is not None, seed is not None)
        run = functools.partial(attend, kernel, rate=self.spec.attention_dropout)
        if self.spec.remat == "attention":
            run = jax.checkpoint(run)
        mixed = run(query, key, value, visibility, seed=seed)
        return self.output(mixed.transpose(0, 2, 1, 3).reshape(hidden.shape))

    def weights(self, hidden: jax.Array, visibility: Visibility) -> jax.Array:
        """The attention weights before dropout, float32 [batch, heads, query, key], by plain XLA whatever the kernel.

        Args:
          hidden: [batch, sequence, hidden].
          visibility: of the rows.
        """
        return weights(self._heads(self.query(hidden)), self._keys(hidden), visibility)

    def _keys(self, hidden):
        # The key's bias adds the same to all scores of a query, which the softmax takes away again: left out, its
        # gradient is zero and not rounding.
        return self._heads(project(hidden, self.key.kernel[...].astype(hidden.dtype)))

    def _heads(self, x):
        """[batch, sequence, hidden] -> [batch, heads, sequence, head_size]."""
        batch, sequence, _ = x.shape
        x = x.reshape(batch, sequence, self.spec.num_heads, self.spec.head_size).transpose(0, 2, 1, 3)
        return constrained(x, "heads")


def visibility_of(spec: Spec, batch: Mapping) -> Visibility:
    """Which tokens of a batch may see each other.

    Args:
      spec: the model's.
      batch: attention_mask [batch, sequence], and sequence_ids of the same shape where rows are packed.
    """
    return Visibility(batch["attention_mask"] != 0, batch.get("sequence_ids"), causal=spec.attention == "causal")


def kernel_of(spec: Spec, sequence_length: int, packed: bool, dropping: bool) -> str:
    """The kernel of one call, "xla" or a name of kernels.FUSED.

    Args:
      spec: the model's; its attention_kernel "auto" is resolved here, as not every call allows the same.
      sequence_length: tokens a row.
      packed: whether rows hold several sequences.
      dropping: whether attention weights are dropped at the spec's rate.

    Raises:
      UserError: the spec names a kernel that cannot do it.
    """
    kernel = resolve_kernel(
        spec.attention_kernel,
        platform=spec.platform,
        dtype=spec.dtype,
        head_size=spec.head_size,
        sequence_length=sequence_length,
        dropout=spec.attention_dropout if dropping else 0.0,
    )
    if kernel != "cudnn" or not packed or not spec.task:
        return kernel
    # Fine-tuning maps over seeds, and the batching rule of cuDNN's attention takes no mask such as packing needs.
    if spec.attention_kernel == "cudnn":
        raise UserError(
            "config.model.attention_kernel: found cudnn, but it cannot fine-tune on packed rows; expected auto or xla, "
            "or config.data.packing=False"
        )
    return "xla"
