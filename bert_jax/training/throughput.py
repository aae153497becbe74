"""Measures a run's speed for the log: where wall time goes, tokens and rows per second, MFU, and padding.

tokens_per_second counts tokens that are not padding, special ones too, so that packing raises it and padding does not.
rows_per_second counts rows of the batch, packed or not: times the tokens of a row it is what a step computes on. mfu,
the model FLOPs utilization (Chowdhery et al. 2022, PaLM, appendix B), is the share of the devices' published peak
FLOP/s that the matrix products of whole rows take, padding included and recomputation left out (model/flops.py).
"""

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.model import flops


class Clock:
    """Splits the wall time between two rows of the log among runs.loggers.ACTIVITIES, each second counted once.

    Args:
      flops_of: returns the FLOPs of a step on a batch of global shape.
      mesh: the devices, whose published peak rates MFU is relative to.
    """

    def __init__(self, flops_of: Callable[[Mapping], float], mesh: Mesh):
        from bert_jax.runs.loggers import ACTIVITIES  # here: a compiled step, which counts padding, needs no loggers

        self._activities = ACTIVITIES
        self._flops_of = flops_of
        peak = flops.peak_flops(mesh.devices.flat[0])
        self._peak = peak and peak * mesh.size
        self._compiled = set()
        self._compiling = False
        self._activity, self._since, self._waited = "logging", time.perf_counter(), 0.0
        self._restart()

    def start(self, activity: str) -> None:
        """Counts the time from now on as spent on `activity`, one of runs.loggers.ACTIVITIES."""
        now = time.perf_counter()
        passed = now - self._since
        self._seconds[self._activity] += passed
        if self._activity == "data":
            self._waited = passed
        self._activity, self._since = activity, now
        if activity == "step":
            self._not_own_in_step = 0.0

    @contextlib.contextmanager
    def waiting_for_devices(self, covers: bool = True) -> Iterator[None]:
        """Counts the time inside as the devices' and not as this process's own (`step_seconds`).

        Args:
          covers: whether another step is under way meanwhile, so that the devices were busy all the time before.
        """
        began = time.perf_counter()
        try:
            yield
        finally:
            waited = (2 if covers else 1) * (time.perf_counter() - began)
            self._not_own_in_step += waited
            self._not_own += waited

    @property
    def activity(self) -> str:
        """Returns the activity at this moment; until the first step has ended, and in others that compile, that."""
        return "compilation" if self._compiling or not self._compiled else self._activity

    def step_seconds(self) -> tuple[float, float] | None:
        """Returns the seconds of a step since the last `take`, and those that this process took of it by itself.

        The latter are those in which it waited for its batch to be placed and started the step, less those in which it
        then waited for devices that were busy with the step before: these covered as much of its work. None where every
        step compiled.
        """
        self.start(self._activity)
        whole = self._seconds["data"] + self._seconds["step"] - self._uncounted
        return (whole / self._steps, max(0.0, whole - self._not_own) / self._steps) if self._steps else None

    turn_to = start  # the method's name in earlier versions

    def count(
        self,
        batch: Mapping[str, jax.Array],
        metrics: Mapping[str, jax.Array],
        own_rows: Mapping[str, np.ndarray] | None = None,
        program: Hashable = None,
    ) -> None:
        """Counts a step that was just started.

        The first step of each program and shape is waited for, and its time counts as compilation.

        Args:
          batch: the global batch, arrays [..., batch, sequence].
          metrics: what the step returns.
          own_rows: the rows of this process, on the host; their share of padding is taken for that of all. None for
            rows without padding.
          program: the step's compiled function, where a run has several.
        """
        compiled = _program_and_shapes(batch, program)
        if compiled in self._compiled:
            self._steps += 1
            # An embedder's batch has a second array of texts (data.tasks.vector_sets).
            for prefix in [name.removesuffix("input_ids") for name in batch if name.endswith("input_ids")]:
                size = batch[prefix + "input_ids"].size
                if not size:
                    continue
                self._tokens += size if own_rows is None else size * float(_present(own_rows, prefix).mean())
                self._rows += size // batch[prefix + "input_ids"].shape[-1]
            self._flops += self._flops_of(batch)
            return
        jax.block_until_ready(metrics)
        self._compiled.add(compiled)
        self._compiling = False
        self._uncounted += self._waited
        self._not_own -= self._not_own_in_step
        self._activity = "compilation"
        self.start("step")

    def compiles(self, batch: Mapping[str, jax.Array], program: Hashable = None, is_compiled: bool = False) -> bool:
        """Returns whether no step of this program and shape has been counted, so that the next one is compiled.

        `is_compiled` says that it was compiled beside other steps: it is then a step like these.
        """
        if is_compiled:
            self._compiled.add(_program_and_shapes(batch, program))
        self._compiling = _program_and_shapes(batch, program) not in self._compiled
        return self._compiling

    def tokens_per_second(self) -> float | None:
        """Returns the tokens per second since the last `take`; None for a second, and where every step compiled.

        It waits for nothing: a step that still runs is counted, its time is not, and a second makes that small.
        """
        running = time.perf_counter() - self._since if self._activity in ("step", "data") else 0.0
        training = self._seconds["step"] + self._seconds["data"] - self._uncounted + running
        return self._tokens / training if self._rows and training > 1 else None

    def take(self) -> dict[str, float | None]:
        """Returns the timings of a row of the log (runs.loggers.TIMINGS) and starts counting anew.

        Tokens and rows per second and MFU refer to the time in steps and waiting for data; they are None where every
        step compiled, and MFU also where the devices' peak is not known.
        """
        self.start(self._activity)
        training = self._seconds["step"] + self._seconds["data"] - self._uncounted
        row = {"tokens_per_second": None, "rows_per_second": None, "mfu": None}
        if self._rows:
            row["tokens_per_second"] = round(self._tokens / training, 1)
            row["rows_per_second"] = round(self._rows / training, 3)
            row["mfu"] = round(self._flops / training / self._peak, 4) if self._peak else None
        row |= {f"time/{activity}": round(seconds, 4) for activity, seconds in self._seconds.items()}
        self._restart()
        return row

    def _restart(self):
        self._seconds = dict.fromkeys(self._activities, 0.0)
        self._tokens, self._rows, self._steps = 0.0, 0, 0
        self._not_own = self._not_own_in_step = 0.0
        self._flops, self._uncounted = 0.0, 0.0  # uncounted: seconds for data of compiled steps


def _program_and_shapes(batch, program):
    return program, tuple(array.shape for array in batch.values())


def _present(batch, prefix=""):
    """Returns which tokens are no padding, bool [..., batch, sequence]; rows of weight 0 fill a batch up.

    The result is bool [..., batch, texts, sequence] for an embedder's other texts (prefix "other_").
    """
    present = batch[prefix + "attention_mask"] != 0
    if prefix:
        return present & (batch[prefix + "texts"] >= 0)[..., None]
    if "weights" in batch:
        counted = batch["weights"] > 0  # each row counts, or each sequence of a packed one
        present = present & (counted.any(-1) if counted.ndim == present.ndim else counted)[..., None]
    return present


def padding_shares(batch: Mapping, lengths: Sequence[int]) -> dict[str, jax.Array]:
    """Returns padding_share and padding_share_unpacked of a packed batch, float32 scalars; {} of an unpacked one.

    The second is the share of padding that the same sequences would have with a row for each.

    Args:
      batch: the global batch, arrays [batch, sequence]. Rows that fill it up, whose `weights` are 0, count as padding.
      lengths: the lengths that rows of a single sequence can be padded to, ascending; all rows get the same.
    """
    if "sequence_ids" not in batch:
        return {}
    present = _present(batch)
    tokens = present.sum().astype(jnp.float32)
    sequences = (present & (batch["position_ids"] == 0)).sum()
    longest = jnp.where(present, batch["position_ids"] + 1, 0).max()
    sizes = np.asarray(lengths, np.int32)
    padded = jnp.asarray(sizes)[jnp.minimum(jnp.searchsorted(sizes, longest), len(sizes) - 1)]
    unpacked = jnp.maximum(sequences * padded, 1).astype(jnp.float32)
    return {"padding_share": 1.0 - tokens / present.size, "padding_share_unpacked": 1.0 - tokens / unpacked}
