"""Embeds texts as a vector for each of their tokens, which are compared by MaxSim: late interaction (ColBERT)."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.data.tasks.late_interaction import Reading, RowMaker
from bert_jax.errors import UserError
from bert_jax.inference import maxsim, search
from bert_jax.inference.batching import Row
from bert_jax.inference.examples import check_count
from bert_jax.inference.other_libraries import check_options
from bert_jax.inference.predictor import Predictor, prompt_text
from bert_jax.inference.rerank import Ranking
from bert_jax.interop.multi_vector import SIMILARITIES
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import projection

_BLOCK = 1024  # documents of a corpus that are embedded and compared at once


class _TokenPredictor(Predictor):
    """Computes the vectors of the tokens of queries and documents.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      query_length: the most tokens of a query; None: as the model says.
      document_length: the most tokens of a document; None: as the model says.
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
    """

    POSITIONS: ClassVar[str] = "unattended"  # tokens that no other token attends to: [MASK] behind a query
    OUTPUTS: ClassVar[str] = "token"

    def __init__(
        self,
        model: str | os.PathLike | Pretrained,
        *,
        query_length: int | None = None,
        document_length: int | None = None,
        dtype: str | None = None,
    ):
        model = self.opened(model)
        self._check_head(model)
        settings, width = model.settings, model.model.spec.hidden_size
        longest, reading = model.model.spec.max_positions, Reading.from_json(settings["late_interaction"])
        lengths = {"query_length": query_length, "document_length": document_length}
        for name, length in lengths.items():
            if length is not None and not 3 <= length <= longest:
                raise UserError(f"{name}: found {length}; expected from 3 to {longest}, the positions of {model.name}")
        own: dict[str, Any] = {name: min(length or getattr(reading, name), longest) for name, length in lengths.items()}
        if query_length is not None and reading.expansion_length:
            own["expansion_length"] = query_length
        own["expansion_length"] = min(own.get("expansion_length", reading.expansion_length), longest)
        self.reading = dataclasses.replace(reading, **own)
        self._layers = settings["late_layers"]
        self._similarity = settings.get("similarity") or "maxsim"
        try:
            self._size = projection.output_size(self._layers, width)
        except ValueError as error:
            raise UserError(f"{model.name}: {error}; expected layers that fit the encoder") from error
        self._makers = RowMaker(model.tokenizer, self.reading)
        super().__init__(model, dtype=dtype, packing=False)

    @property
    def size(self) -> int:
        """Returns the length of a token's vector."""
        return self._size

    def _check_head(self, model: Pretrained) -> None:
        if "embed_refusal" in model.settings and "pooling" not in model.settings:
            raise UserError(model.settings["embed_refusal"])
        if "late_interaction" not in model.settings:
            raise UserError(
                f"{model.name}: has no vectors for late interaction; expected a run of embedding/colbert, or a "
                "directory of PyLate or of sentence-transformers' MultiVectorEncoder"
            )
        reading = Reading.from_json(model.settings["late_interaction"])
        if reading.expansion_length and not reading.attends_to_expansion and model.model.spec.has_relative_positions:
            raise UserError(
                f"{model.name}: DeBERTa makes zeros of the [MASK] tokens behind a query that no other token attends "
                "to, which is not computed; expected a model that attends to them, or has none"
            )

    def _compute(self, network, params, batch, static):
        """Returns the vectors of all tokens, float32 [batch, sequence, size]."""
        del static
        batch = dict(batch)
        batch["scored"] = batch["attention_mask"]
        batch["attention_mask"] = batch["attention_mask"] * (1 - batch.pop("unattended"))
        vectors = network.apply(params, batch)["hidden"].astype(jnp.float32)
        for layer in self._layers:
            vectors = layer(vectors)
        return vectors

    def _prompt(self, is_query, prompt=None, prompt_name=None):
        """Returns the text between the marker and a query or document; by default the model's prompt of that role."""
        role = "query" if is_query else "document"
        if prompt is None and prompt_name is None and role in (self.model.settings.get("prompts") or {}):
            prompt_name = role
        return prompt_text(self.model, prompt, prompt_name)

    def _token_rows(self, texts, is_query, prompt, where):
        """Returns (rows of texts, which tokens of each have a vector)."""
        maker = self._makers
        if len(maker.encode([prompt], is_query)[0]) >= maker.room(is_query):
            raise UserError(f"prompt: {prompt!r} leaves no room for text in a row of {where}")
        rows, scored = [], []
        for ids in maker.encode([prompt + text for text in texts], is_query):
            row = maker.row(ids, is_query)
            rows.append(Row(row.ids, [0] * len(row.ids), range(row.attended, len(row.ids))))
            scored.append(np.array(row.scored, bool))
        return rows, scored


class MultiVectorEmbedder(_TokenPredictor):
    """Embeds texts as a vector for each token, which are compared by MaxSim: late interaction (ColBERT).

        embedder = bert_jax.MultiVectorEmbedder(MODEL)
        queries = embedder.encode_query(["Who sat?"])  # a list of float32 [tokens, embedder.size]
        documents = embedder.encode_document(["A cat sat.", "It rains."])
        embedder.similarity(queries, documents)  # float32 [1, 2]
        embedder.search("Who sat?", ["A cat sat.", "It rains."], top_k=1)  # [{"index": 0, "score": 9.1, "text": ...}]

    The similarity of a query and a document is the sum, over the query's tokens, of the largest dot product with one of
    the document's (Khattab & Zaharia 2020, equation 3). Queries and documents are read differently: behind a marker of
    their own, queries filled up with [MASK], documents without the vectors of punctuation, as the model says. A text
    that is longer than the model's query_length or document_length is cut.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      query_length: the most tokens of a query; None: as the model says.
      document_length: the most tokens of a document; None: as the model says.
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.

    Raises:
      UserError: there is no such model, it has no vectors for tokens, or an argument does not fit it.
    """

    @property
    def similarity_kind(self) -> str:
        """Returns the similarity of the model: "maxsim", or "meanmaxsim", which is divided by the query's tokens."""
        return self._similarity

    def encode_query(
        self, texts: Any, *, prompt: str | None = None, prompt_name: str | None = None, **others: Any
    ) -> np.ndarray | list[np.ndarray]:
        """Returns the vectors of the tokens of queries, float32 [tokens, size] each.

        Args:
          texts: one text or several, as `Embedder.encode` takes them; a single one gives an array.
          prompt: text put before each query, behind the marker; None: see prompt_name.
          prompt_name: name of one of the model's prompts; None: "query", where there is one, else its default one.
          **others: arguments of sentence-transformers' `encode` that change no vector, such as batch_size.

        Raises:
          UserError: a text is empty, a prompt leaves no room, or the model has no prompt of that name.
        """
        check_options("encode_query", others)
        return self._encoded(texts, True, prompt, prompt_name)

    def encode_document(
        self, texts: Any, *, prompt: str | None = None, prompt_name: str | None = None, **others: Any
    ) -> np.ndarray | list[np.ndarray]:
        """Returns the vectors of the tokens of documents, float32 [tokens, size] each; see `encode_query`."""
        check_options("encode_document", others)
        return self._encoded(texts, False, prompt, prompt_name)

    def _encoded(self, texts, is_query, prompt, prompt_name):
        examples, single = self._reader.read(texts)
        vectors = list(self.stream(examples, is_query=is_query, prompt=prompt, prompt_name=prompt_name))
        return vectors[0] if single else vectors

    def similarity(
        self, queries: Any, documents: Any, *, kind: str | None = None, pairwise: bool = False
    ) -> np.ndarray:
        """Returns the similarity of queries and documents, float32 [n, m], or [n] with `pairwise`.

        Args:
          queries: texts, or what `encode_query` returned.
          documents: texts, or what `encode_document` returned.
          kind: "maxsim", or "meanmaxsim", which is divided by the number of the query's vectors; None: the model's.
          pairwise: whether each query is compared with the document in its own place alone.

        Raises:
          UserError: a text cannot be read, there is no such kind, or pairs do not match.
        """
        kind = self._checked(kind)
        left, right = self._vectors(queries, True, "queries"), self._vectors(documents, False, "documents")
        if not pairwise:
            return maxsim.scores(left, right, kind)
        if len(left) != len(right):
            raise UserError(f"documents: found {len(right)}; expected {len(left)}, one for each query")
        pairs = [maxsim.scores([query], [document], kind)[0, 0] for query, document in zip(left, right, strict=True)]
        return np.array(pairs, np.float32)

    def search(
        self, queries: Any, corpus: Any, top_k: int = 10, *, kind: str | None = None
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Returns the nearest documents of a corpus for each query, by comparing all of them.

        Texts are embedded and compared some thousand at a time, on the device, and their vectors are not kept: the
        corpus may be a generator.

        Args:
          queries: one text or several, or what `encode_query` returned.
          corpus: texts, or what `encode_document` returned.
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
        single = isinstance(queries, str | Mapping) or (isinstance(queries, np.ndarray) and queries.ndim == 2)
        asked, texts = self._vectors(queries, True, "queries"), {}
        places, scores = np.zeros((len(asked), 0), np.int64), np.zeros((len(asked), 0))
        for first, vectors, block in self._blocks(corpus):
            texts |= {first + i: text for i, text in enumerate(block)}
            places, scores = maxsim.nearest(asked, vectors, top_k, kind, places, scores, first)
            kept = set(places.ravel().tolist())
            texts = {place: text for place, text in texts.items() if place in kept}
        hits = search.hits(places, scores, texts)
        return hits[0] if single else hits

    def rank(
        self,
        queries: Sequence[np.ndarray],
        documents: Iterable[tuple[str, str]],
        depth: int,
        done: Any = lambda count: None,
        prompt: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest documents of each query: their places, int64 [n, k], and scores, float64 [n, k].

        Args:
          queries: what `encode_query` returned for several.
          documents: pairs of id and text, read once.
          depth: how many documents of each query are returned; all, where they are fewer.
          done: called with the number of newly compared documents.
          prompt: text put before each document; None: the model's own.
        """
        places, scores = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0))
        first, remaining = 0, iter(documents)
        while block := list(itertools.islice(remaining, _BLOCK)):
            names, texts = zip(*block, strict=True)
            vectors = self.stream(
                [(text,) for text in texts], lambda i, names=names: f"document {names[i]}", allow_empty=True,
                is_query=False, prompt=prompt,
            )  # fmt: skip
            places, scores = maxsim.nearest(queries, list(vectors), depth, self._similarity, places, scores, first)
            first += len(block)
            done(len(block))
        return places, scores

    def _checked(self, kind):
        kind = kind or self._similarity
        if kind not in SIMILARITIES:
            raise UserError(f"kind: found {kind!r}; expected {' or '.join(SIMILARITIES)}")
        return kind

    def _vectors(self, given, is_query, name):
        """Returns a list of float32 [tokens, size]: of texts, or those that are given."""
        arrays = [given] if isinstance(given, np.ndarray | jax.Array) and np.ndim(given) == 2 else given
        is_vectors = isinstance(arrays, list | tuple | np.ndarray) and len(arrays) and np.ndim(arrays[0]) == 2
        if not is_vectors:
            vectors = self._encoded(given, is_query, None, None)
            return [vectors] if isinstance(vectors, np.ndarray) else vectors
        return [_checked_vectors(array, f"{name}: item {i}", self.size) for i, array in enumerate(arrays)]

    def _blocks(self, corpus):
        """Yields (place of the first document, vectors of a block of documents, their texts or ())."""
        if isinstance(corpus, list | tuple) and corpus and np.ndim(corpus[0]) == 2:
            for first in range(0, len(corpus), _BLOCK):
                yield first, self._vectors(corpus[first : first + _BLOCK], False, "corpus"), ()
            return
        examples, first = self._reader.read(corpus)[0], 0
        while block := list(itertools.islice(examples, _BLOCK)):
            vectors = self.stream(block, lambda i, first=first: f"corpus: text {first + i + 1}", is_query=False)
            yield first, list(vectors), [text for (text,) in block]
            first += len(block)

    def _static(self, is_query=False, prompt=None, prompt_name=None):
        self._prompt(is_query, prompt, prompt_name)

    def _rows(self, examples, where, options):
        is_query = options["is_query"]
        prompt = self._prompt(is_query, options.get("prompt"), options.get("prompt_name"))
        length = self.reading.query_length if is_query else self.reading.document_length
        return self._token_rows([text for (text,) in examples], is_query, prompt, length)

    def _answers(
        self, examples: Sequence, rows: Sequence, notes: Any, outputs: Sequence[np.ndarray], options: Mapping
    ) -> Iterator[np.ndarray]:
        """Yields the vectors of the tokens of each text that have one, float32 [tokens, size]."""
        del examples, rows, options
        for vectors, scored in zip(outputs, notes, strict=True):
            yield vectors[: len(scored)][scored]


class MultiVectorReranker(Ranking, _TokenPredictor):
    """Orders and scores the documents of a query by MaxSim of the vectors of their tokens.

        reranker = bert_jax.inference.multi_vector.MultiVectorReranker(MODEL)
        reranker.rank("Who sat?", ["It rains.", "The cat sat."], top_k=1)
        # [{"index": 1, "score": 9.1, "text": "The cat sat."}]

    It has the methods of Reranker, and the arguments of MultiVectorEmbedder.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("query", "document")
    REQUIRED: ClassVar[int] = 2

    def __call__(
        self, pairs: Any, *, prompt: str | None = None, prompt_name: str | None = None, **others: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns {"score"} of a pair of a query and a document, or a list of these for several; see Reranker."""
        check_options("MultiVectorReranker", others)
        return self._call(self._reader.read(pairs), prompt=prompt, prompt_name=prompt_name)

    def _static(self, prompt=None, prompt_name=None):
        self._prompt(True, prompt, prompt_name)

    def _rows(self, examples, where, options):
        queries, documents = (list(dict.fromkeys(texts)) for texts in zip(*examples, strict=True))
        prompt = self._prompt(True, options.get("prompt"), options.get("prompt_name"))
        rows, scored = self._token_rows(queries, True, prompt, self.reading.query_length)
        others = self._token_rows(documents, False, self._prompt(False), self.reading.document_length)
        return [*rows, *others[0]], ([*scored, *others[1]], queries, documents)

    def _answers(self, examples, rows, notes, outputs, options):
        del rows, options
        scored, queries, documents = notes
        vectors = [array[: len(mask)][mask] for array, mask in zip(outputs, scored, strict=True)]
        of_query = dict(zip(queries, vectors, strict=False))
        of_document = dict(zip(documents, vectors[len(queries) :], strict=True))
        for query, members in itertools.groupby(examples, key=lambda example: example[0]):
            row = maxsim.scores([of_query[query]], [of_document[text] for _, text in members], self._similarity)[0]
            yield from ({"score": float(score)} for score in row)


def _checked_vectors(array, name, size):
    vectors = np.asarray(array, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != size or not len(vectors):
        raise UserError(f"{name}: found an array of shape {list(vectors.shape)}; expected vectors [tokens, {size}]")
    return vectors
