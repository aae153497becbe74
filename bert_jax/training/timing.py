"""How fast training goes, for the log."""

import time

import jax

from bert_jax.training import flops
from bert_jax.training import metrics as metrics_lib


class Speed:
    """Tokens per second and MFU of the steps since the last restart, without those that compiled."""

    def __init__(self, run):
        self._flops_of = run.flops
        peak = flops.peak_flops(run.mesh.devices.flat[0])
        self._peak = peak and peak * run.mesh.size
        self._compiled = set()
        self.restart()

    def restart(self):
        self._began, self._tokens, self._flops = time.perf_counter(), 0, 0.0

    def count(self, batch, metrics):
        """Counts a step; the first of its shape was compiled and is left out."""
        shape = tuple(array.shape for array in batch.values())
        if shape not in self._compiled:
            self._compiled.add(shape)
            jax.block_until_ready(metrics)
            self.restart()
            return
        self._tokens += batch["input_ids"].size
        self._flops += self._flops_of(batch)

    def take(self):
        """The row's timings; null where no step was counted, or no peak is known."""
        seconds = time.perf_counter() - self._began
        if not self._tokens:
            return dict.fromkeys(metrics_lib.TIMINGS)
        mfu = round(self._flops / seconds / self._peak, 4) if self._peak else None
        return {"tokens_per_second": round(self._tokens / seconds, 1), "mfu": mfu}
