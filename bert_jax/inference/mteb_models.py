"""Presents embedders and rerankers to mteb 2, the Massive Text Embedding Benchmark (Muennighoff et al. 2022).

    import mteb
    mteb.evaluate(bert_jax.MtebEncoder("MODEL"), mteb.get_tasks(tasks=["STSBenchmark"]))

The classes follow mteb's EncoderProtocol, CrossEncoderProtocol and SearchProtocol; mteb itself is imported when it
calls them.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.errors import UserError
from bert_jax.inference.embed import Embedder
from bert_jax.inference.multi_vector import MultiVectorEmbedder
from bert_jax.inference.predictor import Predictor
from bert_jax.inference.rerank import Reranker
from bert_jax.inference.sparse import SparseEmbedder
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import parameters

_QUERIES = 64  # queries whose own documents are embedded at once


class MtebEncoder:
    """Embeds the texts of mteb's tasks.

    Queries and documents are read behind the prompts that the model has for the task, as mteb chooses among those of a
    sentence-transformers model, or else for queries and documents.

    Args:
      model: an Embedder, or a model as it takes one.
    """

    def __init__(self, model: Embedder | str | os.PathLike | Pretrained):
        self._embedder = model if isinstance(model, Embedder) else Embedder(model)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Returns the vectors of all texts, float32 [texts, size].

        Args:
          inputs: batches, whose "text" has texts.
          task_metadata: mteb's TaskMetadata: the name and type of the task choose the prompt.
          hf_split: ignored.
          hf_subset: ignored.
          prompt_type: mteb's PromptType: whether the texts are queries or documents; None for neither.
          **kwargs: ignored, such as batch_size.
        """
        del hf_split, hf_subset, kwargs
        kind = getattr(prompt_type, "value", prompt_type)
        prompt = _task_prompt(self._embedder.model, task_metadata, kind)
        if prompt is None and kind:
            prompt = self._embedder.prompt_for(kind)
        texts = ((text,) for batch in inputs for text in batch["text"])
        vectors = list(self._embedder.stream(texts, allow_empty=True, prompt=prompt))
        return np.stack(vectors) if vectors else np.zeros((0, self._embedder.size), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the similarities of all pairs of vectors, a torch tensor [n, m], of the model's own kind."""
        return _tensor(self._embedder.similarity(_array(embeddings1), _array(embeddings2)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the similarity of each pair of vectors, a torch tensor [n]."""
        return _tensor(self._embedder.similarity(_array(embeddings1), _array(embeddings2), pairwise=True))

    @property
    def mteb_model_meta(self) -> Any:
        """Returns the model's facts, an mteb.models.ModelMeta."""
        facts = {"embed_dim": self._embedder.size, "similarity_fn_name": self._embedder.similarity_kind}
        return _meta(self._embedder, self._embedder.fingerprint(), **facts)


class MtebReranker:
    """Scores the queries and documents of mteb's reranking tasks.

    Args:
      model: a Reranker, or a model as it takes one.
    """

    def __init__(self, model: Reranker | str | os.PathLike | Pretrained):
        self._reranker = model if isinstance(model, Reranker) else Reranker(model)

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Sequence[str]]],
        inputs2: Iterable[Mapping[str, Sequence[str]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Returns the score of each pair, float32 [pairs].

        Args:
          inputs1: batches, whose "text" has queries.
          inputs2: batches, whose "text" has the document in the same place.
          task_metadata: ignored.
          hf_split: ignored.
          hf_subset: ignored.
          prompt_type: ignored.
          **kwargs: ignored, such as batch_size.
        """
        del task_metadata, hf_split, hf_subset, prompt_type, kwargs
        queries, documents = ((text for batch in inputs for text in batch["text"]) for inputs in (inputs1, inputs2))
        answers = self._reranker.stream(zip(queries, documents, strict=True), allow_empty=True)
        return np.array([answer["score"] for answer in answers], np.float32)

    @property
    def mteb_model_meta(self) -> Any:
        """Returns the model's facts, an mteb.models.ModelMeta."""
        return _meta(self._reranker, "", model_type=["cross-encoder"])


class MtebSearcher:
    """Searches and reranks the documents of mteb's retrieval tasks by sparse vectors or late interaction.

    Queries and documents are read behind the prompts of the task, as MtebEncoder chooses them. Documents are embedded
    some thousand at a time, and their vectors are not kept. Vectors of these two kinds have no place in mteb's other
    tasks.

    Args:
      model: a SparseEmbedder or MultiVectorEmbedder, or a model as they take one.

    Raises:
      UserError: the model has neither sparse vectors nor vectors of tokens.
    """

    def __init__(self, model: SparseEmbedder | MultiVectorEmbedder | str | os.PathLike | Pretrained):
        if not isinstance(model, SparseEmbedder | MultiVectorEmbedder):
            opened = Predictor.opened(model)
            model = (MultiVectorEmbedder if "late_interaction" in opened.settings else SparseEmbedder)(opened)
        self._embedder, self._documents = model, []

    def index(self, corpus: Iterable[Mapping[str, Any]], **kwargs: Any) -> None:
        """Keeps the texts of a corpus for the next `search`.

        Args:
          corpus: records with "id", "text" and perhaps "title", which goes before the text.
          **kwargs: ignored, such as task_metadata.
        """
        del kwargs
        self._documents = [
            (str(record["id"]), f"{record.get('title') or ''} {record['text']}".strip()) for record in corpus
        ]

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """Returns the scores of each query's nearest documents, {query's id: {document's id: score}}.

        Args:
          queries: records with "id", "text" and perhaps "instruction", which goes behind the text.
          task_metadata: mteb's TaskMetadata: the name and type of the task choose the prompts.
          top_k: how many documents of each query are returned.
          top_ranked: the ids of each query's own documents, where the task is to order these; None: all documents.
          **kwargs: ignored, such as hf_split.

        Raises:
          UserError: a query is a conversation.
        """
        del kwargs
        names, texts = [], []
        for record in queries:
            if not isinstance(record["text"], str):
                raise UserError(f"query {record['id']}: found {type(record['text']).__name__}; expected a text")
            names.append(str(record["id"]))
            texts.append(" ".join(part for part in (record["text"], record.get("instruction")) if part))
        prompt = _task_prompt(self._embedder.model, task_metadata, "document")
        asked = self._embedded(texts, "query", _task_prompt(self._embedder.model, task_metadata, "query"))
        if top_ranked is not None:
            return self._ordered(names, asked, top_ranked, top_k, prompt)
        places, scores = self._embedder.rank(asked, self._documents, top_k, prompt=prompt)
        rows = zip(names, places.tolist(), scores.tolist(), strict=True)
        return {name: {self._documents[i][0]: score for i, score in zip(*row, strict=True)} for name, *row in rows}

    @property
    def mteb_model_meta(self) -> Any:
        """Returns the model's facts, an mteb.models.ModelMeta."""
        is_sparse = isinstance(self._embedder, SparseEmbedder)
        kind = self._embedder.similarity_kind
        facts = {
            "embed_dim": self._embedder.size,
            "model_type": ["sparse" if is_sparse else "late-interaction"],
            "similarity_fn_name": kind if is_sparse else "MaxSim" if kind == "maxsim" else "custom",
        }
        return _meta(self._embedder, "", **facts)

    def _embedded(self, texts, role, prompt) -> Any:
        """Returns vectors of texts, as the embedder's `similarity` and `rank` take them."""
        examples = [(text,) for text in texts]
        if isinstance(self._embedder, MultiVectorEmbedder):
            is_query = role == "query"
            return list(self._embedder.stream(examples, allow_empty=True, is_query=is_query, prompt=prompt))
        prompt = self._embedder.prompt_for(role) if prompt is None else prompt
        return self._embedder.matrix(self._embedder.stream(examples, allow_empty=True, prompt=prompt))

    def _ordered(self, names, asked, top_ranked, top_k, prompt):
        """Returns the scores of each query's own documents, the best top_k of them."""
        texts, answers = dict(self._documents), {}
        for first in range(0, len(names), _QUERIES):
            block = names[first : first + _QUERIES]
            own = [list(dict.fromkeys(map(str, top_ranked.get(name, ())))) for name in block]
            wanted = list(dict.fromkeys(document for documents in own for document in documents))
            vectors = self._embedded([texts[name] for name in wanted], "document", prompt)
            places = {name: i for i, name in enumerate(wanted)}
            for i, (name, documents) in enumerate(zip(block, own, strict=True), first):
                rows = [places[document] for document in documents]
                chosen = vectors[rows] if isinstance(self._embedder, SparseEmbedder) else [vectors[row] for row in rows]
                scores = self._embedder.similarity(asked[i : i + 1], chosen)[0] if documents else np.zeros(0)
                order = np.argsort(-scores, kind="stable")[:top_k]
                answers[name] = {documents[place]: float(scores[place]) for place in order}
        return answers


def _task_prompt(model, task_metadata, kind):
    """Returns the model's prompt of a task, for "query", "document" or None; None where it has none of its own."""
    prompts = model.settings.get("prompts") or {}
    for name in (task_metadata.name, task_metadata.type):  # in the order that mteb documents
        for key in (f"{name}-{kind}", name):
            if key in prompts:
                return prompts[key] or ""
    return None


def _meta(predictor, revision, **facts):
    """Returns mteb's record of a model; names without an owner get one, as mteb wants it."""
    from mteb.models import ModelMeta

    name = predictor.model.name
    owned = name if name.count("/") == 1 and not os.path.exists(name) else f"bert_jax/{pathlib.PurePath(name).name}"
    count = sum(int(array.size) for array in parameters.leaves_by_name(predictor.model.params).values())
    known = {
        "name": owned,
        "revision": revision or None,
        "n_parameters": count,
        "max_tokens": predictor.max_length,
        "framework": ["JAX"],
    }
    return ModelMeta(**ModelMeta.create_empty().model_dump() | known | facts)


def _array(vectors):
    """Returns vectors of numpy or torch as an array."""
    return np.asarray(vectors.detach().cpu() if hasattr(vectors, "detach") else vectors)


def _tensor(array):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))
