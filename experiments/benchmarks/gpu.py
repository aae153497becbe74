"""Compares training and inference of BERT with transformers under torch.compile, on one GPU.

    python -m experiments.benchmarks.gpu                             all rows; writes experiments/results/gpu.md
    python -m experiments.benchmarks.gpu --only=Large-512 --what=train
    python -m experiments.benchmarks.gpu --size=smoke                a tiny model, also where there is no GPU

Both sides have the same sizes, rows and predicted tokens, and full rows. They compute in bfloat16 from float32
parameters, with dropout 0.1 on hidden states and none on attention weights, so that both can use flash kernels; they
clip by global norm and use AdamW. torch uses SDPA (without a mask, so that its flash kernel can run), autocast and
fused AdamW. bert_jax computes logits of the predicted tokens alone, BertForPreTraining of every token;
--torch_head=predicted gives torch the same saving. Inference computes the last layer's hidden states from bfloat16
weights.

The number of rows is the largest of a list that fits both sides. Each side is a process of its own, one after the
other. MFU, the model FLOPs utilization, counts the model's FLOPs (model/flops.py; no recomputation) relative to the
card's dense rate in its data sheet; beside it stands their share of the rate that XLA reaches in a large matrix
product in the same process. Needs jax, flax, optax, torch and transformers alone.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from importlib import metadata

# name: layers, hidden, heads, intermediate
SIZES = {"Base": (12, 768, 12, 3072), "Large": (24, 1024, 16, 4096)}
# tokens a row: predicted tokens, and numbers of rows to try
LENGTHS = {128: (19, (512, 256, 128, 64, 32)), 512: (76, (128, 64, 32, 16, 8))}
SMOKE_SIZES, SMOKE_LENGTHS = {"Tiny": (2, 64, 2, 128)}, {32: (5, (4,))}
SMOKE_HEADER = "| | rows x tokens | |\n|---|---|---|"
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "gpu.md"
HEADER = (
    "| | rows x tokens, predicted a row | torch, tokens/s | ours, tokens/s | ratio, median (range of rounds) "
    "| torch, MFU | ours, MFU | ours, share of matrix rate | matrix rate, TFLOP/s | peak memory torch / ours, GiB "
    "| first step torch / ours, s |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def run(job, limit):
    """Returns the output of gpu_sides for a job; `full` says that memory was too small, `failed` what else failed."""
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.94"} | os.environ
    command = [sys.executable, "-m", "experiments.benchmarks.gpu_sides", json.dumps(job)]
    folder = pathlib.Path(__file__).parents[2]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit} s"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": f"its process ended with {done.returncode}"}


def compare(name, job, candidates, limit):
    """Returns the cells of a table row, at the first number of `candidates` rows that fits both sides."""
    measured = {}
    for rows in candidates:
        for side in ("ours", "torch"):
            measured[side] = run(job | {"side": side, "rows": rows}, limit)
            if measured[side].get("full"):
                print(f"{name}: {rows} rows are too many for {side}", file=sys.stderr, flush=True)
                break
        else:
            return cells(name, job | {"rows": rows}, measured)
    return [name, "no number of rows fits"]


def ran(name, job, limit):
    """Returns the cells of a row of the smoke size: that both sides run, and no speed, which would mean nothing."""
    sides = {side: run(job | {"side": side}, limit) for side in ("ours", "torch")}
    failed = [f"{side}: {facts['failed']}" for side, facts in sides.items() if "failed" in facts]
    return [name, f"{job['rows']} x {job['length']}", *(failed or ["both sides ran"])]


def cells(name, job, measured):
    shape = f"{job['rows']} x {job['length']}" + (f", {job['slots']}" if job["what"] == "train" else "")
    failed = [f"{side}: {facts['failed']}" for side, facts in measured.items() if "failed" in facts]
    ours, theirs = measured["ours"], measured["torch"]
    if failed:
        return [name, shape, *failed]
    ratios = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
    medians = {side: statistics.median(facts["seconds"]) for side, facts in measured.items()}
    tokens = job["rows"] * job["length"]
    peak, flops = ours["peak_flops"], ours["flops"]
    mfu = {side: f"{flops / seconds / peak:.1%}" if peak else "" for side, seconds in medians.items()}
    return [
        name,
        shape,
        f"{tokens / medians['torch']:,.0f}",
        f"{tokens / medians['ours']:,.0f}",
        f"**{medians['torch'] / medians['ours']:.2f}** ({min(ratios):.2f}-{max(ratios):.2f})",
        mfu["torch"],
        f"**{mfu['ours']}**" if peak else "",
        f"{flops / medians['ours'] / ours['matrix_rate']:.1%}",
        f"{ours['matrix_rate'] / 1e12:.3g}",
        " / ".join(f"{measured[side]['peak_memory'] / 2**30:.1f}" for side in ("torch", "ours")),
        " / ".join(f"{measured[side]['compiled']:.0f}" for side in ("torch", "ours")),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("auto", "full", "smoke"), default="auto", help="auto: full on a GPU")
    parser.add_argument("--only", default="", help="rows, such as Large-512,Base-128; default all")
    parser.add_argument("--what", default="train,inference", help="train, inference or both")
    parser.add_argument("--rows", type=int, default=0, help="rows of a batch, instead of the most that fit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="in a round; by default 10, of smoke 2")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--kernel", default="", help="ours: model.attention_kernel; by default cudnn, on a CPU xla")
    parser.add_argument("--remat", default="none", help="ours: model.remat")
    parser.add_argument("--scan", action="store_true", help="ours: model.scan_layers")
    parser.add_argument("--microbatches", type=int, default=1, help="ours: train.microbatches")
    parser.add_argument("--logits_chunk", type=int, default=0, help="ours: train.logits_chunk")
    parser.add_argument("--torch_head", choices=("all", "predicted"), default="all", help="whose logits torch computes")
    parser.add_argument("--torch_backend", default="inductor", help="of torch.compile")
    parser.add_argument("--limit", type=int, default=540, help="seconds that a side's process may take")
    parser.add_argument("--output", type=pathlib.Path, help="by default the results file, if all rows ran on a GPU")
    options = parser.parse_args()
    machine = run({}, options.limit)
    if "failed" in machine:
        sys.exit(f"error: jax does not start: {machine['failed']}")
    smoke = options.size == "smoke" or (options.size == "auto" and not machine["gpu"])
    sizes, lengths = (SMOKE_SIZES, SMOKE_LENGTHS) if smoke else (SIZES, LENGTHS)
    wanted = [name for name in options.only.split(",") if name]
    known = [f"{size}-{length}" for size in sizes for length in lengths]
    if set(wanted) - set(known):
        sys.exit(f"error: --only={options.only}: expected some of {', '.join(known)}")
    lines = [*introduction(machine, options), "", SMOKE_HEADER if smoke else HEADER]
    print("\n".join(lines), flush=True)
    for work in options.what.split(","):
        for size, length in ((size, length) for size in sizes for length in lengths):
            if wanted and f"{size}-{length}" not in wanted:
                continue
            slots, candidates = lengths[length]
            job = {
                "what": work, "sizes": sizes[size], "length": length, "slots": slots, "dtype": options.dtype,
                "kernel": options.kernel or ("cudnn" if machine["gpu"] else "xla"), "remat": options.remat,
                "scan": options.scan, "microbatches": options.microbatches, "logits_chunk": options.logits_chunk,
                "torch_head": options.torch_head, "torch_backend": options.torch_backend, "rounds": options.rounds,
                "steps": options.steps or (2 if smoke else 10), "matrix": 8192 if machine["gpu"] else 512,
            }  # fmt: skip
            if smoke:
                row = ran(f"{size} {work}", job | {"rows": options.rows or candidates[0]}, options.limit)
            else:
                row = compare(f"{size} {work}", job, (options.rows,) if options.rows else candidates, options.limit)
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    output = options.output or (RESULTS if machine["gpu"] and not (smoke or wanted) else None)
    if output:
        output.write_text("\n".join(lines) + "\n")


def introduction(machine, options):
    arguments = "".join(f" {argument}" for argument in sys.argv[1:])
    packages = ("jax", "flax", "optax", "torch", "transformers")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    yield "# BERT on one GPU, beside transformers under torch.compile"
    yield ""
    if not machine["gpu"]:
        yield "**No GPU row has been measured: there was none.** What follows says that the benchmark runs, on a CPU"
        yield "and at a toy size, whose speeds would mean nothing and are left out."
        yield ""
    yield (
        f"`python -m experiments.benchmarks.gpu{arguments}` on {machine['device']}; Python "
        f"{platform.python_version()}, {versions}. {options.dtype}; dropout 0.1 of hidden states and none of attention "
        f"weights on both sides; logits of torch: {options.torch_head}, of ours: predicted. {options.rounds} rounds; "
        "what is compared is said in the file."
    )


if __name__ == "__main__":
    main()
