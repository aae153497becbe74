"""Turns text into masked batches: vocabularies, preparation of corpora, instances, masking, loading. It needs no jax.

    batch = bert_jax.data.batch_at(config, step=7, host=0, num_hosts=4)    # the batch of any step, without training
    for step, batch in bert_jax.data.Loader(config, start_step=7):         # prefetched, to the end of the run
        ...

`config` is a pre-training config whose data.corpus is a directory that `python -m bert_jax.prepare` wrote.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bert_jax.data.loader import Loader, batch_at, describe_batch

__all__ = ["Loader", "batch_at", "describe_batch"]


def __getattr__(name):
    if name in __all__:  # on first use: commands that read no corpus do not wait for the loader
        return getattr(importlib.import_module("bert_jax.data.loader"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
