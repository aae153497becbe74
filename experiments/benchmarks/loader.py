"""Measures the loader: instances per second on one core, for every input format and mask unit.

    python -m experiments.benchmarks.loader --corpus=DIR             writes experiments/results/loader.md

Batches are 256 rows of 128 tokens with dynamic masks.
"""

import os
import pathlib
import time

import numpy as np
from absl import app, flags

from bert_jax import config as config_lib
from bert_jax.data import loader, mixture

_CORPUS = flags.DEFINE_string("corpus", None, "a directory that bert_jax.prepare wrote", required=True)
_OUTPUT = flags.DEFINE_string("output", "experiments/results/loader.md", "file for the table")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "seconds measured for each row of the table")

_BATCH, _LENGTH = 256, 128
_BARS = {"full_sentences": 50_000, "segment_pair": 25_000}


def rate(format_: str, unit: str) -> float:
    """Returns the instances per second of one process."""
    config = config_lib.base()
    config.data.corpus = _CORPUS.value
    config.data.format = format_
    config.data.mask_unit = unit
    config.data.sequence_length = _LENGTH
    config.data.batch_size = _BATCH
    config.objective.next_sentence = format_ in config_lib.PAIR_FORMATS
    stream = loader.Stream(config)
    stream.batch(0)  # builds the index, maps the files
    rates = []
    step = 0
    for _ in range(3):
        began, first = time.perf_counter(), step
        while time.perf_counter() - began < _SECONDS.value / 3:
            step += 1
            stream.batch(step)
        rates.append((step - first) * _BATCH / (time.perf_counter() - began))
    return float(np.median(rates))


def main(argv):
    del argv
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    corpus = config_lib.base()
    corpus.data.corpus = _CORPUS.value
    tokens = sum(c.split("train").num_tokens for c in mixture.open_corpora(corpus))
    lines = [
        "# The loader alone",
        "",
        f"`python -m experiments.benchmarks.loader --corpus=DIR`, a corpus of {tokens:,} tokens; one process on "
        f"one CPU core; batches of {_BATCH} x {_LENGTH}, dynamic masks, from memory-mapped tokens to a masked "
        "batch. Median of three.",
        "",
        "| format | mask unit | instances/s | tokens/s | bar (instances/s) |",
        "|---|---|---|---|---|",
    ]
    for format_ in config_lib.FORMATS:
        for unit in ("token", "whole_word", "span"):
            per_second = rate(format_, unit)
            bar = f"{_BARS[format_]:,}" if format_ in _BARS and unit == "token" else ""
            lines.append(f"| {format_} | {unit} | {per_second:,.0f} | {per_second * _LENGTH:,.0f} | {bar} |")
            print(lines[-1], flush=True)
    pathlib.Path(_OUTPUT.value).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    app.run(main)
