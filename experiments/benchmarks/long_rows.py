"""Compares ModernBERT's alternating local and global attention with global attention alone, by row length.

    python -m experiments.benchmarks.long_rows             writes experiments/results/long_rows.md

The shape of ModernBERT-base (Warner et al. 2024, section 2: 22 layers, rotary positions, GeGLU, a window of 128 tokens
on two of three layers) at a smaller width, float32: one row of each length, no padding. Both programs differ in the
window alone and take turns; tokens/s are medians. Memory is what the compiled program needs beside its arguments; for
one local and one global layer, that of its forward and backward pass.
"""

import argparse
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp

from bert_jax import model as model_lib
from experiments.benchmarks.settings import model_settings

LAYERS, WIDTH, HEADS, UNITS, WINDOW = 22, 384, 6, 576, 128
LENGTHS = (1024, 2048, 4096, 8192)
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "long_rows.md"


def encoder(window, layers=LAYERS, global_every=3):
    """Returns ModernBERT's encoder, with a window or without."""
    settings = model_settings(
        layers, WIDTH, HEADS, UNITS, max_positions=LENGTHS[-1], type_vocab_size=0, positions="rotary",
        rotary_base=160_000.0, local_rotary_base=10_000.0, local_window=window, global_every=global_every, mlp="gated",
        norm_place="pre", first_norm=False, norm_bias=False, attention_bias=False, mlp_bias=False, norm_epsilon=1e-5,
        pooler=False, hidden_dropout=0.0, attention_dropout=0.0, vocab_size=1000,
    )  # fmt: skip
    return model_lib.build(settings, 1000, next_sentence=False, language_model=False)


def program(model, length, training):
    """Returns (the compiled function, its arguments)."""
    params = jax.jit(model.init)(jax.random.key(0))
    batch = {name: jnp.ones((1, length), jnp.int32) for name in ("input_ids", "attention_mask")}

    def forward(params, batch):
        return model.apply(params, batch)["hidden"]

    run = jax.grad(lambda params, batch: jnp.square(forward(params, batch)).mean()) if training else forward
    return jax.jit(run).lower(params, batch).compile(), (params, batch)


def measure(length, rounds):
    """Returns the median seconds of the two functions, which take turns."""
    sides = [program(encoder(window), length, training=False) for window in (WINDOW, 0)]
    times = [[], []]
    for turn in range(rounds + 1):
        for (run, arguments), seconds in zip(sides, times, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            if turn:
                seconds.append(time.perf_counter() - begin)
    return [statistics.median(seconds) for seconds in times]


def memory(length):
    """Returns the bytes that a local and a global layer add to a forward and backward pass at this length."""

    def needed(layers, window):  # with global_every=100 the first layer alone is global
        run, _ = program(encoder(window, layers, global_every=100), length, training=True)
        return run.memory_analysis().temp_size_in_bytes

    local = (needed(4, WINDOW) - needed(2, WINDOW)) / 2
    return local, (needed(4, 0) - needed(2, 0)) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--print", action="store_true", help="print the table and leave the recorded one as it is")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    lines = [
        "# Long rows",
        "",
        f"`python -m experiments.benchmarks.long_rows`, {device.device_kind}, {os.cpu_count()} cores, jax "
        f"{jax.__version__}: {LAYERS} layers of {WIDTH} ({HEADS} heads, {UNITS} gated units), window of {WINDOW} on "
        f"two of three layers, float32; forward pass of one row, median of {arguments.rounds}.",
        "",
        "| tokens a row | tokens/s with windows | tokens/s, all layers full | ratio "
        "| MiB a local layer adds in training | MiB a global layer adds |",
        "|---" * 6 + "|",
    ]
    for length in arguments.lengths:
        local_times, global_times = measure(length, arguments.rounds)
        local, full_memory = (f"{size / 2**20:,.0f}" for size in memory(length))
        speeds = f"{length / local_times:,.0f} | {length / global_times:,.0f} | {global_times / local_times:.2f}"
        lines.append(f"| {length} | {speeds} | {local} | {full_memory} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.print:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
