"""Measures dropout by source of random bits: the hash of an element's index, and jax.random's generators.

    python -m experiments.benchmarks.dropout_bits             writes experiments/results/dropout_bits.md

Each row is one dropout of rate 0.1 between an addition and a product, forward and backward, as in a layer of BERT-Base
at 16 rows of 128 tokens. The kinds take turns, and medians are compared. Runs on jax's default device.
"""

import argparse
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp

from bert_jax.model import layers

SHAPES = {"hidden states": (16, 128, 768), "attention weights": (16, 12, 128, 128)}
SMALL = {"hidden states": (2, 8, 16)}  # a quick check that it runs
GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")
RATE, ROUNDS = 0.1, 30
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "dropout_bits.md"


def hashed(x, key):
    return layers.dropout(x, RATE, layers.dropout_seeds(key))


def drawn(x, key):
    return jnp.where(jax.random.bernoulli(key, 1.0 - RATE, x.shape), x / (1.0 - RATE), 0.0)


def kinds():
    """Returns {name: (dropout function, its key)}."""
    kinds = {"none": (lambda x, key: x, jax.random.key(0)), "hash": (hashed, jax.random.key(0))}
    return kinds | {name: (drawn, jax.random.key(0, impl=name)) for name in GENERATORS}


def programs(shape):
    """Returns {name: a function that runs one forward and backward pass and waits for it}."""

    def program(dropout, key):
        def loss(x, residual, scale):
            return (jnp.tanh(residual + dropout(x + residual, key)) * scale).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        arrays = jax.random.normal(jax.random.key(1), (3, *shape))
        return lambda: jax.block_until_ready(gradient(*arrays))

    return {name: program(*kind) for name, kind in kinds().items()}


def measure(shape, rounds):
    """Returns the median seconds of each kind; they take turns."""
    run = programs(shape)
    times = {name: [] for name in run}
    for turn in range(rounds + 2):
        for name, once in run.items():
            begin = time.perf_counter()
            once()
            if turn >= 2:  # the first ones compile and warm up
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny shapes, printed only: to see that it runs")
    arguments = parser.parse_args()
    shapes, rounds = (SMALL, 3) if arguments.small else (SHAPES, ROUNDS)
    measured = {name: measure(shape, rounds) for name, shape in shapes.items()}
    names = list(kinds())
    device = jax.devices()[0]
    lines = [
        "# Dropout bits",
        "",
        f"`python -m experiments.benchmarks.dropout_bits`, {device.device_kind}, {os.cpu_count()} cores, "
        f"jax {jax.__version__}: milliseconds of one dropout, forward and backward, median of {rounds}.",
        "",
        "| | shape | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name, times in measured.items():
        cells = (f"{1e3 * times[kind]:.2f}" for kind in names)
        lines.append(f"| {name} | {' x '.join(map(str, shapes[name]))} | {' | '.join(cells)} |")
    lines += [
        "",
        "The hash is what the model uses: it depends on neither sharding nor platform nor vmap, the backward pass "
        "computes it again, and it fuses into the arithmetic around it.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.small:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
