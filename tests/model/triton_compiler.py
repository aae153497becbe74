"""Compiles Pallas kernels for GPUs without one: by the compiler that XLA contains, as its own package has it.

python -m pytest -m triton tests/model      (make test-triton)
"""

import dataclasses
import pathlib
import re
import subprocess

import jax


@dataclasses.dataclass(frozen=True)
class Facts:
    """Says what a compiled kernel needs of a multiprocessor.

    Attributes:
      registers: registers of a thread.
      spilled_bytes: what a thread stores in memory for want of registers.
      shared_bytes: shared memory of a program.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int


def compiled(lowered: jax.stages.Lowered, architecture: int, folder: pathlib.Path) -> dict[str, Facts]:
    """Returns facts of every kernel of a program by name.

    Args:
      lowered: a program that was lowered for "cuda".
      architecture: compute capability of the GPU, such as 90 for an H100.
      folder: for the files of the compilers.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas

    facts = {}
    for name, text, options in _modules(lowered):
        path = folder / f"{name}.ttir"
        path.write_text(text, "utf-8")
        kernel = triton.compile(str(path), target=GPUTarget("cuda", architecture, 32), options=options)
        program = folder / f"{name}.ptx"
        program.write_text(kernel.asm["ptx"], "utf-8")
        chip = re.search(r"^\.target (\w+)", kernel.asm["ptx"], re.M)[1]
        output = folder / f"{name}.cubin"
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={chip}", str(program), "-o", str(output)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        spilled = int(re.search(r"(\d+) bytes spill stores", said)[1])
        facts[name] = Facts(int(re.search(r"Used (\d+) registers", said)[1]), spilled, kernel.metadata.shared)
    return facts


def _modules(lowered):
    """Yields (name, text for Triton, options of its compiler) of each kernel."""
    from jax._src.lib import triton as dialect
    from jax._src.lib.mlir import ir

    calls = []

    def visit(operation):
        if operation.name == "stablehlo.custom_call" and "mhlo.backend_config" in operation.attributes:
            calls.append({entry.name: entry.attr for entry in operation.attributes["mhlo.backend_config"]})
        return ir.WalkResult.ADVANCE

    lowered.compiler_ir().operation.walk(visit)
    for call in calls:
        with ir.Context() as context:
            dialect.dialect.register_dialect(context)
            module = ir.Module.parse(call["ir"].value_bytes)
            options = {name: call[name].value for name in ("num_warps", "num_stages")}
            yield call["name"].value, module.operation.get_asm(enable_debug_info=False), options
