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
      head_sizes: the sizes of a head, where only some will do.
      dropout: whether it drops attention weights.
      longest_row: the most tokens of a row; 0 for any number.
      longest_relative: the same of a model whose scores have terms of relative distances, computed in bfloat16; half as
        many in float32; 0 where the kernel has no place for these terms.
      auto_from: the fewest tokens of a row with which "auto" takes it.
    """

    platform: str
    dtypes: tuple[str, ...]
    sequence_multiple: int
    head_multiple: int
    largest_head: int
    head_sizes: tuple[int, ...] = ()
    dropout: bool = False
    longest_row: int = 0
    longest_relative: int = 0
    auto_from: int = 0


# Platforms are "tpu" (v4 and later), "cuda" (NVIDIA, Ampere and later), "gpu" (any other) and "cpu". Longer rows than
# those of "row" do not fit into the 16 MiB of VMEM of a TPU v4, where the tables of relative distances need their part;
# under 256 tokens it gains nothing.
LIMITS = {
    "splash": Limits("tpu", ("float32", "bfloat16"), sequence_multiple=128, head_multiple=8, largest_head=256),
    "row": Limits(
        "tpu", ("float32", "bfloat16"), sequence_multiple=1, head_multiple=8, largest_head=256, dropout=True,
        longest_row=2048, longest_relative=512, auto_from=256),
    "flash": Limits("tpu", ("float32", "bfloat16"), sequence_multiple=128, head_multiple=8, largest_head=256),
    "cudnn": Limits("cuda", ("bfloat16", "float16"), sequence_multiple=2, head_multiple=8, largest_head=128),
    "tile": Limits(
        "cuda", ("float32", "bfloat16", "float16"), sequence_multiple=1, head_multiple=16, largest_head=128,
        head_sizes=(16, 32, 64, 128), dropout=True),
}  # fmt: skip
# What "auto" takes: the first that can do the call. Compiled for v5e, a step of modernbert_base on rows of 1,024 moves
# 138 GiB with "row" and 202 with "splash", one of bert_base on rows of 512 without dropout 10.4 and 11.2. "tile" was
# compiled for GPUs, and compared in interpretation alone: no GPU has run it yet, so that it must be asked for.
PREFERRED = {"tpu": ("row", "splash"), "cuda": ("cudnn",)}


def resolve_kernel(
    name: str,
    *,
    platform: str | None = None,
    dtype: str | None = None,
    head_size: int | None = None,
    sequence_length: int | None = None,
    dropout: float = 0.0,
    relative: bool = False,
) -> str:
    """Returns the kernel that config.model.attention_kernel means; "auto" is the platform's that can do the call.

    Args:
      name: "auto", "xla", or a key of LIMITS.
      platform: platform that the program runs on; None where that is not known yet, which needs a named kernel.
      dtype, head_size, sequence_length: properties of the call; None where not known yet, which refuses nothing.
      dropout: dropout rate of the attention weights in this call.
      relative: whether scores have terms of relative distances.

    Raises:
      UserError: A kernel was named that cannot do it.
    """
    call = {"platform": platform, "dtype": dtype, "head_size": head_size, "sequence_length": sequence_length}
    call |= {"dropout": dropout, "relative": relative}
    if name == "auto":
        fitting = (kernel for kernel in PREFERRED.get(platform or "", ())
                   if not _reason_against(LIMITS[kernel], **call)
                   and (sequence_length or 0) >= LIMITS[kernel].auto_from)  # fmt: skip
        return next(fitting, "xla")
    if name != "xla" and (reason := _reason_against(LIMITS[name], **call)):
        raise UserError(f"config.model.attention_kernel: found {name}, but {reason}, or auto or xla as kernel")
    return name


def _reason_against(limits, *, platform, dtype, head_size, sequence_length, dropout, relative):
    """Returns why a kernel of these limits cannot do a call, and what is expected; "" where it can."""
    if platform not in (None, limits.platform):
        return f"it runs on {limits.platform}, and this is {platform}"
    if dropout and not limits.dropout:
        return f"it cannot do config.model.attention_dropout={dropout}; expected a rate of 0"
    if relative and not limits.longest_relative:
        return "it has no place for the scores of relative positions; expected row"
    longest = limits.longest_relative // (2 if dtype == "float32" else 1) if relative else limits.longest_row
    if dtype and dtype not in limits.dtypes:
        return f"it cannot compute in {dtype}; expected config.model.dtype to be {' or '.join(limits.dtypes)}"
    if sequence_length and sequence_length % limits.sequence_multiple:
        return f"rows have {sequence_length} tokens; expected a multiple of {limits.sequence_multiple}"
    if sequence_length and longest and sequence_length > longest:
        where = " with relative positions" if relative else ""
        return f"rows have {sequence_length} tokens; expected at most {longest}{where}"
    if head_size and limits.head_sizes and head_size not in limits.head_sizes:
        sizes = ", ".join(map(str, limits.head_sizes[:-1])) + f" or {limits.head_sizes[-1]}"
        return f"heads have {head_size} units (config.model.hidden_size / num_heads); expected {sizes}"
    if head_size and (head_size % limits.head_multiple or head_size > limits.largest_head):
        return (
            f"heads have {head_size} units (config.model.hidden_size / num_heads); expected a multiple of "
            f"{limits.head_multiple}, at most {limits.largest_head}"
        )
    return ""
