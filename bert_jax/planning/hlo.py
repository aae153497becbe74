"""Parses the HLO text of a compiled program: its computations, and how often each runs in a step.

It reads what counting collectives, memory traffic and products needs: shapes on one device, operands, calls and loops.
The grammar is described at openxla.org/xla/hlo; the forms handled are those that the CPU and TPU compilers of jaxlib
were seen to print.
"""

import dataclasses
import functools
import math
import re

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|branch_computations)=\{?((?:%[\w.\-]+(?:, ?)?)+)")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_BEGIN = re.compile(r"(?:ENTRY )?%?[\w.\-]+ \(.*\{$|\}$|\}, execution_thread|  (?:ROOT )?%?[\w.\-]+ = ")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TILES = re.compile(r"T((?:\([\d,]+\))+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """Describes an array type.

    Attributes:
      dtype: HLO's name of the dtype.
      dimensions: the sizes of the dimensions.
      memory_space: number of the memory space (0: HBM).
      order: the dimensions from the one whose elements are next to each other to the slowest.
      tiles: sizes of the tiles that the last dimensions of this order are stored in, and of the tiles of these.
    """

    dtype: str
    dimensions: tuple[int, ...]
    memory_space: int = 0
    order: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()

    @property
    def size(self) -> int:
        """Returns the number of elements."""
        return math.prod(self.dimensions)

    @property
    def bytes(self) -> int:
        """Returns the size in bytes, without the padding of the layout's tiles."""
        return -(-self.size * bits(self.dtype) // 8)

    @property
    def padded_bytes(self) -> int:
        """Returns the size in bytes that it takes up in memory, with the padding of the layout's tiles.

        A tile counts the dimensions from the last one; those of the next tile are those of the one before it
        (openxla.org/xla/tiled_layout).
        """
        sizes = [self.dimensions[axis] for axis in reversed(self.order)]
        for tile in self.tiles:
            sizes = [1] * (len(tile) - len(sizes)) + sizes
            tiled = sizes[len(sizes) - len(tile) :]
            counts = [-(-size // length) for size, length in zip(tiled, tile, strict=True)]
            sizes = [*sizes[: len(sizes) - len(tile)], *counts, *tile]
        return -(-math.prod(sizes if self.tiles else self.dimensions) * bits(self.dtype) // 8)


@dataclasses.dataclass
class Instruction:
    """Holds one line of a computation.

    Attributes:
      name: the name, without "%".
      arrays: types of the result's arrays; several for a tuple.
      opcode: the operation, such as "fusion".
      operands: names of the instructions that it reads.
      literal: the text between the parentheses.
      attributes: the text after the parentheses.
      root: whether its result is the computation's.
    """

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    root: bool

    @functools.cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Returns the names of the computations that it calls, by the attribute that names them."""
        return {kind: tuple(_NAME.findall(names)) for kind, names in _CALLED.findall(self.attributes)}

    @property
    def bytes(self) -> int:
        """Returns the size of the results in bytes, without padding."""
        return sum(array.bytes for array in self.arrays)

    def attribute(self, name: str) -> str | None:
        """Returns the text of a plain attribute such as channel_id=3; None if it is absent."""
        match = re.search(rf"\b{name}=([^,\s{{]+)", self.attributes)
        return match and match[1]


@dataclasses.dataclass
class Program:
    """Holds a compiled program.

    Attributes:
      computations: instructions by computation's and instruction's name, in the text's order.
      entry: name of the computation that runs first.
      runs: how often each computation runs in a step; the body of a fusion runs as often as the fusion.
      fused: names of the computations that are bodies of fusions: instructions inside them do not access HBM.
      unknown_loops: names of loops whose number of iterations is not in the text; counted as one iteration.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str
    runs: dict[str, int]
    fused: set[str]
    unknown_loops: list[str]

    def instructions(self):
        """Yields (computation's name, instruction, how often it runs in a step) for each instruction that runs."""
        for name, computation in self.computations.items():
            if self.runs.get(name):
                for instruction in computation.values():
                    yield name, instruction, self.runs[name]


def parse(text: str) -> Program:
    """Parses the text of `compiled.as_text()`."""
    computations, current, entry = {}, None, ""
    for line in _lines(text):
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = computations[head[2]] = {}
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    runs, fused, unknown = _runs(computations, entry)
    return Program(computations, entry, runs, fused, unknown)


def bits(dtype: str) -> int:
    """Returns the number of bits of an element; 0 for types without data."""
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def integers(text: str) -> list[int]:
    """Returns the integers of a list separated by commas, "8,16"."""
    return [int(number) for number in text.split(",")]


def brackets(text: str, start: int) -> int:
    """Returns the index after the bracket that closes the one at `start`; those in string literals do not count."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    opened, closes, depth, quoted = text[start], pairs[text[start]], 0, False
    for place in range(start, len(text)):
        character = text[place]
        if character == '"':
            quoted = not quoted
        elif not quoted and character in (opened, closes):
            depth += 1 if character == opened else -1
            if not depth:
                return place + 1
    return len(text)


def arrays_of(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a type as HLO writes it, "f32[8,128]{1,0}"; several for a tuple."""
    arrays = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        dimensions = tuple(int(size.strip().lstrip("<=")) for size in sizes.split(",") if size.strip())
        order, _, rest = layout.partition(":")
        tiles = _TILES.match(rest)
        tile_sizes = re.findall(r"\(([\d,]+)\)", tiles[1]) if tiles else []
        arrays.append(
            Array(
                dtype,
                dimensions,
                int(space[1]) if space else 0,
                tuple(integers(order)) if order else (),
                tuple(tuple(integers(tile)) for tile in tile_sizes),
            )
        )
    return tuple(arrays)


def _lines(text):
    """Yields the lines of a text; those that an attribute breaks are joined."""
    joined = ""
    for line in text.splitlines():
        if _BEGIN.match(line):
            if joined:
                yield joined
            joined = line
        elif joined:
            joined += line
    yield joined


def _instruction(line):
    name, _, rest = line.strip().partition(" = ")
    root = name.startswith("ROOT ")
    end = brackets(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opens = rest.find("(")
    closes = brackets(rest, opens)
    literal = rest[opens + 1 : closes - 1]
    return Instruction(
        name.removeprefix("ROOT ").lstrip("%"),
        arrays_of(shape),
        rest[:opens],
        tuple(_NAME.findall(literal)),
        literal,
        rest[closes:].lstrip(", "),
        root,
    )


def _runs(computations, entry):
    """Returns (how often each computation runs, bodies of fusions, unknown loops); callees precede their callers."""
    runs, fused, unknown = dict.fromkeys(computations, 0), set(), []
    runs[entry] = 1
    for name in reversed(computations):
        if not runs[name]:
            continue
        for instruction in computations[name].values():
            times = runs[name]
            if instruction.opcode == "while":
                iterations = _iterations(instruction, computations[name], computations)
                if iterations is None:
                    unknown.append(instruction.name)
                times *= 1 if iterations is None else iterations
            elif instruction.opcode not in ("fusion", "call", "conditional", "async-start"):
                continue  # reductions and sorts call computations on single numbers
            for kind, names in instruction.called.items():
                for called in names:
                    runs[called] += times
                    if instruction.opcode == "fusion" and kind == "calls" or name in fused:
                        fused.add(called)
    return runs, fused, unknown


def _iterations(loop, computation, computations):
    """Returns the iterations of a loop that counts up by a constant step to a constant; None for any other loop."""
    known = _TRIP_COUNT.search(loop.attributes)
    if known:
        return int(known[1])
    condition = computations[loop.called["condition"][0]]
    root = next(instruction for instruction in condition.values() if instruction.root)
    if root.opcode != "compare" or root.attribute("direction") != "LT":
        return None
    counter, limit = (condition[name] for name in root.operands)
    start, step = None, 1
    if counter.opcode == "get-tuple-element":
        place = int(counter.attribute("index"))
        inits = computation[loop.operands[0]]
        if inits.opcode == "tuple":
            start = _constant(inits.operands[place], computation)
        step = _step(computations[loop.called["body"][0]], place)
    stop = _constant(limit.name, condition)
    return None if stop is None or not step else max(0, -(-(stop - (start or 0)) // step))


def _step(body, place):
    """Returns what a loop's body adds to the element of its state at a place; None if it does something else."""
    root = next(instruction for instruction in body.values() if instruction.root)
    if root.opcode != "tuple":
        return None
    added, total = body[root.operands[place]], 0
    while added.opcode in ("add", "copy", "bitcast"):
        steps = [_constant(name, body) for name in added.operands]
        if steps.count(None) != 1:
            return None
        total += sum(step for step in steps if step is not None)
        added = body[added.operands[steps.index(None)]]
    counts = added.opcode == "get-tuple-element" and added.attribute("index") == str(place)
    return total if counts else None


def _constant(name, computation):
    """Returns the integer that an instruction stands for; None if it is not a constant."""
    instruction = computation[name]
    while instruction.opcode in ("copy", "convert", "bitcast"):
        instruction = computation[instruction.operands[0]]
    if instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.literal):
        return None
    return int(instruction.literal)
