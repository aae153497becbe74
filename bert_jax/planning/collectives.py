"""Lists the collectives that a compiled program runs in a step: how many bytes they move, and over which links."""

import collections
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from bert_jax import _moved
from bert_jax.planning.chips import Topology
from bert_jax.planning.hlo import Instruction, Program, brackets, integers

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Describes a group of equal collectives in a step.

    Attributes:
      kind: one of KINDS, or "send" for another transfer between slices.
      link: "ici" (within a slice), "dcn" (between slices) or "chip" (between the devices of one chip).
      count: number of them in a step.
      bytes: size on a device of the array that one of them gathers, reduces, scatters or sends.
      sent: bytes that a device has to send in one of them, whatever the algorithm.
      seconds: time of one of them at the links' published rates.
    """

    kind: str
    link: str
    count: int
    bytes: int
    sent: float
    seconds: float


def collectives(program: Program, topology: Topology, devices: Sequence) -> list[Collective]:
    """Returns the collectives of a step, equal ones counted together.

    Args:
      program: the program, compiled for `devices`.
      topology: the topology of the devices.
      devices: the devices in the mesh's order, by which the program's groups number them.
    """
    parts, seen = [], set()
    for computation, instruction, runs in program.instructions():
        # A collective that overlaps with products is spread over several fusions, and appears in each of them.
        if chain := chain_of(instruction):
            if chain in seen:
                continue
            seen.add(chain)
        part = collective(instruction, computation, topology, devices)
        if part is not None:
            parts.append(dataclasses.replace(part, count=runs))
    return _merged(parts)


def collective(instruction: Instruction, computation: str, topology: Topology, devices: Sequence) -> Collective | None:
    """Returns one run of the collective that an instruction is, or begins; None if it is something else.

    Args:
      instruction: the instruction.
      computation: name of its computation.
      topology, devices: as of `collectives`.
    """
    kind = _kind(instruction, computation)
    if kind is None:
        return None
    if instruction.opcode == "send":
        return _between_slices(kind, _size(instruction), topology)
    groups = groups_of(instruction.attributes, len(devices))
    return _cost(kind, _size(instruction), groups, topology, devices)


def chain_of(instruction: Instruction) -> tuple[str, str | None] | None:
    """Returns what the parts of a collective that is spread over several fusions share; None for any other."""
    if "async_collective_fusion_config" not in instruction.attributes:
        return None
    return instruction.opcode, instruction.attribute("channel_id")


def groups_of(attributes: str, num_devices: int) -> list[list[int]]:
    """Returns the groups of a collective's replica_groups or source_target_pairs, as indices of devices.

    It reads the three forms of openxla's replica_group.cc: lists, {{0,1},{2,3}}; iota, [2,2]<=[4] or
    [2,2]<=[2,2]T(1,0); and axes of a mesh, mesh['a'=2,'b'=2] {'b'}, which may have device_ids, as a list or an iota,
    and parts of axes, 'a':(1)2.
    """
    pairs = re.search(r"source_target_pairs=\{", attributes)
    if pairs:
        return _lists(attributes[pairs.end() - 1 : brackets(attributes, pairs.end() - 1)])
    groups = re.search(r"replica_groups=", attributes)
    text = attributes[groups.end() :] if groups else ""
    if text.startswith("mesh["):
        return _mesh_groups(text)
    iota = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        return _counted(iota[2], iota[3]).reshape(integers(iota[1])).tolist()
    groups = _lists(text[: brackets(text, 0)]) if text.startswith("{") else []
    return groups or [list(range(num_devices))]


def _kind(instruction, computation):
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "send":
        return _kind_of_send(instruction)
    if opcode not in KINDS:
        return None
    # The TPU compiler writes a reduce-scatter as the fusion of an all-reduce and the slice that is kept.
    return "reduce-scatter" if computation.startswith("all-reduce-scatter") else opcode


def _kind_of_send(instruction):
    """Returns the kind of a transfer between slices, which the host's runtime carries out; None for any other send."""
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    if transfer is None:
        return None
    kind = transfer[1].lower().replace("_", "-")
    return kind if kind in KINDS else "send"


def _size(instruction: Instruction) -> int:
    sizes = [array.bytes for array in instruction.arrays]
    if instruction.opcode in ("collective-permute-start", "send"):
        return sizes[0]
    if instruction.opcode == "all-gather-start":
        return sum(sizes[len(sizes) // 2 :])
    total = sum(sizes)
    if instruction.opcode == "reduce-scatter":  # whose result is one part
        return total * _group_size(instruction)
    return total


def _group_size(instruction):
    return len(groups_of(instruction.attributes, 1)[0])


def _between_slices(kind, size, topology):
    """Returns the collective in which a device exchanges `size` bytes with its peers of the other slices."""
    other_share = (topology.num_slices - 1) / topology.num_slices
    share = {"all-reduce": 2 * other_share, "reduce-scatter": other_share, "all-to-all": other_share}
    sent = size * share.get(kind, topology.num_slices - 1 if kind == "all-gather" else 1)
    return Collective(kind, "dcn", 1, size, sent, sent / _per_device(topology, "dcn_bandwidth"))


def _cost(kind, size, groups, topology, devices):
    """Returns a collective whose link, bytes to send and time are those of its slowest group."""
    costs = [_group_cost(kind, size, [devices[i] for i in group], topology) for group in _distinct(groups, devices)]
    link, sent, seconds = max(costs, key=lambda cost: cost[2])
    return Collective(kind, link, 1, size, sent, seconds)


def _group_cost(kind, size, members, topology):
    """Returns (link, bytes that a device sends, seconds).

    A device sends 2 (n-1)/n of its bytes to reduce them with n-1 others, (n-1)/n to gather, scatter or exchange them
    (scaling book, part 3). Over ICI all links of the dimensions that the group spans are used: two for a dimension
    that is a closed ring, one each way for a line. Devices of one chip count as one if they are in the same group, and
    share its links otherwise.
    """
    slices = {_slice(device) for device in members}
    chips = {(_slice(device), _coordinates(device)) for device in members}

    def part(n):
        if kind in ("collective-permute", "collective-broadcast"):
            return 1.0
        return (2.0 if kind == "all-reduce" else 1.0) * (n - 1) / n

    sent = size * part(len(members))
    chip = topology.chip
    if len(slices) > 1:
        # Each device of a slice carries its share of what leaves the slice.
        across = size * part(len(slices)) / (len(members) / len(slices))
        return "dcn", across, across / _per_device(topology, "dcn_bandwidth")
    if len(chips) == 1:
        return "chip", sent, 0.0
    if chip.is_gpu:  # joined by a switch, so that each has all of its links for any group
        return "ici", sent, sent / chip.link_bandwidth
    sharers = chip.devices / (len(members) / len(chips))
    spanned = [len({coords[i] for _, coords in chips}) for i in range(chip.dimensions)]
    links = sum(
        2 if ring and length == size_of_slice else 1
        for length, size_of_slice, ring in zip(spanned, topology.shape, topology.rings, strict=True)
        if length > 1
    )
    return "ici", sent, sharers * size * part(len(chips)) / (links * chip.link_bandwidth)


def _per_device(topology, name):
    """Returns a device's share of its chip's bandwidth."""
    return getattr(topology.chip, name) / topology.chip.devices


def _slice(device):
    """Returns the number of a device's slice, which is a GPU's machine."""
    if device.platform == "gpu":
        return device.process_index
    return getattr(device, "slice_index", 0) or 0


def _coordinates(device):
    """Returns the place of a device's chip in its slice."""
    return (device.id,) if device.platform == "gpu" else tuple(device.coords)


def _distinct(groups, devices):
    """Returns one group of each pattern of slices, chips and size."""
    patterns = {}
    for group in groups:
        members = [devices[i] for i in group]
        chips = {(_slice(device), _coordinates(device)) for device in members}
        spans = tuple(len(set(axis)) for axis in zip(*(coords for _, coords in chips), strict=True))
        patterns.setdefault((len(group), len({_slice(device) for device in members}), len(chips), spans), group)
    return patterns.values()


def _merged(parts):
    """Counts equal collectives together, ordered by KINDS, link and bytes."""
    counts = collections.Counter()
    for part in parts:
        counts[dataclasses.replace(part, count=0)] += part.count
    merged = [dataclasses.replace(part, count=count) for part, count in counts.items()]
    order = (*KINDS, "send")
    return sorted(merged, key=lambda part: (order.index(part.kind), part.link, -part.bytes * part.count))


def _lists(text):
    return [integers(numbers) for numbers in re.findall(r"\{([\d,]+)\}", text)]


def _mesh_groups(text):
    end = brackets(text, 4)
    axes = [(name, int(size)) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", text[5 : end - 1])]
    rest = text[end:]
    sizes = [size for _, size in axes]
    ids = np.arange(np.prod(sizes))
    permutation = re.match(r", device_ids=\(", rest)
    if permutation:
        closes = brackets(rest, permutation.end() - 1)
        ids = _device_ids(rest[permutation.end() : closes])
        rest = rest[closes:]
    chosen = re.search(r"\{([^}]*)\}", rest)
    assert chosen, f"no axes in {text}"
    parts = re.findall(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", chosen[1])
    # Each axis is split into the factor before a chosen part, the part, and the factor after it.
    shape, grouped = [], {}
    for name, size in axes:
        passed = 1
        for part, before, length in sorted((p for p in parts if p[0] == name), key=lambda p: int(p[1] or 1)):
            before, length = int(before or 1), int(length or size)
            shape.append(before // passed)
            grouped[part, str(before)] = len(shape)
            shape.append(length)
            passed = before * length
        shape.append(size // passed)
    chosen_axes = [grouped[name, before or "1"] for name, before, _ in parts]
    other_axes = [i for i in range(len(shape)) if i not in chosen_axes]
    group = int(np.prod([shape[i] for i in chosen_axes]))
    return ids.reshape(shape).transpose(other_axes + chosen_axes).reshape(-1, group).tolist()


def _device_ids(text):
    """Returns the ids of a mesh's devices, as nested lists or as an iota with its axes permuted: [4,4]T(1,0)."""
    iota = re.match(r"\[([\d,]+)\]T\(([\d,]+)\)", text)
    return _counted(iota[1], iota[2]) if iota else np.array([int(number) for number in re.findall(r"\d+", text)])


def _counted(shape, permutation):
    """Returns 0, 1, 2, ... in an array of a shape such as "2,4", with its axes permuted as in "1,0", or not."""
    numbers = np.arange(np.prod(integers(shape))).reshape(integers(shape))
    return numbers.transpose(integers(permutation)) if permutation else numbers


@_moved.renamed_arguments(found="parts")
def total(parts: Sequence[Collective], link: str) -> tuple[int, float, float]:
    """Returns (count, bytes that a device sends, seconds) in a step of all collectives over a link."""
    over_link = [part for part in parts if part.link == link]
    return (
        sum(part.count for part in over_link),
        sum(part.count * part.sent for part in over_link),
        sum(part.count * part.seconds for part in over_link),
    )
