"""Measures resuming: seconds from process start to the first batch at steps 10 and 100,000, and at epoch ends.

    python -m experiments.benchmarks.resume [--corpus=DIR]

Without a corpus, it prepares the documentation of Python. Processes of the real command continue a small model from
checkpoints that differ in their step alone. Prints Markdown and writes it to experiments/results/resume.md.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import jax
from absl import app, flags

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.data import loader, mixture
from bert_jax.data.preparation import pipeline
from bert_jax.runs import checkpoints, workdir
from bert_jax.training import pretraining, step

_CORPUS = flags.DEFINE_string("corpus", None, "a prepared corpus")
_REPEATS = flags.DEFINE_integer("repeats", 5, "processes at each step, taken in turns")
_RESULTS = flags.DEFINE_string("results", "experiments/results/resume.md", "where the tables go")
_STEPS = (10, 100_000)

# All imports of the command, and its data: the rest of a start does not know the step.
_FIRST_BATCH = """
import pathlib, sys
from bert_jax.data import loader, mixture
from bert_jax.runs import workdir
from bert_jax.training import loop
config = workdir.read(pathlib.Path(sys.argv[1]))[1]
next(iter(loader.Loader(config, int(sys.argv[2]))))
print("first batch")
"""


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus = _CORPUS.value
        if not corpus:
            corpus = folder / "corpus"
            pipeline.prepare(pipeline.Settings("python-docs", "train:wordpiece:8192"), corpus)
        config = make_config(corpus)
        corpora = mixture.open_corpora(config)
        config.model.vocab_size = corpora[0].vocab_size
        loader.prepare_indexes(config)
        for done in _STEPS:
            make_run(folder / str(done), config, corpora, done)
        starts = {"first batch": {}, "first step trained and logged": {}}
        for _ in range(_REPEATS.value):
            for done in _STEPS:
                run = str(folder / str(done))
                batch = seconds_until("first batch", [sys.executable, "-c", _FIRST_BATCH, run, str(done)])
                starts["first batch"].setdefault(done, []).append(batch)
                flags_ = [f"--config={recipe(folder, config)}", f"--workdir={run}"]
                command = [sys.executable, "-m", "bert_jax.pretrain", *flags_]
                logged = seconds_until(f"step {done + 1:,}/", command)
                starts["first step trained and logged"].setdefault(done, []).append(logged)
        lines = [*start_table(starts), "", *epoch_table(folder / "epochs", config)]
    report = "\n".join([f"# Resuming\n\n{machine()}\n", *lines, ""])
    print(report)
    pathlib.Path(_RESULTS.value).write_text(report)


def make_config(corpus):
    config = config_lib.base()
    config.model.update(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=256, max_positions=128)
    config.data.update(corpus=str(corpus), sequence_length=128, batch_size=32)
    config.train.update(num_steps=1_000_000, log_every=1, eval_every=0, checkpoint_every=1_000_000)
    config.train.update(tensorboard=False)
    return config


def make_run(path, config, corpora, done):
    """Makes a workdir whose only checkpoint is of step `done`."""
    path.mkdir()
    workdir.write_pretraining(path, config, corpora)
    model = model_lib.build(config.model, config.model.vocab_size, next_sentence=True)
    mesh = sharding.make_mesh(config.mesh)
    saver = checkpoints.Checkpoints(path, config)
    saver.save(done, step.saved(step.init_state(config, model, mesh, config.train.num_steps), mesh))
    saver.close()


def recipe(folder, config):
    path = folder / "recipe.py"
    path.write_text(
        "import json\nfrom bert_jax.config import base\n\n\ndef get_config():\n    config = base()\n"
        f"    config.update(json.loads({json.dumps(config.to_dict())!r}))\n    return config\n"
    )
    return path


def seconds_until(text, command):
    """Returns the seconds until a process prints a line that begins with `text`; it is then killed."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith(text):
                seconds = time.perf_counter() - began
                process.kill()
                return seconds
    raise RuntimeError(f"{command}: ended without {text!r}")


def start_table(starts):
    yield "Seconds from the start of a process; median and range."
    yield ""
    yield "| until | " + " | ".join(f"at step {done:,}" for done in _STEPS) + " | ratio |"
    yield "|---|" + "---:|" * (len(_STEPS) + 1)
    for name, seconds in starts.items():
        medians = [statistics.median(seconds[done]) for done in _STEPS]
        cells = [
            f"{median:.2f} ({min(seconds[done]):.2f}-{max(seconds[done]):.2f})"
            for median, done in zip(medians, _STEPS, strict=True)
        ]
        yield f"| {name} | {' | '.join(cells)} | {medians[-1] / medians[0]:.2f} |"


def epoch_table(path, config):
    """Returns the step times around the ends of three epochs, and all others."""
    stream = loader.Stream(config)
    (source,) = stream.sources(stream.phases[0])
    epoch = int(source.counts[0]) / config.data.batch_size
    config.train.update(num_steps=int(3 * epoch) + 20, progress=False)
    pretraining.pretrain(config, path)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    tokens = config.data.batch_size * config.data.sequence_length
    times = {row["step"]: 1000 * tokens / row["tokens_per_second"] for row in rows if row["tokens_per_second"]}
    ends = [round(epoch * n) for n in (1, 2, 3)]
    around_ends = {step for end in ends for step in range(end - 2, end + 4)}
    around = [times[step] for step in sorted(around_ends & times.keys())]
    others = [milliseconds for step, milliseconds in times.items() if step not in around_ends and step != max(times)]
    yield f"Milliseconds a step, over three epochs of {epoch:.1f} steps."
    yield ""
    yield "| steps | number | median | 99th percentile | longest |"
    yield "|---|---:|---:|---:|---:|"
    for name, seconds in (("two before to three after an epoch's end", around), ("all others", others)):
        high = sorted(seconds)[int(0.99 * len(seconds))]
        yield f"| {name} | {len(seconds)} | {statistics.median(seconds):.1f} | {high:.1f} | {max(seconds):.1f} |"


def machine():
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "orbax-checkpoint", "grain"))
    return f"{os.cpu_count()} cores {platform.machine()}, {jax.default_backend()}; {versions}."


if __name__ == "__main__":
    app.run(main)
