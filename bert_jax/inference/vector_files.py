"""Stores the vectors of `predict embed`: as .npy, in a table, as an index of FAISS; sparse ones as .npz."""

import dataclasses
import importlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from scipy import sparse

from bert_jax.data.tasks.vector_measures import unit_vectors
from bert_jax.errors import UserError
from bert_jax.inference import quantization, records
from bert_jax.inference.embed import Embedder
from bert_jax.inference.sparse import SparseEmbedder

_BLOCK = 8192  # vectors that go into an index at once
_METRICS = {"cosine": "METRIC_INNER_PRODUCT", "dot": "METRIC_INNER_PRODUCT", "euclidean": "METRIC_L2",
            "manhattan": "METRIC_L1"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Storage:
    """Says how vectors are stored; messages name the flags of `predict embed`.

    Attributes:
      output: the name of a file; "" for the terminal.
      kind: format of the output, one of tables.KINDS.
      precision: one of quantization.PRECISIONS.
      calibration: name of a .npy file of vectors whose ranges int8 and uint8 divide; "" for none.
      ranges: their lowest and highest values, float32 [2, size]; None where there is no such file.
    """

    output: str = ""
    kind: str = "jsonl"
    precision: str = "float32"
    calibration: str = ""
    ranges: np.ndarray | None = None

    def check(self, embedder: Any) -> None:
        """Raises UserError for a format, precision or ranges that the vectors of a model do not have."""
        name = f"--model={embedder.model.name}"
        if not isinstance(embedder, Embedder | SparseEmbedder):
            raise UserError(
                f"{name} has a vector for each token of a text; expected one for a text (--pooling=mean gives the "
                "encoder's own states); bert_jax.MultiVectorEmbedder has them in Python"
            )
        if is_sparse(embedder) and self.kind in ("npy", "faiss"):
            raise UserError(f"--output={self.output}: the vectors of {name} are sparse; expected .npz or a table")
        if is_sparse(embedder) and self.precision != "float32":
            raise UserError(f"--precision={self.precision}: the vectors of {name} are sparse; expected float32")
        if not is_sparse(embedder) and self.kind == "npz":
            raise UserError(f"--output={self.output}: .npz is for sparse vectors; expected .npy for those of {name}")
        if self.kind == "faiss":
            _faiss(self.output)
            if self.precision not in ("float32", "ubinary"):
                raise UserError(f"--precision={self.precision}: not in an index of FAISS; expected float32 or ubinary")
            if self.precision == "ubinary" and embedder.size % 8:
                raise UserError(
                    f"--precision=ubinary: an index of FAISS has bits by eights; found vectors of {embedder.size}"
                )
        if self.ranges is not None and self.ranges.shape[1] != embedder.size:
            raise UserError(
                f"--calibration={self.calibration}: vectors of {self.ranges.shape[1]} numbers; expected "
                f"{embedder.size}, as --model's"
            )

    def stored(self, embedder: Embedder | SparseEmbedder, answers: Iterator[Any]) -> Iterator[Any]:
        """Returns vectors as `write` and the tables take them.

        Args:
          embedder: the model.
          answers: what its `stream` yields.

        Returns:
          arrays [size] in the precision; of a sparse model mappings of tokens to weights under "embedding", or what
          came in where the format is .npz.
        """
        if isinstance(embedder, SparseEmbedder):
            return answers if self.kind == "npz" else ({"embedding": embedder.named(*answer)} for answer in answers)
        if self.precision == "float32":
            return answers
        return quantization.stream(answers, self.precision, embedder.size, self.ranges)

    def write(self, embedder: Embedder | SparseEmbedder, answers: Iterable[Any], number: int) -> None:
        """Writes stored vectors to a file that appears once it is whole.

        A .npy holds an array [number, size], a .npz one of scipy.sparse. A .faiss holds a flat, exact index, which
        compares as the model does; where that is by cosines, its vectors have length 1. Bits make an IndexBinaryFlat.

        Args:
          embedder: the model.
          answers: what `stored` returned.
          number: how many they are.
        """
        if isinstance(embedder, SparseEmbedder):
            vectors = embedder.matrix(answers)
            with records.replacing(self.output) as file:
                sparse.save_npz(file, vectors)
            return
        if self.kind == "faiss":
            self._write_index(embedder, answers)
            return
        size, dtype = quantization.code_size(self.precision, embedder.size), quantization.code_dtype(self.precision)
        with records.vector_writer(self.output, number, size, dtype) as put:
            for vector in answers:
                put(vector)

    def _write_index(self, embedder, answers):
        faiss, is_binary, kind = _faiss(self.output), self.precision == "ubinary", embedder.similarity_kind
        index = (faiss.IndexBinaryFlat(embedder.size) if is_binary
                 else faiss.IndexFlat(embedder.size, getattr(faiss, _METRICS[kind])))  # fmt: skip
        answers = iter(answers)
        while block := list(itertools.islice(answers, _BLOCK)):
            vectors = np.stack(block)
            index.add(unit_vectors(vectors) if kind == "cosine" and not is_binary else vectors)
        write = faiss.write_index_binary if is_binary else faiss.write_index
        with records.replacing(self.output) as file:
            write(index, faiss.PyCallbackIOWriter(file.write))


def _faiss(output) -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            f"--output={output}: needs faiss, which is not installed; pip install 'bert_jax[faiss]'"
        ) from error


def is_sparse(predictor: Any) -> bool:
    """Returns whether a predictor's answers are sparse vectors."""
    return isinstance(predictor, SparseEmbedder)
