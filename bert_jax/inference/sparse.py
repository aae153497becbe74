"""Embeds texts as weights of the vocabulary's tokens, most of them 0: sparse vectors (SPLADE)."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from bert_jax.config.finetuning_keys import SPARSE_POOLING
from bert_jax.errors import UserError
from bert_jax.inference import search, windows
from bert_jax.inference.examples import check_count
from bert_jax.inference.other_libraries import check_options
from bert_jax.inference.predictor import Predictor, prompt_text
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model.pooling import SPARSE_ACTIVATIONS, pool_sparse

_BLOCK = 8192  # documents that are compared at once
_NUMBERS = 1 << 25  # weights, zeros too, that are held at once
_QUERIES = 256  # queries whose scores of a block are held at once
_KINDS = ("dot", "cosine")


class SparseEmbedder(Predictor):
    """Embeds texts as weights of the vocabulary's tokens, from the scores of a masked-language-model head.

        embedder = bert_jax.SparseEmbedder(MODEL)
        vectors = embedder.encode(["A cat sat.", "A dog ran."])  # scipy.sparse.csr_array, float32 [2, vocabulary]
        embedder.decode(vectors, top_k=2)  # [[("cat", 1.7), ("sat", 0.9)], [("dog", 1.6), ("ran", 1.1)]]
        embedder.search("Who sat?", ["A cat sat.", "A dog ran."], top_k=1)  # [{"index": 0, "score": 2.1, "text": ...}]

    A weight is log(1 + relu(score)), the largest over the text's tokens (SPLADE v2: Formal et al. 2021, equation 6).
    A text that is longer than the model is cut.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      pooling: "max" or "sum" over the text's tokens; None: as the model says, else "max".
      activation: "relu", or "log1p_relu", which takes the logarithm twice; None: as the model says, else "relu".
      max_terms: how many tokens of a text are kept, those of the largest weights; None: as the model says, else all.
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.

    Raises:
      UserError: there is no such model, it has no masked-language-model head, or an argument is none of these.
    """

    OUTPUTS = "text"

    def __init__(
        self,
        model: str | os.PathLike | Pretrained,
        *,
        pooling: str | None = None,
        activation: str | None = None,
        max_terms: int | None = None,
        dtype: str | None = None,
    ):
        model = self.opened(model)
        settings = model.settings
        if "embed_refusal" in settings:
            raise UserError(settings["embed_refusal"])
        kind, usual = settings.get("sparse", ("max", "relu"))
        self._kind, self._activation = pooling or kind, activation or usual
        for name, value, choices in (
            ("pooling", self._kind, tuple(SPARSE_POOLING.values())),
            ("activation", self._activation, SPARSE_ACTIVATIONS),
        ):
            if value not in choices:
                raise UserError(f"{name}: found {value!r}; expected {' or '.join(choices)}")
        self._max_terms = settings.get("max_terms") if max_terms is None else max_terms
        if self._max_terms is not None and self._max_terms < 1:
            raise UserError(f"max_terms: found {self._max_terms}; expected at least 1")
        self._similarity = settings.get("similarity") or "dot"
        super().__init__(model, dtype=dtype, packing=False)
        self._chunk_examples = min(self._chunk_examples, max(64, _NUMBERS // self.size))
        self.max_length = min(self.max_length, settings.get("max_length") or self.max_length)

    @property
    def size(self) -> int:
        """Returns the length of a vector, the size of the vocabulary."""
        return self.model.model.spec.vocab_size

    @property
    def similarity_kind(self) -> str:
        """Returns the similarity of the model: "dot" unless it names "cosine"."""
        return self._similarity

    def prompt_for(self, task: str) -> str:
        """Returns the text that the model's own prompts put before a "query" or a "document"; "" for none."""
        prompts = self.model.settings.get("prompts") or {}
        return prompt_text(self.model, None, task if task in prompts else None)

    def encode(
        self, texts: Any, *, prompt: str | None = None, prompt_name: str | None = None, **others: Any
    ) -> sparse.csr_array:
        """Returns the vectors of texts, a scipy.sparse.csr_array, float32 [texts, size].

        Args:
          texts: one text or several, as `Embedder.encode` takes them; a single one has one row.
          prompt: text put before each input; None: see prompt_name.
          prompt_name: name of one of the model's prompts; None: its default one, if any.
          **others: arguments of sentence-transformers' `encode` that change no vector, such as batch_size.

        Raises:
          UserError: a text is empty, or the model has no prompt of that name.
        """
        check_options("encode", others)
        examples, _ = self._reader.read(texts)
        return self.matrix(self.stream(examples, prompt=prompt, prompt_name=prompt_name))

    __call__ = encode

    def matrix(self, answers: Iterable[tuple[np.ndarray, np.ndarray]]) -> sparse.csr_array:
        """Returns vectors, float32 [texts, size], made of the (token ids, weights) of each, as `stream` yields them."""
        answers = list(answers)
        ends = np.cumsum([0, *(len(ids) for ids, _ in answers)])
        ids, weights = (np.concatenate([answer[i] for answer in answers] or [np.zeros(0)]) for i in range(2))
        return sparse.csr_array(
            (weights.astype(np.float32), ids.astype(np.int32), ends), shape=(len(answers), self.size)
        )

    def named(self, ids: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Returns the weight of each token of a vector, the largest first; equal ones in the vocabulary's order.

        Args:
          ids: token ids, int [tokens].
          weights: their weights, float32 [tokens].
        """
        order = np.argsort(-weights, kind="stable")
        return {self.tokenizer.token(int(ids[i])): float(str(weights[i])) for i in order}  # the fewest digits

    def decode(self, vectors: sparse.csr_array, top_k: int | None = None) -> list[list[tuple[str, float]]]:
        """Returns the tokens of each vector with their weights, the largest first.

        Args:
          vectors: what `encode` returned.
          top_k: how many tokens of each are returned; None for all.
        """
        vectors = sparse.csr_array(vectors)
        rows = (slice(*ends) for ends in zip(vectors.indptr, vectors.indptr[1:], strict=False))
        pairs = ((vectors.indices[row], vectors.data[row]) for row in rows)
        ordered = ((numbers, weights, np.argsort(-weights, kind="stable")[:top_k]) for numbers, weights in pairs)
        return [
            [(self.tokenizer.token(int(numbers[i])), float(weights[i])) for i in order]
            for numbers, weights, order in ordered
        ]

    def similarity(self, first: Any, second: Any, *, kind: str | None = None) -> np.ndarray:
        """Returns the similarity of texts or vectors, float32 [n, m].

        Args:
          first: texts, or vectors as `encode` returns them, [n, size].
          second: texts or vectors [m, size].
          kind: "dot" or "cosine"; None: as the model says, else "dot".

        Raises:
          UserError: a text cannot be read, or there is no such kind.
        """
        kind = self._checked(kind)
        ours, theirs = (_scaled(self._vectors(given), kind) for given in (first, second))
        return (ours @ theirs.T).toarray().astype(np.float32)

    def search(
        self, queries: Any, corpus: Any, top_k: int = 10, *, kind: str | None = None
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Returns the nearest documents of a corpus for each query.

        Args:
          queries: one text or several.
          corpus: a list of texts, or vectors as `encode` returns them.
          top_k: how many documents are returned; all, where the corpus has fewer.
          kind: see `similarity`.

        Returns:
          a list of {"index", "score"}, the nearest first, with "text" where the corpus is texts; for several queries a
          list of these. Where scores are equal, the first document comes first.

        Raises:
          UserError: a text cannot be read, top_k is less than 1, or there is no such kind.
        """
        kind = self._checked(kind)
        check_count("top_k", top_k)
        texts = None if sparse.issparse(corpus) else list(corpus)
        asked = _scaled(self._vectors(queries, "query"), kind)
        documents = _scaled(self._vectors(corpus if texts is None else texts, "document"), kind)
        places, scores = np.zeros((_count(asked), 0), np.int64), np.zeros((_count(asked), 0))
        for first in range(0, _count(documents), _BLOCK):
            places, scores = _nearest(asked, documents[first : first + _BLOCK], top_k, places, scores, first)
        hits = search.hits(places, scores, dict(enumerate(texts or ())))
        return hits[0] if isinstance(queries, str | Mapping) else hits

    def rank(
        self,
        queries: sparse.csr_array,
        documents: Iterable[tuple[str, str]],
        depth: int,
        done: Callable[[int], object] = lambda count: None,
        prompt: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest documents of each query: their places, int64 [n, k], and scores, float64 [n, k].

        Args:
          queries: vectors as `encode` returns them, [n, size].
          documents: pairs of id and text, read once; their vectors are not kept.
          depth: how many documents of each query are returned; all, where they are fewer.
          done: called with the number of newly compared documents.
          prompt: text put before each document; None: the model's own.
        """
        prompt = self.prompt_for("document") if prompt is None else prompt
        asked = _scaled(queries, self._similarity)
        places, scores = np.zeros((_count(asked), 0), np.int64), np.zeros((_count(asked), 0))
        first, remaining = 0, iter(documents)
        while block := list(itertools.islice(remaining, _BLOCK)):
            names, texts = zip(*block, strict=True)
            answers = self.stream([(text,) for text in texts], lambda i, names=names: f"document {names[i]}",
                                  allow_empty=True, prompt=prompt)  # fmt: skip
            vectors = _scaled(self.matrix(answers), self._similarity)
            places, scores = _nearest(asked, vectors, depth, places, scores, first)
            first += len(block)
            done(len(block))
        return places, scores

    def _checked(self, kind):
        kind = kind or self._similarity
        if kind not in _KINDS:
            raise UserError(f"kind: found {kind!r}; expected {' or '.join(_KINDS)} for sparse vectors")
        return kind

    def _vectors(self, given, task=""):
        """Returns vectors of texts, behind the model's own prompt for a task, or those that are given."""
        if sparse.issparse(given):
            return sparse.csr_array(given)
        if search.are_vectors(given):
            return sparse.csr_array(search.as_vectors(given, "vectors", self.size))
        return self.encode(given, prompt=self.prompt_for(task) or None)

    def _check_head(self, model: Pretrained) -> None:
        if not model.model.spec.language_model:
            raise UserError(
                f"{model.name}: sparse vectors are made of the scores of a masked-language-model head, which this "
                "model lacks; expected one with it, such as a SparseEncoder of sentence-transformers"
            )

    def _static(self, prompt=None, prompt_name=None):
        prompt_text(self.model, prompt, prompt_name)

    def _compute(self, network, params, batch, static):
        """Returns the weights of the vocabulary's tokens, float32 [batch, vocabulary]."""
        del static
        logits = network.apply(params, batch)["mlm_logits"]
        return pool_sparse(logits, batch["attention_mask"], self._kind, self._activation)

    def _rows(self, examples, where, options):
        prompt = prompt_text(self.model, **options)
        size = len(self.tokenizer.encode([prompt], special=True)[0]) if prompt else 0
        encoded = self.tokenizer.encode([prompt + text for (text,) in examples], special=True)
        rows = [windows.rows_of_text(self.tokenizer, ids, self.max_length, "truncate", size)[0] for ids in encoded]
        return rows, None

    def _answers(
        self, examples: Sequence, rows: Sequence, notes: Any, outputs: Sequence[np.ndarray], options: Mapping
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (numbers of the tokens, their weights) of each text."""
        del examples, rows, notes, options
        for weights in outputs:
            numbers = np.flatnonzero(weights)
            if self._max_terms is not None and len(numbers) > self._max_terms:
                order = np.argsort(-weights[numbers], kind="stable")[: self._max_terms]
                numbers = np.sort(numbers[order])
            yield numbers, weights[numbers]


def _count(vectors) -> int:
    return len(vectors.indptr) - 1


def _scaled(vectors, kind):
    """Returns vectors in float64, scaled to length 1 for cosines; zero stays zero."""
    vectors = sparse.csr_array(vectors, dtype=np.float64)
    if kind == "dot":
        return vectors
    lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(1)).ravel())
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(lengths, 1e-12)) @ vectors)


def _nearest(queries, documents, top_k, places, scores, first):
    """Returns the nearest of those that were found before and a block of documents, of equal ones the earlier.

    Args:
      queries, documents: csr_array, float64 [n, size] and [m, size].
      top_k: how many are wanted.
      places, scores: what was found before, int64 and float64 [n, k], the nearest first.
      first: place of the block's first document.
    """
    count = min(top_k, places.shape[1] + _count(documents))
    best_places, best_scores = (np.zeros((len(places), count), array.dtype) for array in (places, scores))
    transposed = documents.T.tocsc()
    for start in range(0, len(places), _QUERIES):
        block = (queries[start : start + _QUERIES] @ transposed).toarray()
        for i, row in enumerate(block, start):
            nearer = np.flatnonzero(row > scores[i, -1]) if places.shape[1] == top_k else np.arange(len(row))
            joined = np.append(scores[i], row[nearer])
            order = np.argsort(-joined, kind="stable")[:count]
            best_scores[i], best_places[i] = joined[order], np.append(places[i], nearer + first)[order]
    return best_places, best_scores
