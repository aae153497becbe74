"""Lists published data of TPU chips and of GPUs, and topologies of them.

Sources for TPUs: the pages of docs.cloud.google.com/tpu/docs for v4, v5e, v5p, v6e and tpu7x (compute, HBM,
bidirectional ICI bandwidth per chip, data centre network); jax-ml.github.io/scaling-book/tpus (v4's links, where rings
close). For GPUs: NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM and B200 (HBM, NVLink) and of the DGX
machines with eight of each (network adapters); the sizes that the compiler reads are those of
xla/backends/gpu/target_config/specs at github.com/openxla/xla. FLOP/s are in bert_jax.model.flops, whose table the
training log reads too.
"""

import dataclasses
import math
import re

from bert_jax.config.schema import closest
from bert_jax.errors import UserError

GIB = 2**30
LARGEST_SLICES = 1_024  # the most slices of a topology, as libtpu describes every device of them


@dataclasses.dataclass(frozen=True)
class Target:
    """Describes a GPU to the compiler; sizes in bytes.

    Attributes:
      capability: compute capability, major number.
      cores: number of multiprocessors.
      units: floating-point units of a multiprocessor.
      shared: shared memory of a multiprocessor; a program can have a KiB less.
      cache: L2 cache.
      clock: GHz.
    """

    capability: int
    cores: int
    units: int
    shared: int
    cache: int
    clock: float


@dataclasses.dataclass(frozen=True)
class Chip:
    """Describes a generation of TPUs, or a GPU. Bandwidths are in bytes/s.

    A "slice" of GPUs is one machine: its GPUs are joined by NVLink, machines by their network adapters.

    Attributes:
      name: the maker's name.
      libtpu: name in topologies, which for TPUs is libtpu's.
      kind: JAX's name of its devices (device_kind).
      devices: number of JAX devices on a chip.
      hbm: bytes per chip, from the data sheet.
      usable_hbm: bytes per device that the compiler lets a program fill; of a GPU, what JAX takes by default (75 %).
      hbm_bandwidth: HBM bandwidth per chip.
      link_bandwidth: bandwidth of one ICI link in one direction, of which a chip has two along each dimension of its
        slice; of a GPU, that of all its NVLinks in one direction.
      dimensions: number of dimensions of a slice.
      ring: a dimension of a slice is a closed ring if this divides its size, and a line otherwise; in slices of three
        dimensions, which are cubes joined by switches, all or none are rings.
      dcn_bandwidth: a chip's share of its host's network bandwidth.
      largest: number of chips of the largest slice.
      options: arguments of libtpu's description of a topology.
      examples: topologies that messages and tables name.
      target: what the compiler reads of a GPU; None for TPUs.
    """

    name: str
    libtpu: str
    kind: str
    devices: int
    hbm: int
    usable_hbm: int
    hbm_bandwidth: float
    link_bandwidth: float
    dimensions: int
    ring: int
    dcn_bandwidth: float
    largest: int
    options: tuple[tuple[str, str], ...] = ()
    examples: tuple[str, ...] = ()
    target: Target | None = None

    @property
    def is_gpu(self) -> bool:
        """Returns whether it is a GPU."""
        return self.target is not None

    @property
    def flops(self) -> float:
        """Returns the peak FLOP/s of one device, dense bfloat16."""
        from bert_jax.model import flops  # which imports jax, for a second: the help of plan needs no peak

        peak = flops.peak_flops_of_kind(self.kind)
        assert peak is not None, f"no peak FLOP/s for {self.kind}"
        return peak


CHIPS = (
    # 32 GiB and 1,200 GB/s; links of 45 GB/s each way (scaling book); 25 GB/s of network for a host of four (same).
    # Two cores, which "megacore" makes one device, as Cloud TPU does; libtpu's own default is one device a core.
    Chip(
        "v4", "v4", "TPU v4", 1, 32 * GIB, int(30.75 * GIB), 1200e9, 45e9, 3, 4, 6.25e9, 4096,
        (("chip_config_name", "megacore"),), ("v4:2x2x1", "v4:2x2x4", "v4:4x4x4"),
    ),
    # 16 GB and 819 GB/s; 400 GB/s of ICI both ways over four ports; 6.4 Tb/s of network for a pod of 256.
    Chip(
        "v5e", "v5e", "TPU v5 lite", 1, 16 * GIB, int(15.75 * GIB), 819e9, 50e9, 2, 16, 3.125e9, 256,
        (), ("v5e:1x1", "v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16"),
    ),
    # 95 GiB and 2,765 GB/s; 1,200 GB/s of ICI both ways over six ports; 50 Gb/s of network per chip. One device a chip.
    Chip(
        "v5p", "v5p", "TPU v5", 1, 95 * GIB, int(95.74 * GIB), 2765e9, 100e9, 3, 4, 6.25e9, 6144,
        (), ("v5p:2x2x1", "v5p:2x2x2", "v5p:4x4x4", "v5p:8x8x8"),
    ),
    # 32 GB and 1,638 GB/s; 800 GB/s of ICI both ways over four ports; 100 Gb/s of network per chip.
    Chip(
        "v6e", "v6e", "TPU v6 lite", 1, 32 * GIB, int(31.25 * GIB), 1638e9, 100e9, 2, 16, 12.5e9, 256,
        (), ("v6e:1x1", "v6e:2x2", "v6e:4x4", "v6e:8x8", "v6e:16x16"),
    ),
    # 192 GiB and 7,380 GB/s; 1,200 GB/s of ICI both ways over six ports; 100 Gb/s of network per chip. Two chiplets,
    # each a device with half of the chip's memory and compute.
    Chip(
        "v7x", "tpu7x", "TPU7x", 2, 192 * GIB, int(94.75 * GIB), 7380e9, 100e9, 3, 4, 12.5e9, 9216,
        (), ("tpu7x:2x2x1", "tpu7x:2x2x2", "tpu7x:4x4x4"),
    ),
)  # fmt: skip

_GPUS_OF_A_MACHINE = 8


def _gpu(name, kind, memory, hbm_bandwidth, link_bandwidth, network_bandwidth, target):
    sizes = (1, _GPUS_OF_A_MACHINE)
    return Chip(
        name, name, kind, 1, memory, int(0.75 * memory), hbm_bandwidth, link_bandwidth, 1, 1, network_bandwidth,
        _GPUS_OF_A_MACHINE, (), tuple(f"{name}:{size}" for size in sizes), target,
    )  # fmt: skip


_HOPPER = Target(9, 132, 128, 233_472, 50 << 20, 1.98)

CHIPS += (
    # 80 GB and 2,039 GB/s; 600 GB/s of NVLink both ways; an adapter of 200 Gb/s for each GPU.
    _gpu(
        "a100", "NVIDIA A100-SXM4-80GB", 85_100_068_864, 2039e9, 300e9, 25e9,
        Target(8, 108, 64, 167_936, 40 << 20, 1.41)),
    # 80 GB and 3.35 TB/s; 900 GB/s of NVLink both ways; an adapter of 400 Gb/s for each GPU.
    _gpu("h100", "NVIDIA H100 80GB HBM3", 84_942_979_072, 3350e9, 450e9, 50e9, _HOPPER),
    # 141 GB and 4.8 TB/s; links and adapters as of the H100.
    _gpu("h200", "NVIDIA H200", 151_397_597_184, 4800e9, 450e9, 50e9, _HOPPER),
    # 180 GB and 8 TB/s; 1.8 TB/s of NVLink both ways; an adapter of 400 Gb/s for each GPU.
    _gpu(
        "b200", "NVIDIA B200", 191_514_411_008, 8000e9, 900e9, 50e9,
        Target(10, 148, 128, 233_472, 132_644_864, 1.965)),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """Describes one slice, or several equal ones.

    Attributes:
      chip: the generation.
      shape: number of chips along each dimension of a slice.
      num_slices: number of slices, joined by the data centre network.
    """

    chip: Chip
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def name(self) -> str:
        """Returns the name of one slice, such as "v5e:4x4" (libtpu's name) or "h100:8"."""
        return f"{self.chip.libtpu}:{'x'.join(map(str, self.shape))}"

    @property
    def label(self) -> str:
        """Returns the name, with the number of slices if there are several."""
        return self.name if self.num_slices == 1 else f"{self.num_slices} x {self.name}"

    @property
    def num_chips(self) -> int:
        """Returns the number of chips of all slices."""
        return self.num_slices * math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """Returns the number of devices of all slices."""
        return self.num_chips * self.chip.devices

    @property
    def rings(self) -> tuple[bool, ...]:
        """Returns whether each dimension of a slice is a closed ring."""
        closed = tuple(size % self.chip.ring == 0 for size in self.shape)
        return closed if self.chip.dimensions == 2 else (all(closed),) * len(closed)

    @property
    def host(self) -> tuple[int, int, int]:
        """Returns the number of chips of one host along each dimension: four in all, or those of a smaller slice."""
        sizes = (*self.shape, 1)[:3]
        return (sizes[0] if sizes[0] < 2 else 2, sizes[1] if sizes[1] < 2 else 2, 1)


def parse(name: str, num_slices: int = 1) -> Topology:
    """Returns the topology of a name such as "v5e:4x4", "tpu7x:2x2x1" or "h100:8".

    Raises:
      UserError: no such topology.
    """
    if not 1 <= num_slices <= LARGEST_SLICES:
        raise UserError(f"--num_slices={num_slices}: expected a number from 1 to {LARGEST_SLICES:,}")
    generation, _, sizes = name.partition(":")
    chip = next((chip for chip in CHIPS if generation in (chip.name, chip.libtpu)), None)
    if chip is None:
        near = closest(generation, [chip.libtpu for chip in CHIPS]) or f"; known: {', '.join(examples())}, or all"
        raise UserError(f"--topology={name}: no such TPU or GPU{near}")
    known = ", ".join(chip.examples)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes) or sizes.count("x") + 1 != chip.dimensions:
        expected = "x".join("ABC"[: chip.dimensions])
        raise UserError(f"--topology={name}: expected {chip.libtpu}:{expected}, such as {known}")
    shape = tuple(int(size) for size in sizes.split("x"))
    if math.prod(shape) > chip.largest:
        raise UserError(
            f"--topology={name}: {math.prod(shape):,} chips; a slice of {chip.name} has at most {chip.largest:,}; "
            "more are several slices (--num_slices)"
        )
    return Topology(chip, shape, num_slices)


def examples() -> list[str]:
    """Returns names of a few topologies of each generation."""
    return [name for chip in CHIPS for name in chip.examples]
