"""Adds up the times of a compiled program's operations in the order that the compiler gave them.

An operation takes the longer of its products and its bytes, at the chip's published rates. What runs beside operations,
from the instruction that begins it to the one that waits for it, costs what they leave of it: collectives go over their
links while operations run, one after the other on each kind of link; copies to and from the chip's own memory go while
operations leave HBM alone. Nothing else is known of a chip, so that real times are longer.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from bert_jax.planning import collectives as collectives_lib
from bert_jax.planning import traffic
from bert_jax.planning.chips import Topology
from bert_jax.planning.hlo import Instruction, Program

_LINKS = ("ici", "dcn")
_BESIDE = ("hbm", *_LINKS)  # what serves copies and collectives while operations run


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Holds the times of a step, in seconds.

    Attributes:
      seconds: the whole step.
      exposed: time in which operations wait for collectives, by link: "ici" and "dcn".
    """

    seconds: float = 0.0
    exposed: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(_LINKS, 0.0))


def timeline(program: Program, topology: Topology, devices: Sequence) -> Timeline:
    """Returns the times of a program's step.

    Args:
      program: the program, compiled for `devices`.
      topology: the topology of the devices.
      devices: the devices in the mesh's order, by which the program's groups number them.
    """
    times = {}
    for name in program.computations:  # callees precede their callers
        if program.runs[name] and name not in program.fused:
            times[name] = _Clock(program, name, topology, devices, times).run()
    return times[program.entry]


class _Clock:
    """Runs through one computation; `times` has the timelines of those that it calls.

    A transfer is what runs beside operations: the seconds that it needs of each of _BESIDE. Its key is the name of the
    instruction that begins it, or what its parts in several fusions share.
    """

    def __init__(self, program, name, topology, devices, times):
        self._program, self._name, self._computation = program, name, program.computations[name]
        self._topology, self._devices, self._times = topology, devices, times
        self._seconds = 0.0
        self._exposed = dict.fromkeys(_LINKS, 0.0)
        self._pending = {resource: {} for resource in _BESIDE}  # seconds that are left, by key, in their order

    def run(self):
        transfers = {name: self._transfers(instruction) for name, instruction in self._computation.items()}
        last = {key: name for name, keys in transfers.items() for key in keys}
        begun = set()
        for name, instruction in self._computation.items():
            for key, needed in transfers[name].items():
                if key not in begun:
                    begun.add(key)
                    for resource, seconds in needed.items():
                        self._pending[resource][key] = seconds
            self._do(instruction, transfers[name])
            if not _begins(instruction):
                for key in transfers[name]:
                    if last[key] == name:
                        self._wait(key)
        for key in {key: None for pending in self._pending.values() for key in pending}:
            self._wait(key)
        return Timeline(self._seconds, self._exposed)

    def _do(self, instruction, transfers):
        """Lets the time of an operation or a call pass, or waits for the transfer that an instruction ends."""
        opcode = instruction.opcode
        if opcode in ("while", "call", "conditional"):
            self._call(instruction)
        elif opcode == "recv-done":  # what comes is sent while ours is
            for key in list(self._pending["dcn"]):
                self._wait(key)
        elif opcode.endswith("-done"):
            self._wait(instruction.operands[0])
        elif opcode == "fusion" or not transfers:
            products = traffic.flops(self._program, self._computation, instruction) / self._topology.chip.flops
            on_hbm = self._on_hbm(traffic.moved(self._program, self._computation, instruction))
            self._pass(max(products, on_hbm), on_hbm)

    def _call(self, instruction):
        called = [name for names in instruction.called.values() for name in names if name in self._times]
        if instruction.opcode == "conditional":
            called = [max(called, key=lambda name: self._times[name].seconds)]
        rounds = 1
        if instruction.opcode == "while":
            rounds = self._program.runs[instruction.called["body"][0]] // self._program.runs[self._name]
        for times in (self._times[name] for name in called):
            self._pass(rounds * times.seconds, rounds * times.seconds, links_idle=False)
            for link in _LINKS:
                self._exposed[link] += rounds * times.exposed[link]

    def _transfers(self, instruction):
        """Returns the transfers that an instruction begins, or has a part of."""
        opcode = instruction.opcode
        if opcode == "fusion":
            return self._in_fusion(instruction)
        if opcode == "async-start":
            (called,) = instruction.called["calls"]
            return {instruction.name: self._in_called(called)}
        needed = self._on_links(instruction, self._name)
        if not needed and not _begins(instruction):
            return {}
        reads = [instruction] if not _begins(instruction) else [
            user for user in self._computation.values()
            if user.opcode.endswith("-done") and user.operands[:1] == (instruction.name,)
        ]  # fmt: skip
        moved = sum(traffic.moved(self._program, self._computation, read) for read in reads)
        return {instruction.name: needed | {"hbm": self._on_hbm(moved)}}

    def _in_fusion(self, fusion):
        (body,) = fusion.called["calls"]
        transfers = {}
        for inner in self._program.computations[body].values():
            if inner.opcode == "fusion":
                transfers |= self._in_fusion(inner)
            elif needed := self._on_links(inner, body):
                key = collectives_lib.chain_of(inner) or (fusion.name, inner.name)
                transfers[key] = needed | {"hbm": self._on_hbm(2 * traffic.in_hbm(inner))}
        return transfers

    def _in_called(self, name):
        """Returns the seconds of _BESIDE that a computation needs which runs beside operations as a whole."""
        computation, total = self._program.computations[name], dict.fromkeys(_BESIDE, 0.0)
        for inner in computation.values():
            fused = self._in_fusion(inner).values() if inner.opcode == "fusion" else ()
            for needed in (self._on_links(inner, name), *fused):
                for resource, seconds in needed.items():
                    total[resource] += seconds
            total["hbm"] += self._on_hbm(traffic.moved(self._program, computation, inner))
        return total

    def _on_links(self, instruction, computation):
        """Returns the seconds that a collective needs of its link; {} for anything else."""
        part = collectives_lib.collective(instruction, computation, self._topology, self._devices)
        return {part.link: part.seconds} if part is not None and part.link in _LINKS else {}

    def _on_hbm(self, size):
        return size * self._topology.chip.devices / self._topology.chip.hbm_bandwidth

    def _pass(self, seconds, on_hbm, links_idle=True):
        """Lets time pass in which HBM is busy for a part, and links serve what is pending if they are idle."""
        self._seconds += seconds
        self._serve("hbm", seconds - on_hbm)
        for link in _LINKS if links_idle else ():
            self._serve(link, seconds)

    def _serve(self, resource, seconds):
        pending = self._pending[resource]
        for key in list(pending):
            served = min(seconds, pending[key])
            seconds -= served
            pending[key] -= served
            if pending[key]:
                break
            del pending[key]

    def _wait(self, key):
        """Waits until a transfer is done, and so are those before it on the same link."""
        for resource in _BESIDE[::-1]:
            pending = self._pending[resource]
            if key not in pending:
                continue
            keys = list(pending)
            seconds = sum(pending[before] for before in keys[: keys.index(key) + 1])
            self._seconds += seconds
            if resource in _LINKS:
                self._exposed[resource] += seconds
            for other in _BESIDE:
                self._serve(other, seconds)
            pending.pop(key, None)  # what rounding left of it


def _begins(instruction: Instruction) -> bool:
    return instruction.opcode.endswith("-start") or instruction.opcode == "send"
