"""Measures how long the training step takes to compile, by number of layers, scanned and unrolled.

    python -m experiments.benchmarks.compile_time                    writes experiments/results/compile_time.md
    python -m experiments.benchmarks.compile_time --depths=2,4 --targets=cpu --hidden=128

The step is the one of pretrain, with layers of BERT Large: on this machine's CPU at 8 x 128, and ahead of time for a
TPU slice (with libtpu, no TPU needed) at 256 x 512, in bfloat16 with the attention kernel of TPUs. Each value is the
seconds of tracing and of compiling in a process of its own without a compilation cache.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from importlib import metadata

from bert_jax.planning.hlo import integers
from experiments.benchmarks.settings import VOCABULARY, model_settings, run_settings

DEPTHS = (2, 6, 12, 24)
ON_CPU, ON_TPU = (8, 128, 19), (256, 512, 76)  # rows, tokens a row, predicted tokens a row
BAR = 3.0  # unrolled / scanned, of BERT Large's 24 layers
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "compile_time.md"


def compile_step(target, layers, hidden, scan):
    """Returns the seconds of tracing and of compiling; `target` is "cpu" or a topology such as v5e:4x4."""
    import jax

    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.processes.private_jax import topologies
    from bert_jax.training import step as step_lib

    on_cpu = target == "cpu"
    if on_cpu:
        devices, (rows, length, slots) = jax.devices()[:1], ON_CPU
    else:
        devices, (rows, length, slots) = topologies().get_topology_desc(target, "tpu").devices, ON_TPU
    config = run_settings(
        model_settings(
            layers, hidden, hidden // 64, 4 * hidden, dtype="float32" if on_cpu else "bfloat16", scan_layers=scan,
            attention_dropout=0.1 if on_cpu else 0.0,
        )
    )  # fmt: skip
    model = model_lib.build(config.model, VOCABULARY, platform="cpu" if on_cpu else "tpu")
    mesh = sharding.make_mesh(config.mesh, devices)
    state = step_lib.abstract_state(config, model, mesh, 1000)
    shapes = {
        "input_ids": (rows, length), "attention_mask": (rows, length), "token_type_ids": (rows, length),
        "masked_positions": (rows, slots), "masked_labels": (rows, slots), "next_sentence_label": (rows,),
    }  # fmt: skip
    batch_layout = sharding.batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, "int32", sharding=batch_layout) for name, shape in shapes.items()}
    batch["masked_weights"] = jax.ShapeDtypeStruct((rows, slots), "float32", sharding=batch_layout)
    everywhere = sharding.replicated(mesh)
    number = jax.ShapeDtypeStruct((), "int32", sharding=everywhere)
    key = jax.eval_shape(lambda: step_lib.dropout_key(config))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
    began = time.perf_counter()
    lowered = step_lib.make_train_step(config, model, mesh, 1000).lower(state, batch, number, key)
    traced = time.perf_counter()
    lowered.compile()
    return {"trace": traced - began, "compile": time.perf_counter() - traced}


def in_a_process(*job):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "JAX_ENABLE_COMPILATION_CACHE": "false",
    }  # fmt: skip
    command = [sys.executable, "-m", "experiments.benchmarks.compile_time", f"--job={json.dumps(job)}"]
    folder = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        sys.exit(f"{done.stderr}error: compiling for {job[0]} failed")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=integers, default=DEPTHS, help="layers")
    parser.add_argument("--hidden", type=int, default=1024, help="units of a layer, in heads of 64")
    parser.add_argument("--targets", default="cpu,v5e:4x4", help="cpu, and topologies that libtpu knows")
    parser.add_argument("--output", type=pathlib.Path, help="by default the results file, if nothing was chosen")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(compile_step(*json.loads(options.job))))
        return
    arguments = "".join(f" {argument}" for argument in sys.argv[1:])
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "jaxlib", "flax"))
    lines = [
        "# How long a training step takes to compile",
        "",
        f"`python -m experiments.benchmarks.compile_time{arguments}`; layers of {options.hidden}; seconds of tracing "
        f"+ compiling, each in a process of its own. {os.cpu_count()} cores, {platform.machine()}, {versions}. The "
        f"bar is a ratio of {BAR:g} for the 24 layers of BERT Large.",
        "",
        "| compiled for | layers | unrolled, s | scanned, s | unrolled / scanned |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for target in options.targets.split(","):
        for layers in options.depths:
            times_by_scan = {scan: in_a_process(target, layers, options.hidden, scan) for scan in (False, True)}
            ratio = sum(times_by_scan[False].values()) / sum(times_by_scan[True].values())
            seconds = [
                f"{times_by_scan[scan]['trace']:.1f} + {times_by_scan[scan]['compile']:.1f}" for scan in (False, True)
            ]
            lines.append(f"| {target} | {layers} | {seconds[0]} | {seconds[1]} | **{ratio:.1f}** |")
            print(lines[-1], flush=True)
    output = options.output or (None if arguments else RESULTS)
    if output:
        output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
