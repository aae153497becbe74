"""Compares the memory that a run's start estimates with what the compiler reports and what the process takes, on a CPU.

    python -m experiments.benchmarks.memory [--cases=small,albert_base] [--results=FILE]

Each case is a run of four steps in a process of its own, with a checkpoint in between and at the end, and an evaluation
(for fine-tuning none before the end). Prints Markdown and writes it to experiments/results/memory.md.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile

import jax
from absl import app, flags

from bert_jax import config as config_lib
from bert_jax import sharding
from bert_jax.data import mixture, tasks
from bert_jax.data.preparation import pipeline
from bert_jax.finetuning import description
from bert_jax.finetuning import run as finetuning
from bert_jax.finetuning.lowering import FinetuningSteps
from bert_jax.processes import machine
from bert_jax.runs.models import open_model
from bert_jax.training import lowering, memory, pretraining

_CASES = flags.DEFINE_list("cases", None, "names of the cases to run; default: all")
_RESULTS = flags.DEFINE_string("results", "experiments/results/memory.md", "where the table goes")
_CASE = flags.DEFINE_string("case", None, "the case to run in this process")
_FOLDER = flags.DEFINE_string("folder", None, "folder of corpus and runs")

_SHORT = {"data.sequence_length": 128, "data.phases": ()}
# name -> (recipe, changes of its config)
CASES = {
    "quickstart": ("quickstart", {}),
    "small": ("small", {}),
    "bert_base": ("bert_base", _SHORT | {"data.batch_size": 8}),
    "bert_base with 4 layers and microbatches": (
        "bert_base", _SHORT | {"model.num_layers": 4, "data.batch_size": 32, "train.microbatches": 4}),
    "bert_large with 4 layers and remat": (
        "bert_large", _SHORT | {"model.num_layers": 4, "data.batch_size": 8, "model.remat": "full"}),
    "roberta_base with 3 layers": (
        "roberta_base", {"model.num_layers": 3, "model.position_offset": 1, "data.batch_size": 4, "data.phases": ()}),
    "albert_base": ("albert_base", _SHORT | {"data.batch_size": 8}),
    "electra_small": ("electra_small", _SHORT | {"data.batch_size": 16}),
    "deberta_v3_small with 3 layers": ("deberta_v3_small", _SHORT | {"model.num_layers": 3, "data.batch_size": 4}),
    "modernbert_base with 7 layers": (
        "modernbert_base", {"model.num_layers": 7, "data.sequence_length": 256, "data.batch_size": 4,
                            "data.phases": ()}),
    "finetune/sst2 of bert_base": ("finetune/sst2", {"data.batch_size": 16}),
}  # fmt: skip
_STARTS_FROM = "bert_base"
_GIB = 2**30


def main(argv):
    del argv
    if _CASE.value:
        print(json.dumps(measure(_CASE.value, pathlib.Path(_FOLDER.value))))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        make_data(pathlib.Path(folder))
        for name in _CASES.value or CASES:
            command = [sys.executable, "-m", "experiments.benchmarks.memory", f"--case={name}", f"--folder={folder}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
            if done.returncode:
                print(f"{name}: exit code {done.returncode}", file=sys.stderr)
                continue
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, rows[name], file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    pathlib.Path(_RESULTS.value).write_text(text)


def make_data(folder: pathlib.Path) -> None:
    """Writes random text with BERT's number of words, a corpus of it, and a labelled file."""
    draw = random.Random(0)
    words = [f"w{i}" for i in range(30_516)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]) + "\n")
    with open(folder / "text.txt", "w") as file:
        for _ in range(400):
            file.writelines(f"{' '.join(draw.choices(words, k=15))} .\n" for _ in range(40))
            file.write("\n")
    with open(folder / "train.csv", "w") as file:
        file.write("sentence,label\n")
        file.writelines(f"{' '.join(draw.choices(words, k=300))},{i % 2}\n" for i in range(300))
    settings = pipeline.Settings(str(folder / "text.txt"), str(folder / "vocab.txt"))
    pipeline.prepare(settings, folder / "corpus")


def measure(name: str, folder: pathlib.Path) -> dict:
    """Runs a case. Returns bytes: estimates of step and process, the compiler's report, and the process's peak."""
    recipe, changes = CASES[name]
    config = config_lib.load_recipe(recipe)
    config.update_from_flattened_dict(changes)
    tuning = "task" in config
    start = {"train.num_steps": 4, "train.log_every": 1, "train.compilation_cache": "", "train.memory_check": "off"}
    start |= {"train.checkpoint_every": 2, "train.eval_every": 4 if tuning else 2}
    if tuning:
        start |= {"init_from": str(folder / _STARTS_FROM), "task.train": str(folder / "train.csv")}
        start |= {"task.held_out": "", "task.text": "sentence"}
    else:
        start |= {"data.corpus": str(folder / "corpus"), "train.num_tokens": 0, "train.eval_batches": 2}
        start |= {"data.workers": 0, "model.vocab_size": 0}
    config.update_from_flattened_dict(start)
    steps = finetuning_steps(config) if tuning else pretraining_steps(config)
    need, held = memory.estimate(steps), machine.held_memory()
    workdir = folder / name
    (finetuning.finetune if tuning else pretraining.pretrain)(config, workdir)
    peak = machine.peak_memory()
    lowered, unread = steps.train(steps.layers)
    compiled = memory.program_bytes(lowered, steps.mesh, quick=False) + unread
    return {
        "step": need.step, "compiled": compiled, "process": held + need.total, "peak": peak, "held": held,
        "evaluation": need.evaluation, "state": need.state, "rough": steps.rough(),
    }  # fmt: skip


def pretraining_steps(config):
    """Returns the steps of a pre-training run."""
    config = config.copy_and_resolve_references()
    config.model.vocab_size = mixture.open_corpora(config)[0].vocab_size
    return lowering.PretrainingSteps(config, sharding.make_mesh(config.mesh))


def finetuning_steps(config):
    """Returns the steps of a fine-tuning run."""
    source = open_model(config.init_from)
    task = tasks.load(config, source.tokenizer)
    run = description.describe_run(config, source, task)
    return FinetuningSteps(config, sharding.make_mesh(config.mesh), run, task)


def table(rows: dict[str, dict]) -> str:
    """Returns the results as Markdown."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax"))
    lines = [
        "# What a run's memory is estimated at, and what it is",
        "",
        "`python -m experiments.benchmarks.memory`: the estimate of `bert_jax/training/memory.py`, made before a step "
        "is compiled; what the compiler reports of the step as it is run; and the peak of the process's resident "
        "memory in a run of four steps with two checkpoints and an evaluation. Batches as in the recipes or as `CASES` "
        f"in the benchmark says; float32 on a CPU, {jax.device_count()} device, {platform.machine()}, {versions}.",
        "",
        "| run | step, estimated | compiler | ratio | process, estimated | process | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        gib = {key: f"{value / _GIB:.2f} GiB" for key, value in row.items()}
        lines.append(
            f"| {name} | {gib['step']} | {gib['compiled']} | **{row['step'] / row['compiled']:.3f}** "
            f"| {gib['process']} | {gib['peak']} | **{row['process'] / row['peak']:.2f}** |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
