"""Scores an embedder on a file: graded or labelled pairs, classes, rankings, or a retrieval task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.config import finetuning as finetuning_config
from bert_jax.data.tasks import vector_files
from bert_jax.data.tasks.late_interaction import TokenVectors
from bert_jax.data.tasks.vector_measures import NumberedTexts, unit_vectors
from bert_jax.errors import UserError
from bert_jax.inference.embed import Embedder
from bert_jax.inference.multi_vector import MultiVectorEmbedder
from bert_jax.inference.sparse import SparseEmbedder

COLUMNS = ("anchor", "positive", "negatives", "score", "label")  # keys of config.task that name a column


class _Texts(NumberedTexts):
    """Collects different texts behind prompts, by number; see data.tasks.vector_measures.TextStore."""

    tokenizer = None

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []
        self.lengths = np.zeros(0, np.int32)

    def encode(self) -> None:
        self.texts = [text for _, text in self._numbers]

    def batch(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        raise NotImplementedError  # the embedder makes its own rows

    def vectors(self, embedder: Embedder | SparseEmbedder) -> np.ndarray:
        """Returns the vectors of all texts, float32 [texts, size]; "" stands for the model's default prompt."""
        vectors = np.zeros((len(self._numbers), embedder.size), np.float32)
        for prompt in dict.fromkeys(prompt for prompt, _ in self._numbers):
            members = [(number, text) for (own, text), number in self._numbers.items() if own == prompt]
            numbers, texts = zip(*members, strict=True)
            encoded = embedder.encode(list(texts), prompt=prompt or None)
            vectors[list(numbers)] = encoded if isinstance(encoded, np.ndarray) else encoded.toarray()
        return vectors


class _TokenTexts(_Texts):
    """Collects queries and documents, which late interaction reads differently and behind its own prompts."""

    def add(self, text: str, prompt: str = "", is_query: bool = False) -> int:
        return super().add(text, "query" if is_query else "document")

    def token_vectors(self, embedder: MultiVectorEmbedder) -> Any:
        """Returns the TokenVectors of all texts."""
        vectors: list[np.ndarray] = [np.zeros((0, 1), np.float32)] * len(self._numbers)
        for role, encode in (("query", embedder.encode_query), ("document", embedder.encode_document)):
            members = [(number, text) for (own, text), number in self._numbers.items() if own == role]
            for (number, _), array in zip(members, encode([text for _, text in members]), strict=True):
                vectors[number] = array
        return TokenVectors(vectors)


def measure(
    embedder: Embedder | SparseEmbedder | MultiVectorEmbedder,
    held_out: str,
    *,
    columns: Mapping[str, str] | None = None,
    header: Sequence[str] = (),
    widths: Sequence[int] = (),
    name: str = "held_out",
    note: Callable[[str], object] = lambda line: None,
) -> dict[str, float]:
    """Returns the scores of an embedder, those that fine-tuning gives for the same held-out set.

        bert_jax.measure(embedder, "sts:stsb_test.csv")  # {"spearman": 0.82, "pearson": 0.83}

    Vectors are compared by their cosines, or by dot products where the model is made for these; vectors of tokens by
    MaxSim. Sparse vectors are held as dense ones: texts times the vocabulary, in float32. Queries and documents are
    read behind the model's own prompts for them, other texts behind its default one.

    Args:
      embedder: the model.
      held_out: "sts:FILE" (two texts and a score, or a folder of SemEval's: Spearman's and Pearson's correlation),
        "pairs:FILE" (two texts and a label, 1 for the same meaning: average precision, F1), "clusters:FILE" (a text and
        its class: v-measure of k-means), "rerank:FILE" (a query, documents that answer it and others: MAP, MRR@10,
        nDCG@10), or "ir:DIR" (BEIR's layout: nDCG@10, MRR@10, MAP@100, recall, accuracy@1).
      columns: names of the file's columns, by "anchor", "positive", "negatives", "score" or "label"; those of the usual
        benchmarks are known.
      header: names of all columns of a file that has no header.
      widths: numbers of a vector, from the first on, of which alone scores are given too, as NAME_WIDTH.
      name: what messages call `held_out`.
      note: called with each line about how the files were read, such as pairs without a score that are left out.

    Raises:
      UserError: a file or column is missing, a value is none of what is expected, a width is none of the vectors, or
        the model compares queries with documents alone (MultiVectorEmbedder), which only "rerank:" and "ir:" have.
    """
    if not held_out.startswith(vector_files.KINDS):
        raise UserError(f"{name}={held_out}: expected one of {', '.join(vector_files.KINDS)} with a file")
    task = finetuning_config.base().task
    task.name, task.columns = "embedding", tuple(header)
    for key, column in (columns or {}).items():
        if key not in COLUMNS:
            raise UserError(f"columns: found {key!r}; expected {', '.join(COLUMNS)}")
        task[key] = (column,) if key == "negatives" else column
    for width in widths:
        if not 1 <= width <= embedder.size:
            raise UserError(f"widths: found {width}; expected from 1 to {embedder.size}, the size of a vector")
    if isinstance(embedder, MultiVectorEmbedder):
        return _measured_tokens(embedder, held_out, task, widths, name, note)
    if held_out.startswith(vector_files.SEARCHES):
        task.anchor_prompt, task.positive_prompt = embedder.prompt_for("query"), embedder.prompt_for("document")
    texts = _Texts()
    examples, notes = vector_files.read(held_out, name, task, texts)
    for line in notes:
        note(line)
    vectors = texts.vectors(embedder)
    scores = examples.score(_compared(embedder, vectors))
    for width in widths:
        cut = examples.score(_compared(embedder, vectors[:, :width]))
        scores |= {f"{metric}_{width}": value for metric, value in cut.items()}
    return scores


def _measured_tokens(embedder, held_out, task, widths, name, note):
    """Returns the scores of late interaction, and with NAME_WIDTH those of vectors cut to each width."""
    if not held_out.startswith(vector_files.SEARCHES):
        raise UserError(
            f"{name}={held_out}: {embedder.model.name} compares queries with documents; expected "
            f"{' or '.join(vector_files.SEARCHES)}"
        )
    texts = _TokenTexts()
    examples, notes = vector_files.read(held_out, name, task, texts)
    for line in notes:
        note(line)
    vectors = texts.token_vectors(embedder)
    scores = examples.score(vectors)
    for width in widths:
        cut = examples.score(vectors.cut(width).unit())
        scores |= {f"{metric}_{width}": value for metric, value in cut.items()}
    return scores


def _compared(embedder, vectors):
    """Returns vectors whose dot products are the similarities that the model is made for."""
    return vectors if embedder.similarity_kind == "dot" else unit_vectors(vectors)
