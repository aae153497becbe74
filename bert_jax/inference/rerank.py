"""Orders documents by how well they answer a query, with a model that reads both together (a cross-encoder)."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bert_jax.errors import UserError
from bert_jax.inference.classify import Classifier
from bert_jax.inference.examples import check_count
from bert_jax.inference.other_libraries import check_options
from bert_jax.inference.predictor import require_task
from bert_jax.interop.pretrained import Pretrained


class Ranking:
    """Orders the documents of queries; a subclass has {"score"} for pairs of a query and a document.

    It streams them, and returns them when it is called.
    """

    stream: Callable[..., Iterator[Any]]
    __call__: Callable[..., Any]

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        return_documents: bool = True,
        **others: Any,
    ) -> list[dict[str, Any]]:
        """Returns the documents of a query in the order of their scores, the best first.

        Args:
          query: a text.
          documents: texts; of equal scores the first comes first.
          top_k: how many documents are returned; None for all.
          prompt: text put before the query; None: see prompt_name.
          prompt_name: name of one of the model's prompts; None: its default one, if any.
          return_documents: whether an answer has the document's text.
          **others: arguments of `rank` of sentence-transformers that change no score, such as batch_size.

        Returns:
          {"index", "score", "text"} for each document: its place in `documents`, the model's activation of its logit
          (see Classifier), and its text.

        Raises:
          UserError: a text is empty, or top_k is less than 1.
        """
        if not isinstance(query, str):
            raise UserError(f"query: found {type(query).__name__}; expected a text")
        if isinstance(documents, str):
            raise UserError("documents: found a text; expected a list of texts")
        if top_k is not None:
            check_count("top_k", top_k)
        check_options("rank", others)
        texts = list(documents)
        scores = self.scores(query, texts, prompt=prompt, prompt_name=prompt_name)
        order = np.argsort(-scores.astype(np.float64), kind="stable")[:top_k].tolist()
        return [
            {"index": i, "score": float(scores[i])} | ({"text": texts[i]} if return_documents else {}) for i in order
        ]

    def rerank(
        self,
        queries: str | Sequence[str],
        hits: Sequence[Any],
        top_k: int | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Returns what `Embedder.search` found among texts, in the order of this model's scores.

            hits = embedder.search("Who sat?", texts, top_k=100)
            reranker.rerank("Who sat?", hits, top_k=10)

        Args:
          queries: the query or queries that were searched for.
          hits: what `Embedder.search` returned for them: {"index", "score", "text"} of each document.
          top_k: how many documents of each query are returned; None for all.
          prompt: text put before each query; None: see prompt_name.
          prompt_name: name of one of the model's prompts; None: its default one, if any.

        Returns:
          the hits of the query, or a list of hits for each of several queries, the best first, with `score` replaced.

        Raises:
          UserError: hits have no text, are not as many as the queries, or see `rank`.
        """
        if not isinstance(queries, str):
            if len(queries) != len(hits):
                raise UserError(f"hits: found those of {len(hits)} queries; expected {len(queries)}, as queries")
            return [self._reranked(*pair, top_k, prompt, prompt_name) for pair in zip(queries, hits, strict=True)]
        return self._reranked(queries, hits, top_k, prompt, prompt_name)

    def _reranked(self, query, hits, top_k, prompt, prompt_name):
        for hit in hits:
            if not isinstance(hit, Mapping) or not isinstance(hit.get("text"), str):
                raise UserError("hits: found one without a text; expected those of a search among texts, not vectors")
        ranked = self.rank(query, [hit["text"] for hit in hits], top_k, prompt=prompt, prompt_name=prompt_name)
        return [dict(hits[answer["index"]]) | {"score": answer["score"]} for answer in ranked]

    def scores(
        self, query: str, documents: Sequence[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> np.ndarray:
        """Returns the score of each document, float32 [documents]; see `rank` for the arguments."""
        pairs = [(query, document) for document in documents]
        answers = self.stream(pairs, lambda i: f"document {i}", prompt=prompt, prompt_name=prompt_name)
        return np.array([answer["score"] for answer in answers], np.float32)

    def predict(self, pairs: Any, **options: Any) -> np.ndarray:
        """Returns the scores of pairs, float32 [pairs], as `predict` of sentence-transformers' CrossEncoder does.

        Args:
          pairs: pairs of a query and a document, as a call of the class takes them; one may be a list of two texts.
          **options: arguments of the call, such as prompt_name.

        Returns:
          the score of each pair; of a single one float32 [].

        Raises:
          UserError: a text is empty, or a pair cannot be read.
        """
        is_pair = isinstance(pairs, list | tuple) and len(pairs) == 2 and all(isinstance(text, str) for text in pairs)
        answers = self(tuple(pairs) if is_pair else pairs, **options)
        if isinstance(answers, dict):
            return np.asarray(answers["score"], np.float32)
        return np.array([answer["score"] for answer in answers], np.float32)


class Reranker(Ranking, Classifier):
    """Orders and scores the documents of a query with a model that has one score for a pair of texts.

        reranker = bert_jax.Reranker(MODEL)
        reranker.rank("Who sat?", ["It rains.", "The cat sat."], top_k=1)
        # [{"index": 1, "score": 0.97, "text": "The cat sat."}]

    A pair that is longer than the model is cut, the longer text first. The class takes the arguments of Classifier. It
    is also called like one, with pairs or records of a query and a document, and then returns {"score"} for each.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("query", "document")
    REQUIRED: ClassVar[int] = 2

    def _answer(self, logits, activated=None):
        return {"score": super()._answer(logits, activated)["score"]}

    def _check_head(self, model: Pretrained) -> None:
        require_task(model, "sequence_classification", "reranking")
        super()._check_head(model)
        if len(model.labels) != 1:
            raise UserError(
                f"{model.name}: reranking needs a model with one score, but this one has {len(model.labels)} labels; "
                "expected one trained with config.task.name=reranking, or a CrossEncoder with one label"
            )


def with_ranks(queries: Iterable[str], answers: Iterable[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """Adds to each answer the rank of its score, from 1, among consecutive answers for the same query.

    Args:
      queries: the query of each answer.
      answers: what a Reranker answers; of equal scores the first comes first.
    """
    for _, members in itertools.groupby(zip(queries, answers, strict=True), key=lambda member: member[0]):
        query_answers = [dict(answer) for _, answer in members]
        order = sorted(range(len(query_answers)), key=lambda i: -query_answers[i]["score"])
        ranks = {i: rank for rank, i in enumerate(order, 1)}
        yield from (answer | {"rank": ranks[i]} for i, answer in enumerate(query_answers))
