"""Compiles training steps for TPUs with and without what makes them fast, and counts both the same way.

    python -m experiments.benchmarks.step_gains            writes experiments/results/step_gains.md
    python -m experiments.benchmarks.step_gains --cases 0 3

Nothing runs: each step is compiled ahead of time (bert_jax.planning), in a process of its own, and its program is
counted. A result is kept in step_gains.json beside the table, and is not made again while jax, libtpu and its case
stay what they are.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import subprocess
import sys

from bert_jax import files

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "step_gains.md"
PLAIN_ATTENTION = {"model.attention_kernel": "xla"}
GIB = 2**30

HEAD = """# What makes steps fast on TPUs

`python -m experiments.benchmarks.step_gains`, with {versions}. Nothing has run: each training step was compiled for the
topology as its recipe has it (`model.scan_layers=True`; with the changes named), without a feature and with it, and the
programs were counted the same way. HBM: what a chip moves to and from its memory in a step. Links: time that
collectives take, and what of it the program waits for. Bound: the longer of all products and all bytes, with what is
waited for. Sum: operations one after the other; MFU by it. Memory: what a chip needs at most.

"""
COLUMNS = (
    "| recipe, phase | topology | changes | what | HBM, GiB | bytes, ms | links, ms | waited, ms | bound, ms | sum, ms "
    "| MFU | memory, GiB |\n|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Describes a step and the feature that is left out of it.

    Attributes:
      recipe: the recipe.
      phase: number of the phase, counted from 0; -1 for the last.
      topology: the topology.
      feature: what is left out.
      without: config keys that leave it out; a key of WITHOUT is a part of the program.
      changes: config keys of both steps.
    """

    recipe: str
    phase: int
    topology: str
    feature: str
    without: dict = dataclasses.field(default_factory=lambda: PLAIN_ATTENTION)
    changes: dict = dataclasses.field(default_factory=dict)


KERNEL, DISTANCES, ROTARY = "kernel `row`", "distances in `row`", "rotary and windows in `row`"
ONCE, WHOLE = "gradients reduced once", "parameters gathered whole"
REDUCED_EACH, WINDOWED = {"step.reduce_once": False}, {"compiler.options": False}
CASES = (
    Case("bert_base", -1, "v5e:4x4", KERNEL),
    Case("bert_large", -1, "v5e:4x4", KERNEL),
    Case("bert_large", -1, "v4:2x2x4", KERNEL),
    Case("bert_large", -1, "v5p:2x2x2", KERNEL),
    Case("bert_large", -1, "v6e:4x4", KERNEL),
    Case("bert_large", -1, "v5e:4x4", WHOLE, WINDOWED, {"mesh.fsdp": 16}),
    Case("roberta_base", -1, "v5e:4x4", KERNEL, changes={"train.microbatches": 16}),
    Case("roberta_large", -1, "v5e:4x4", ONCE, REDUCED_EACH, {"train.microbatches": 64}),
    Case("modernbert_base", 0, "v5e:4x4", ROTARY, changes={"train.microbatches": 4, "model.remat": "full"}),
    Case("deberta_v3_base", -1, "v5e:4x4", DISTANCES, changes={"train.microbatches": 64}),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers of cases, from 0")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--compile", type=json.loads, help=argparse.SUPPRESS)  # a step, printed as JSON
    flags = parser.parse_args()
    if flags.compile:
        print(json.dumps(counted(**flags.compile)))
        return
    saved = flags.output.with_suffix(".json")
    results = json.loads(saved.read_text("utf-8")) if saved.exists() else []
    for number in flags.cases:
        for settings in steps(CASES[number]):
            basis = {"versions": versions()} | settings
            if not any(basis.items() <= result.items() for result in results):
                results = [result for result in results if not settings.items() <= result.items()]
                results.append(basis | {"counts": compiled(settings)})
                files.atomic_write(saved, json.dumps(results, indent=1) + "\n")
                files.atomic_write(flags.output, table(results))


def steps(case: Case) -> list[dict]:
    """Returns the settings of a case's two steps: without its feature, and with it."""
    settings = {"recipe": case.recipe, "phase": case.phase, "topology": case.topology}
    return [settings | {"changes": case.changes | case.without}, settings | {"changes": case.changes}]


def compiled(settings: dict) -> dict:
    """Returns `counted` of a step, in a process of its own."""
    print(settings, flush=True)
    command = [sys.executable, "-m", "experiments.benchmarks.step_gains", "--compile", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["the compiler crashed"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def counted(recipe: str, phase: int, topology: str, changes: dict) -> dict:
    """Compiles a step; returns bytes, seconds and FLOPs of it."""
    from bert_jax.planning import chips, compilation, devices, roofline

    devices.prepare_environment()
    from bert_jax import config as config_lib
    from bert_jax.training import compiler
    from bert_jax.training import step as step_lib

    config = config_lib.load_recipe(recipe)
    config.model.scan_layers = True
    keys = {name: value for name, value in changes.items() if name not in REDUCED_EACH | WINDOWED}
    config.update_from_flattened_dict(keys)
    if "compiler.options" in changes:
        compiler.OPTIONS = ()
    if "step.reduce_once" in changes:
        together = step_lib.gradient_and_sums
        step_lib.gradient_and_sums = lambda *arguments: together(*arguments[:6])
    place = chips.parse(topology)
    step = compilation.compile_phase(config, place, config_lib.phases(config)[phase])
    bounds = roofline.roofline(step, place)
    return {
        "hbm_bytes": step.hbm_bytes,
        "needed_bytes": step.needed,
        "seconds": bounds.seconds,
        "exposed": bounds.exposed,
        "step_seconds": bounds.step_seconds,
        "summed_seconds": bounds.summed_seconds,
        "summed_mfu": bounds.summed_mfu,
    }


def table(results: list[dict]) -> str:
    """Returns the Markdown of those cases whose steps are both there."""
    rows = []
    for case in CASES:
        pair = [
            next((result for result in results if settings.items() <= result.items()), None) for settings in steps(case)
        ]
        if None not in pair:
            for word, result in zip(("without", "with"), pair, strict=True):
                rows.append(row(case, f"{word} {case.feature}", result["counts"]))
    return HEAD.format(versions=versions()) + COLUMNS + "".join(rows)


def row(case: Case, step: str, counts: dict) -> str:
    """Returns a row of the table."""
    phase = "" if case.phase == -1 else f", phase {case.phase + 1}"
    changes = " ".join(f"`{name}={value}`" for name, value in case.changes.items())
    head = f"| `{case.recipe}`{phase} | {case.topology} | {changes} | {step} "
    if "error" in counts:
        return f"{head}| {counts['error']} |" + " |" * 7 + "\n"
    links = counts["seconds"]["ici"] + counts["seconds"]["dcn"]
    milliseconds = (counts["seconds"]["hbm"], links, sum(counts["exposed"].values()), counts["step_seconds"])
    times = " | ".join(f"{1e3 * seconds:.1f}" for seconds in (*milliseconds, counts["summed_seconds"]))
    return (
        f"{head}| {counts['hbm_bytes'] / GIB:.1f} | {times} | {100 * counts['summed_mfu']:.0f} % "
        f"| {counts['needed_bytes'] / GIB:.2f} |\n"
    )


def versions() -> str:
    """Returns the versions of jax and libtpu."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))


if __name__ == "__main__":
    main()
