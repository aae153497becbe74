"""Compares a step with cached gradients with plain steps over the same pairs: its memory, and its time.

    python -m experiments.benchmarks.cached_gradients                       prints a Markdown table
    python -m experiments.benchmarks.cached_gradients --processor_time      for a busy machine

A batch of many pairs is computed some rows at a time (config.loss.gradcache_rows; Gao et al. 2021), with every text
twice through the encoder. Beside it stands a plain step whose whole batch is as many rows, and as many of these steps
as the large batch has parts. Memory is what the compiler reports of each step: arrays that it makes beside the state.
Dropout is on. The two take turns (turns.py).
"""

import functools

import numpy as np

from experiments.benchmarks import turns
from experiments.benchmarks.embedder_step import our_learner, our_step

# name: layers, hidden, heads, intermediate, pairs, tokens a text, rows at a time
SIZES = {"6 x 384": (6, 384, 12, 1536, 2048, 64, 32)}


def temporary_bytes(*sizes):
    """Returns (bytes that a step makes beside its state and batch, bytes of the batch's vectors); sizes as our_step."""
    import jax

    learner, state, batch = our_learner(*sizes)
    moving = {name: state[name] for name in ("params", "opt_state", "bad_step")}
    lowered = learner.compiled_step.lower(
        moving, state["active"], state["frozen"], batch, np.int32(0), learner.dropout_keys()
    )
    vectors = 2 * sizes[4] * sizes[1] * np.dtype(np.float32).itemsize
    del state, moving
    jax.clear_caches()
    return lowered.compile().memory_analysis().temp_size_in_bytes, vectors


def plain(*sizes):
    """Returns `our_step` of a batch of as many pairs as the other side computes at a time."""
    return our_step(*sizes[:4], sizes[6], sizes[5])


def main():
    options = turns.parser(__doc__).parse_args()
    turns.prepare(options)
    print("| model | memory, MiB: cached | plain | vectors | cached / (plain + vectors) | ms: cached (best) | ", end="")
    print("plain steps over the same pairs (best) | time, cached / plain, median of rounds (all) |")
    print("|---|---|---|---|---|---|---|---|")
    for name, sizes in SIZES.items():
        parts = sizes[4] // sizes[6]
        cached, vectors = temporary_bytes(*sizes)
        alone, _ = temporary_bytes(*sizes[:4], sizes[6], sizes[5])
        seconds, _, _ = turns.measure(sizes, options.rounds, options.steps, our_step, plain=plain)
        together = [second * parts for second in seconds["plain"]]
        mebibytes = functools.partial("{:.0f}".format)
        cells = [
            f"{name}: {sizes[4]:,} pairs of {sizes[5]} tokens, {sizes[6]} at a time",
            *(mebibytes(size / 2**20) for size in (cached, alone, vectors)),
            f"**{cached / (alone + vectors):.3f}**",
            turns.times_cell(seconds["ours"]),
            turns.times_cell(together),
            turns.ratios_cell(seconds["ours"], together),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{turns.closing_line(options)}")


if __name__ == "__main__":
    main()
