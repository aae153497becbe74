"""Counts FLOPs of matrix products and bytes of HBM traffic of a compiled program in a step.

XLA's cost analysis counts the body of a loop once; here it counts as often as it runs. A fusion or a kernel moves each
of its operands and results once, with the padding of their tiles; arrays in the chip's own memory (memory spaces other
than 0) are not moved; a fusion that slices an operand moves the slice; an update in place moves the update. A Pallas
kernel's products are those of its cost estimate, where it has one.
"""

import re
from collections.abc import Mapping

import numpy as np

from bert_jax.planning.hlo import Instruction, Program

KERNEL = 'custom_call_target="tpu_custom_call"'  # a Pallas kernel for TPUs

_GPU_KERNEL = 'custom_call_target="__gpu$xla.gpu.triton"'
_KERNEL_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')

_NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "broadcast-start", "opt-barrier", "optimization-barrier", "send", "recv",
    "send-done", "recv-done", "async-start", "async-update", "async-done", "add-dependency",
}  # fmt: skip
_NO_TRAFFIC_TARGETS = (
    "AllocateBuffer", "AsyncCollectiveStart", "AsyncCollectiveDone", "AssumeGatherIndicesInBound", "ConcatBitcast",
    "SliceId", "Sharding", "ZeroCrop",
)  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def hbm_bytes(program: Program) -> int:
    """Returns the bytes that a device reads from its HBM and writes to it in a step."""
    total, seen = 0, set()
    for name, instruction, runs in program.instructions():
        if name in program.fused:
            # Collectives that are spread over several fusions count once, apart from the fusions' own traffic.
            if instruction.opcode in _COLLECTIVES:
                key = instruction.opcode, instruction.attribute("channel_id")
                if key not in seen:
                    seen.add(key)
                    total += runs * 2 * in_hbm(instruction)
            continue
        total += runs * moved(program, program.computations[name], instruction)
    return total


def multiplied(program: Program) -> tuple[float, int]:
    """Returns (FLOPs of a device's products in a step, number of kernels run whose FLOPs are not known)."""
    total, kernels = 0.0, 0
    for name, instruction, runs in program.instructions():
        if _is_kernel(instruction) and not _KERNEL_FLOPS.search(instruction.attributes):
            kernels += runs
        else:
            total += runs * _products(program.computations[name], instruction)
    return total, kernels


def flops(program: Program, computation: Mapping[str, Instruction], instruction: Instruction) -> float:
    """Returns the FLOPs of the matrix products of one run of an instruction, those inside a fusion included."""
    if instruction.opcode != "fusion":
        return _products(computation, instruction)
    body = program.computations[instruction.called["calls"][0]]
    return sum(flops(program, body, inner) for inner in body.values())


def _products(computation, instruction):
    if instruction.opcode in ("dot", "convolution"):
        return (_dot if instruction.opcode == "dot" else _convolution)(instruction, computation)
    estimate = _KERNEL_FLOPS.search(instruction.attributes) if _is_kernel(instruction) else None
    return float(estimate[1]) if estimate else 0.0


def _is_kernel(instruction):
    return any(target in instruction.attributes for target in (KERNEL, _GPU_KERNEL))


def moved(program: Program, computation: Mapping[str, Instruction], instruction: Instruction) -> int:
    """Returns the bytes that one run of an instruction moves to and from HBM; collectives in a fusion do not count."""
    opcode = instruction.opcode
    if opcode in _NO_TRAFFIC or opcode.endswith("-start"):
        return 0
    if opcode == "custom-call" and any(f'"{target}"' in instruction.attributes for target in _NO_TRAFFIC_TARGETS):
        return 0
    if opcode.endswith("-done"):
        start = computation.get(instruction.operands[0])
        source = computation.get(start.operands[0]) if start and start.operands else None
        read = sum(array.padded_bytes for array in instruction.arrays) if source is not None and in_hbm(source) else 0
        return read + in_hbm(instruction)
    if opcode == "fusion":
        return _fusion(program, computation, instruction)
    if opcode in _SLICES:
        return 2 * in_hbm(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * in_hbm(computation[instruction.operands[1]])
    read = sum(in_hbm(computation[name]) for name in instruction.operands if name in computation)
    return read + in_hbm(instruction)


def _fusion(program, computation, instruction):
    body = program.computations[instruction.called["calls"][0]]
    read = sum(
        min(in_hbm(computation[operand]), _read(program, body, place))
        for place, operand in enumerate(instruction.operands)
    )
    root = next(inner for inner in body.values() if inner.root)
    results = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    written = 0
    for result, array in zip(results, instruction.arrays, strict=False):
        if array.memory_space:
            continue
        result = _before_bitcasts(result, body)
        if result.opcode == "dynamic-update-slice":
            written += _stored(body[result.operands[1]])
        elif result.opcode != "parameter" and result.opcode not in _COLLECTIVES:
            written += array.padded_bytes
    return read + written


def _read(program, body, place):
    """Returns the bytes that a fusion's body reads of its operand number `place`."""
    parameter = next(i for i in body.values() if i.opcode == "parameter" and i.literal.strip() == str(place))
    size, total = _stored(parameter), 0
    pending = [parameter.name]
    while pending:
        name = pending.pop()
        for user in body.values():
            if name not in user.operands:
                continue
            if user.opcode == "bitcast":
                pending.append(user.name)
            elif user.opcode in _SLICES and user.operands[0] == name:
                total += user.arrays[0].size * size // max(1, parameter.arrays[0].size)
            elif user.opcode == "fusion":
                inner = program.computations[user.called["calls"][0]]
                total += sum(_read(program, inner, i) for i, operand in enumerate(user.operands) if operand == name)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                pass
            elif user.opcode not in ("tuple", *_COLLECTIVES) and user.opcode != "custom-call":
                return size
    return min(size, total)


def _before_bitcasts(instruction, body):
    while instruction.opcode == "bitcast":
        instruction = body[instruction.operands[0]]
    return instruction


def in_hbm(instruction: Instruction) -> int:
    """Returns the bytes of an instruction's results that lie in HBM."""
    return sum(array.padded_bytes for array in instruction.arrays if not array.memory_space)


def _stored(instruction):
    return sum(array.padded_bytes for array in instruction.arrays)


def _dot(instruction, computation):
    left = computation[instruction.operands[0]].arrays[0].dimensions
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    sizes = [left[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
    return 2.0 * instruction.arrays[0].size * np.prod(sizes)


def _convolution(instruction, computation):
    """Returns the FLOPs of a convolution, without products with padding.

    TPU programs have their matrix products in this form, with batches as windows.
    """
    left, right = (computation[name].arrays[0].dimensions for name in instruction.operands[:2])
    result = instruction.arrays[0].dimensions
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels, f"{instruction.name}: a convolution without dim_labels"
    left_sizes, right_sizes, result_sizes = (
        dict(zip(text, sizes, strict=True)) for text, sizes in zip(labels.groups(), (left, right, result), strict=True)
    )
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    products = 2.0 * result_sizes["b"] * result_sizes["f"] * right_sizes["i"]
    for axis in sorted(label for label in left_sizes if label.isdigit()):
        products *= _taps_on_inputs(left_sizes[axis], right_sizes[axis], result_sizes[axis], settings, int(axis))
    return products


def _taps_on_inputs(inputs, taps, outputs, settings, axis):
    """Counts the pairs of output and tap along an axis of a window whose tap lies on an input, not on padding."""

    def setting(name, default):
        return settings[name].split("x")[axis] if name in settings else default

    stride, dilation = int(setting("stride", 1)), int(setting("rhs_dilate", 1))
    spread, low = int(setting("lhs_dilate", 1)), int(setting("pad", "0_0").split("_")[0])
    places = np.arange(outputs)[:, None] * stride - low + np.arange(taps) * dilation
    return int(((places >= 0) & (places % spread == 0) & (places // spread < inputs)).sum())
