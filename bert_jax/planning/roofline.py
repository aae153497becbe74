"""Bounds the time of a compiled step from below, by products, memory and links at published rates.

Two figures stand beside each other. The bound is the longer of all products and all bytes, and the time in which the
compiled program waits for collectives: what the best schedule of these operations could reach. The sum takes operations
one by one in the compiler's order (timeline.py): each as long as its products or its bytes.
"""

import dataclasses

import ml_collections

from bert_jax import config as config_lib
from bert_jax.model import flops
from bert_jax.planning import collectives as collectives_lib
from bert_jax.planning.chips import Topology
from bert_jax.planning.compilation import Compiled

BOUNDS = ("products", "hbm", "ici", "dcn")


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Holds the bounds of one step.

    Attributes:
      model_flops: the model's FLOPs of the whole step.
      seconds: time that each of BOUNDS takes.
      exposed: the part of the links' time that no operation hides.
      summed_seconds: time of the step by the sum over its operations.
      tokens: number of tokens of the global batch, padding included.
      least_seconds: time that the model's FLOPs take at the published peak.
    """

    model_flops: float
    seconds: dict[str, float]
    exposed: dict[str, float]
    summed_seconds: float
    tokens: int
    least_seconds: float

    @property
    def bound(self) -> str:
        """Returns what bounds the step: the name of the longest part of `step_seconds`."""
        parts = self.seconds | self.exposed
        return max(parts, key=parts.__getitem__)

    @property
    def step_seconds(self) -> float:
        """Returns the least time of a step in seconds."""
        return max(self.seconds["products"], self.seconds["hbm"]) + sum(self.exposed.values())

    @property
    def tokens_per_second(self) -> float:
        """Returns the most tokens per second that the bounds allow."""
        return self.tokens / self.step_seconds

    @property
    def mfu(self) -> float:
        """Returns the largest share of the published FLOP/s that the model's FLOPs can reach."""
        return self.least_seconds / self.step_seconds

    @property
    def summed_mfu(self) -> float:
        """Returns the share of the published FLOP/s that the model's FLOPs reach by the sum over operations."""
        return self.least_seconds / self.summed_seconds


def roofline(compiled: Compiled, topology: Topology) -> Roofline:
    """Returns the bounds of a step that was compiled for a topology.

    Products are those of the program, recomputed ones included, and at least the model's. A Pallas kernel without a
    cost estimate, such as splash attention, is taken to compute the scores once more in the backward pass than the
    model's FLOPs count, and the whole forward pass once more where layers are rematerialised; the sum over operations
    lacks its products. How well products use the matrix units is not considered.
    """
    chip = topology.chip
    products = compiled.products
    if compiled.kernels:
        passes = 3.5 if compiled.spec.remat == "none" else 4.5
        for spec in (compiled.spec, *compiled.other_specs):
            products += flops.attention_flops(spec, compiled.rows, compiled.sequence, passes) / topology.num_devices
    share = compiled.model_flops / topology.num_devices
    seconds = {
        "products": max(products, share) / chip.flops,
        "hbm": compiled.hbm_bytes / (chip.hbm_bandwidth / chip.devices),
        "ici": collectives_lib.total(compiled.collectives, "ici")[2],
        "dcn": collectives_lib.total(compiled.collectives, "dcn")[2],
    }
    return Roofline(
        model_flops=compiled.model_flops,
        seconds=seconds,
        exposed=dict(compiled.timeline.exposed),
        summed_seconds=max(compiled.timeline.seconds, share / chip.flops),
        tokens=compiled.rows * compiled.sequence,
        least_seconds=share / chip.flops,
    )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Describes the whole run, with each step as fast as its bounds allow.

    Attributes:
      steps, tokens: totals of all phases.
      days: wall time.
      chip_hours: hours summed over all chips.
      mfu, summed_mfu: model FLOPs utilisation of the whole run, by the bounds and by the sums over operations.
    """

    steps: int
    tokens: int
    days: float
    chip_hours: float
    mfu: float
    summed_mfu: float


def schedule(config: ml_collections.ConfigDict, rooflines: list[Roofline], topology: Topology) -> Schedule:
    """Returns the schedule of a whole run, given the bounds of each phase's step."""
    steps = [phase.stop - phase.start for phase in config_lib.phases(config)]
    pairs = list(zip(steps, rooflines, strict=True))
    seconds = sum(count * bounds.step_seconds for count, bounds in pairs)
    summed = sum(count * bounds.summed_seconds for count, bounds in pairs)
    least = sum(count * bounds.least_seconds for count, bounds in pairs)
    hours = seconds / 3600
    return Schedule(
        steps=sum(steps),
        tokens=sum(count * bounds.tokens for count, bounds in pairs),
        days=hours / 24,
        chip_hours=hours * topology.num_chips,
        mfu=least / seconds if seconds else 0.0,
        summed_mfu=least / summed if summed else 0.0,
    )
