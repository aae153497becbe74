"""BM25 and TF-IDF against their formulas written out."""

import collections
import math
import re

import numpy as np

from experiments import lexical

DOCUMENTS = ["the cat sat on the mat", "a dog barked at the cat", "birds sing", "The the THE mat"]
QUERIES = ["cat mat", "the dog", "unknown", "birds birds"]


def words(text):
    return re.findall(r"\w+", text.lower())


def written_out(query, kind):
    """Returns the score of each document."""
    counts = [collections.Counter(words(document)) for document in DOCUMENTS]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / len(lengths)

    def rarity(word):
        number = sum(word in count for count in counts)
        return math.log(1 + (len(DOCUMENTS) - number + 0.5) / (number + 0.5))

    scores = []
    for count, length in zip(counts, lengths, strict=True):
        if kind == "BM25":
            norm = lexical.K1 * (1 - lexical.B + lexical.B * length / mean)
            weight = {word: n * (lexical.K1 + 1) / (n + norm) * rarity(word) for word, n in count.items()}
        else:
            size = math.sqrt(sum((n * rarity(word)) ** 2 for word, n in count.items()))
            weight = {word: n * rarity(word) ** 2 / size for word, n in count.items()}
        scores.append(sum(weight.get(word, 0.0) for word in words(query)))
    return scores


def test_rankings():
    for kind, weigh in lexical.WEIGHTS.items():
        ranked = lexical.nearest(QUERIES, DOCUMENTS, 4, weigh)
        for query, row in zip(QUERIES, ranked, strict=True):
            expected = np.argsort(-np.array(written_out(query, kind)), kind="stable")
            np.testing.assert_array_equal(row, expected, err_msg=f"{kind} {query}")
    assert lexical.nearest(QUERIES, DOCUMENTS, 2, lexical.bm25).shape == (4, 2)
