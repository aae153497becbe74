"""Compares a search of nearest vectors with sentence-transformers' `semantic_search`, on the same CPU cores.

    python -m experiments.benchmarks.search                       prints Markdown tables
    python -m experiments.benchmarks.search --processor_time      for a busy machine

Both sides find the nearest of float32 vectors by cosine; ours orders them by scores in float64. Beside them are our
searches by int8 and binary copies of the vectors, rescored by the float ones. The vectors are random ones around 500
centres, so that a query has neighbours. The sides take turns (turns.py).
"""

import numpy as np

from experiments.benchmarks import turns

# name: documents, numbers of a vector, queries, top_k
SIZES = {"100,000 x 384, 1,000 queries, top 50": (100_000, 384, 1_000, 50)}
MULTIPLIER = 4  # candidates of a copy for each document that is wanted


def make_vectors(documents, size, queries):
    """Returns (queries, documents): float32 vectors around common centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((500, size))
    corpus = centres[rng.integers(0, 500, documents)] + 0.8 * rng.standard_normal((documents, size))
    asked = corpus[:queries] + 0.4 * rng.standard_normal((queries, size))
    return asked.astype(np.float32), corpus.astype(np.float32)


def search_by(precision, documents, size, queries, top_k):
    """Returns a function that searches and returns numbers of documents, int64 [queries, top_k]."""
    from bert_jax.inference import quantization
    from bert_jax.retrieval.index import Index
    from bert_jax.retrieval.quantised import Options, QuantisedIndex

    asked, corpus = make_vectors(documents, size, queries)
    index = Index((), corpus)
    if precision != "float32":
        ranges = quantization.ranges_of(corpus)
        codes = quantization.quantize(corpus, {"binary": "ubinary"}.get(precision, precision), ranges)
        index = QuantisedIndex(index, Options(precision, "float32", MULTIPLIER), codes, None, ranges)
    return lambda: index.nearest(asked, top_k, "cosine")[0]


def our_step(*sizes):
    """Returns (a function that searches the float vectors, FLOPs of the products of all pairs)."""
    return search_by("float32", *sizes), 2.0 * sizes[0] * sizes[1] * sizes[2]


def int8_step(*sizes):
    """Returns the same for int8 vectors."""
    return search_by("int8", *sizes), None


def binary_step(*sizes):
    """Returns the same for one bit for each number."""
    return search_by("binary", *sizes), None


def their_step(documents, size, queries, top_k):
    """Returns the same for sentence-transformers."""
    import torch
    from sentence_transformers import util

    torch.set_num_threads(turns.num_threads())
    asked, corpus = map(torch.from_numpy, make_vectors(documents, size, queries))
    return lambda: util.semantic_search(asked, corpus, top_k=top_k), None


def recall(*sizes):
    """Returns the share of the nearest float vectors that the other searches find, by precision."""
    exact = search_by("float32", *sizes)()
    shares = {}
    for precision in ("int8", "binary"):
        nearest = search_by(precision, *sizes)()
        shares[precision] = np.mean([np.isin(row, own).mean() for row, own in zip(exact, nearest, strict=True)])
    return shares


def main():
    options = turns.parser(__doc__).parse_args()
    turns.prepare(options)
    print("| vectors | semantic_search, ms (best) | ours, ms (best) | ratio, median of rounds (all) | int8 | binary |")
    print("|---|---|---|---|---|---|")
    for name, sizes in SIZES.items():
        seconds, _, _ = turns.measure(
            sizes, options.rounds, options.steps, our_step, theirs=their_step, int8=int8_step, binary=binary_step
        )
        ratio = turns.ratios_cell(seconds["theirs"], seconds["ours"])
        cells = [turns.times_cell(seconds[side]) for side in ("theirs", "ours", "int8", "binary")]
        print(f"| {name} | {cells[0]} | {cells[1]} | {ratio} | {cells[2]} | {cells[3]} |")
        shares = ", ".join(f"{precision} {share:.4f}" for precision, share in recall(*sizes).items())
        print(f"\nShare of the nearest float vectors that is found: {shares}.")
    print(turns.closing_line(options))


if __name__ == "__main__":
    main()
