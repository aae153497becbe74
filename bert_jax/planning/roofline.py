"""Bounds the time of a compiled step from below: the longest of products, memory and links at published rates."""

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
      tokens: number of tokens of the global batch, padding included.
      mfu: largest share of the published FLOP/s that the model's FLOPs can reach.
    """

    model_flops: float
    seconds: dict[str, float]
    tokens: int
    mfu: float

    @property
    def bound(self) -> str:
        """Returns what bounds the step: the name of the longest of `seconds`."""
        return max(self.seconds, key=self.seconds.__getitem__)

    @property
    def step_seconds(self) -> float:
        """Returns the least time of a step in seconds."""
        return self.seconds[self.bound]

    @property
    def tokens_per_second(self) -> float:
        """Returns the most tokens per second that the bounds allow."""
        return self.tokens / self.step_seconds


def roofline(compiled: Compiled, topology: Topology) -> Roofline:
    """Returns the bounds of a step that was compiled for a topology.

    Products are those of the program, recomputed ones included. Its text lacks products inside Pallas kernels:
    attention kernels, the only ones, compute the scores once more in the backward pass than the model's FLOPs count,
    and the whole forward pass once more where layers are rematerialised. How well products use the matrix units is not
    considered.
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
    longest = max(seconds.values())
    return Roofline(compiled.model_flops, seconds, compiled.rows * compiled.sequence, share / chip.flops / longest)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Describes the whole run, with each step as fast as its bounds allow.

    Attributes:
      steps, tokens: totals of all phases.
      days: wall time.
      chip_hours: hours summed over all chips.
      mfu: model FLOPs utilisation of the whole run.
    """

    steps: int
    tokens: int
    days: float
    chip_hours: float
    mfu: float


def schedule(config: ml_collections.ConfigDict, rooflines: list[Roofline], topology: Topology) -> Schedule:
    """Returns the schedule of a whole run, given the bounds of each phase's step."""
    steps = [phase.stop - phase.start for phase in config_lib.phases(config)]
    pairs = list(zip(steps, rooflines, strict=True))
    seconds = sum(count * bounds.step_seconds for count, bounds in pairs)
    used = sum(count * bounds.model_flops for count, bounds in pairs)
    hours = seconds / 3600
    return Schedule(
        steps=sum(steps),
        tokens=sum(count * bounds.tokens for count, bounds in pairs),
        days=hours / 24,
        chip_hours=hours * topology.num_chips,
        mfu=used / (seconds * topology.num_devices * topology.chip.flops) if seconds else 0.0,
    )
