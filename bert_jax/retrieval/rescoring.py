"""Scores mined documents again with a cross-encoder, or by late interaction."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from bert_jax.errors import UserError
from bert_jax.inference.multi_vector import MultiVectorReranker
from bert_jax.inference.rerank import Reranker
from bert_jax.model import parameters


def scores_of(
    reranker: Reranker | MultiVectorReranker, anchors: Sequence[str], documents: Sequence[Sequence[str]]
) -> list[np.ndarray]:
    """Returns the scores of each anchor's documents, float64 [documents].

    Args:
      reranker: the model.
      anchors: texts.
      documents: for each anchor, its texts.

    Raises:
      UserError: a score is not finite.
    """
    pairs = [(anchor, text) for anchor, texts in zip(anchors, documents, strict=True) for text in texts]
    answers = iter(reranker.stream(pairs, lambda i: f"document {pairs[i][1][:60]!r}", allow_empty=True))
    scores = [
        np.array([answer["score"] for answer in itertools.islice(answers, len(texts))], np.float64)
        for texts in documents
    ]
    for anchor, of_anchor in zip(anchors, scores, strict=True):
        if not np.isfinite(of_anchor).all():
            raise UserError(f"--rerank: a score of {anchor[:60]!r} is not finite; expected numbers (--dtype=float32?)")
    return scores


def fingerprint(reranker: Reranker | MultiVectorReranker) -> str:
    """Returns a hash of what a reranker's scores depend on: its parameters, settings and tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    plain: Mapping = {key: str(value) for key, value in reranker.model.settings.items()}
    digest.update(repr((sorted(plain.items()), reranker.tokenizer.digest(), reranker.max_length)).encode())
    arrays = parameters.leaves_by_name(reranker.model.params)
    for number, layer in enumerate(reranker.model.settings.get("late_layers", ())):
        arrays |= {f"layer {number} {name}": array for name, array in layer.arrays.items()}
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.shape} {array.dtype};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
