"""Presents embedders and rerankers to mteb 2, the Massive Text Embedding Benchmark (Muennighoff et al. 2022).

    import mteb
    mteb.evaluate(bert_jax.MtebEncoder("MODEL"), mteb.get_tasks(tasks=["STSBenchmark"]))

The classes follow mteb's EncoderProtocol and CrossEncoderProtocol; mteb itself is imported when it calls them.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.inference.embed import Embedder
from bert_jax.inference.rerank import Reranker
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import parameters


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
        prompt = self._prompt(task_metadata, prompt_type)
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

    def _prompt(self, task_metadata, prompt_type):
        """Returns the prompt of a task; None for the model's default one."""
        prompts = self._embedder.model.settings.get("prompts") or {}
        kind = getattr(prompt_type, "value", prompt_type)
        for name in (task_metadata.name, task_metadata.type):  # in the order that mteb documents
            for key in (f"{name}-{kind}", name):
                if key in prompts:
                    return prompts[key] or ""
        return self._embedder.prompt_for(kind) if kind else None


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
