"""Chooses the attention kernel that runs: what each kernel can do, and what "auto" takes.

No jax here, since configs are checked with it too. The kernels themselves are in bert_jax.model.kernels.
"""

import dataclasses

from bert_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Describes what a kernel can do; "xla" can do everything.

    Attributes:
      platform: platform that it runs on.
      dtypes: dtypes of queries, keys and values.
      sequence_multiple: the number of tokens of a row must be a multiple of it.
      head_multiple, largest_head: the size of a head must be a multiple of the first, and at most the second.
    """

    platform: str
    dtypes: tuple[str, ...]
    sequence_multiple: int
    head_multiple: int
    largest_head: int


# No fused kernel drops attention weights: a rate above zero takes XLA. Platforms are "tpu" (v4 and later), "cuda"
# (NVIDIA, Ampere and later), "gpu" (any other) and "cpu".
LIMITS = {
    "splash": Limits("tpu", ("float32", "bfloat16"), sequence_multiple=128, head_multiple=8, largest_head=256),
    "flash": Limits("tpu", ("float32", "bfloat16"), sequence_multiple=128, head_multiple=8, largest_head=256),
    "cudnn": Limits("cuda", ("bfloat16", "float16"), sequence_multiple=2, head_multiple=8, largest_head=128),
}
PREFERRED = {"tpu": "splash", "cuda": "cudnn"}


def resolve_kernel(
    name: str,
    *,
    platform: str | None = None,
    dtype: str | None = None,
    head_size: int | None = None,
    sequence_length: int | None = None,
    dropout: float = 0.0,
) -> str:
    """Returns the kernel that config.model.attention_kernel means; "auto" is the platform's where that can do the call.

    Args:
      name: "auto", "xla", or a key of LIMITS.
      platform: platform that the program runs on; None where that is not known yet, which needs a named kernel.
      dtype, head_size, sequence_length: properties of the call; None where not known yet, which refuses nothing.
      dropout: dropout rate of the attention weights in this call.

    Raises:
      UserError: A kernel was named that cannot do it.
    """
    kernel = PREFERRED.get(platform or "", "xla") if name == "auto" else name
    if kernel == "xla":
        return kernel
    limits, reason = LIMITS[kernel], None
    if platform not in (None, limits.platform):
        reason = f"it runs on {limits.platform}, and this is {platform}"
    elif dropout:
        reason = f"it cannot do config.model.attention_dropout={dropout}; expected a rate of 0"
    elif dtype and dtype not in limits.dtypes:
        reason = f"it cannot compute in {dtype}; expected config.model.dtype to be {' or '.join(limits.dtypes)}"
    elif sequence_length and sequence_length % limits.sequence_multiple:
        reason = f"rows have {sequence_length} tokens; expected a multiple of {limits.sequence_multiple}"
    elif head_size and (head_size % limits.head_multiple or head_size > limits.largest_head):
        reason = (
            f"heads have {head_size} units (config.model.hidden_size / num_heads); expected a multiple of "
            f"{limits.head_multiple}, at most {limits.largest_head}"
        )
    if reason is None:
        return kernel
    if name == "auto":
        return "xla"
    raise UserError(f"config.model.attention_kernel: found {name}, but {reason}, or auto or xla as kernel")
