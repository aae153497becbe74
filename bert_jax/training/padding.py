"""How much of a packed batch is padding, and how much it would be with a row for each sequence."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def shares(batch: Mapping, lengths: Sequence[int]) -> dict[str, jax.Array]:
    """padding_share and padding_share_unpacked of a packed batch, float32 scalars; {} of one that is not packed.

    Args:
      batch: the global batch. Rows that fill it up, whose `weights` are 0, are padding.
      lengths: the lengths that rows of a single sequence can be padded to, ascending; all get one of them.
    """
    if "sequence_ids" not in batch:
        return {}
    present = batch["attention_mask"] != 0
    if "weights" in batch:
        present = present & (batch["weights"] > 0).any(axis=1, keepdims=True)
    tokens = present.sum().astype(jnp.float32)
    sequences = (present & (batch["position_ids"] == 0)).sum()
    longest = jnp.where(present, batch["position_ids"] + 1, 0).max()
    sizes = np.asarray(lengths, np.int32)
    padded = jnp.asarray(sizes)[jnp.minimum(jnp.searchsorted(sizes, longest), len(sizes) - 1)]
    unpacked = jnp.maximum(sequences * padded, 1).astype(jnp.float32)
    return {"padding_share": 1.0 - tokens / present.size, "padding_share_unpacked": 1.0 - tokens / unpacked}
