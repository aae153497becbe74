"""Where a run's time goes, and how fast it trains, for the log."""

import time
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh

from bert_jax.model import flops
from bert_jax.runs.loggers import ACTIVITIES


class Clock:
    """Splits the wall time between two rows of the log among ACTIVITIES, none of it twice and none left out.

    Args:
      flops_of: FLOPs of a step on a batch, of its global shape.
      mesh: of the devices, whose published rates MFU is a share of.
    """

    def __init__(self, flops_of: Callable[[Mapping], float], mesh: Mesh):
        self._flops_of = flops_of
        peak = flops.peak_flops(mesh.devices.flat[0])
        self._peak = peak and peak * mesh.size
        self._compiled = set()
        self._activity, self._since, self._waited = "logging", time.perf_counter(), 0.0
        self._restart()

    def turn_to(self, activity: str) -> None:
        """The time from now on is spent on `activity`."""
        now = time.perf_counter()
        passed = now - self._since
        self._seconds[self._activity] += passed
        if self._activity == "data":
            self._waited = passed
        self._activity, self._since = activity, now

    def count(self, batch: Mapping[str, jax.Array], metrics: Mapping[str, jax.Array]) -> None:
        """Counts a step that was just started; the first of its shape is waited for, its time is compilation's."""
        shape = tuple(array.shape for array in batch.values())
        if shape in self._compiled:
            self._tokens += batch["input_ids"].size
            self._flops += self._flops_of(batch)
            return
        self._compiled.add(shape)
        jax.block_until_ready(metrics)
        self._uncounted += self._waited
        self._activity = "compilation"
        self.turn_to("step")

    def take(self) -> dict[str, float | None]:
        """The timings of a row (metrics.TIMINGS), and a new beginning.

        Tokens per second and MFU are of the time in steps and waiting for data; null where every step compiled, or
        where the devices' peak is not known.
        """
        self.turn_to(self._activity)
        training = self._seconds["step"] + self._seconds["data"] - self._uncounted
        row = {"tokens_per_second": None, "mfu": None}
        if self._tokens:
            row["tokens_per_second"] = round(self._tokens / training, 1)
            row["mfu"] = round(self._flops / training / self._peak, 4) if self._peak else None
        row |= {f"time/{activity}": round(seconds, 4) for activity, seconds in self._seconds.items()}
        self._restart()
        return row

    def _restart(self):
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._tokens, self._flops, self._uncounted = 0, 0.0, 0.0  # uncounted: seconds for data of compiled steps
