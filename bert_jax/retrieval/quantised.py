"""Searches the vectors of an index in fewer bits: int8, or one bit for each number.

    DIR/int8.npy         int8 [documents, size]
    DIR/int8_ranges.npy  float32 [2, size], the lowest and highest value of each dimension in the corpus
    DIR/binary.npy       uint8 [documents, ceil(size / 8)], a bit for each number, the first in the highest bit

They are made of vectors.npy when they are asked for first, and read in its place. What they find is scored again with
the float vectors, of which the rows of these candidates alone are read, or with the int8 ones.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from bert_jax import files
from bert_jax.errors import UserError
from bert_jax.inference import quantization, search
from bert_jax.inference.records import vector_writer
from bert_jax.retrieval import index as index_lib
from bert_jax.retrieval.index import Index

PRECISIONS = ("float32", "int8", "binary")
RESCORES = ("float32", "int8", "none")
_CHECKSUMS = "quantised_checksums"  # precision -> those of its blocks, in the index's description
_SCORED = 1 << 22  # numbers of candidates that are scored at once
_STORED = {"int8": "int8", "binary": "ubinary"}  # precision of the file's codes


@dataclasses.dataclass(frozen=True)
class Options:
    """Says how an index is searched.

    Attributes:
      precision: one of PRECISIONS, in which all vectors are compared with every query.
      rescore: precision of the vectors by which candidates are ordered, one of RESCORES; "none" keeps the first scores.
      multiplier: candidates for each document that is wanted.
    """

    precision: str = "float32"
    rescore: str = "float32"
    multiplier: int = 4


class QuantisedIndex:
    """Holds the vectors of a corpus in fewer bits; see `open_quantised`.

    Attributes:
      ids: id of each document.
    """

    def __init__(
        self, index: Index, options: Options, codes: np.ndarray, int8: np.ndarray | None, ranges: np.ndarray,
        checksums: tuple[int, ...] = (),
    ):  # fmt: skip
        self.ids, self._vectors, self._options = index.ids, index.vectors, options
        self._codes, self._int8, self._ranges, self._name = codes, int8, ranges, index.name
        self._checksums, self._verified = checksums, set[int]()

    def nearest(self, queries: np.ndarray, top_k: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest documents of queries, approximately: (numbers, int64 [n, k]; scores, float64 [n, k]).

        Without rescoring, scores of "binary" are the cosines of the signs: 1 - 2 * different bits / size.

        Args:
          queries: float [n, size].
          top_k: how many are wanted; all, where there are fewer.
          kind: one of search.SIMILARITIES.
        """
        queries = np.asarray(queries)
        rescores = self._options.rescore != "none"
        count = min(len(self._codes), top_k * self._options.multiplier if rescores else top_k)
        if self._options.precision == "binary":
            places, distances = quantization.nearest(_signs(queries), self._blocks(), count)
            scores = 1 - 2 * distances / queries.shape[1]
        elif rescores:
            places, scores = quantization.nearest_int8(queries, self._blocks(), self._ranges, count, kind)
        else:
            blocks = (quantization.dequantized(block, "int8", self._ranges) for block in self._blocks())
            *_, (places, scores) = search.nearest(queries, blocks, count, kind)
        if not rescores:
            return places, scores
        places = np.sort(places, axis=1)  # equal scores come in the order of the corpus
        scores = np.zeros(places.shape)
        step = max(1, _SCORED // max(1, count * queries.shape[1]))
        for i in range(0, len(queries), step):
            vectors = self._rows(places[i : i + step].ravel())
            asked = np.repeat(queries[i : i + step], count, axis=0)
            scores[i : i + step] = search.paired_scores(asked, vectors, kind).reshape(-1, count)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        return np.take_along_axis(places, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def _blocks(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self._codes), index_lib.BLOCK):
            block = np.asarray(self._codes[first : first + index_lib.BLOCK])
            if self._options.precision == "int8" and len(block) > 1 and not block.any():  # as a hole in a file reads
                raise UserError(
                    f"{self._name}: int8.npy is damaged: document {self.ids[first]} has nothing but zeros; expected an "
                    "index (remove the folder)"
                )
            name = f"{self._options.precision}.npy"
            index_lib.check_block(self._name, name, self.ids, first, block, self._checksums, self._verified)
            yield block

    def _rows(self, places):
        """Returns the vectors of places, float32 [n, size], by which candidates are ordered; each is read once."""
        rows, inverse = np.unique(places, return_inverse=True)
        if self._options.rescore == "float32":
            vectors = np.asarray(self._vectors[rows])
            if not np.isfinite(vectors).all():
                raise UserError(
                    f"{self._name}: {index_lib.VECTORS} is damaged: a vector is not finite; expected an index (remove "
                    "the folder)"
                )
            return vectors[inverse]
        assert self._int8 is not None  # open_quantised opens it for this
        return quantization.dequantized(np.asarray(self._int8[rows]), "int8", self._ranges)[inverse]


def check(options: Options) -> None:
    """Raises UserError for options that do not go together; messages name the flags of `predict search`."""
    if options.precision not in PRECISIONS:
        raise UserError(f"--precision={options.precision}: search knows {', '.join(PRECISIONS)}")
    if options.precision == "int8" and options.rescore == "int8":
        raise UserError("--rescore=int8: --precision=int8 has these scores already; expected float32 or none")
    if options.multiplier < 1:
        raise UserError(f"--rescore_multiplier={options.multiplier}: expected at least 1")


def open_quantised(folder: str | os.PathLike, name: str, index: Index, options: Options) -> QuantisedIndex:
    """Opens the quantised vectors of an index, and makes those that it lacks.

    Args:
      folder: the index's folder.
      name: what the user calls it, such as "--index=DIR", for messages.
      index: the index, as `index.build` returned it.
      options: how it is searched; its precision is not float32.

    Raises:
      UserError: the files cannot be written, or another process is writing the index.
    """
    check(options)
    folder, ranges = pathlib.Path(folder), np.zeros((2, index.vectors.shape[1]), np.float32)
    wanted = dict.fromkeys(precision for precision in (options.precision, options.rescore) if precision in _STORED)
    arrays = {}
    with index_lib.reporting(name):
        for precision in wanted:
            if _opened(folder, precision, index.vectors.shape) is None:
                with index_lib.locked(folder, name):
                    _make(folder, precision, index)
            codes = _opened(folder, precision, index.vectors.shape)
            if codes is None:
                raise UserError(f"{name}: {precision}.npy is damaged; expected an index (remove the folder)")
            arrays[precision] = codes
        if "int8" in wanted:
            ranges = np.load(folder / "int8_ranges.npy")
        entry = index_lib.read_description(folder).get(_CHECKSUMS, {}).get(options.precision)
        checksums = index_lib.read_checksums(entry, len(index.vectors), name)
    return QuantisedIndex(index, options, arrays[options.precision], arrays.get("int8"), ranges, checksums)


def _opened(folder, precision, shape):
    """Returns the codes of an index, mapped from their file; None where they are not made, or are damaged."""
    if precision not in index_lib.read_description(folder).get("quantised", ()):
        return None
    stored = _STORED[precision]
    try:
        codes = np.load(folder / f"{precision}.npy", mmap_mode="r")
        ranges = np.load(folder / "int8_ranges.npy") if precision == "int8" else np.zeros((2, shape[1]), np.float32)
    except (OSError, ValueError, EOFError):
        return None
    whole = codes.shape == (shape[0], quantization.code_size(stored, shape[1])) and ranges.shape == (2, shape[1])
    return codes if whole and codes.dtype == quantization.code_dtype(stored) else None


def _make(folder, precision, index):
    """Writes the codes of an index, and then its description, which says that they are of these vectors."""
    ranges, size = None, index.vectors.shape[1]
    if precision == "int8":
        lows_and_highs = [quantization.ranges_of(block) for block in index.blocks()]
        ranges = np.stack(
            [np.min([low for low, _ in lows_and_highs], 0), np.max([high for _, high in lows_and_highs], 0)]
        )
        with files.atomic_open(folder / "int8_ranges.npy", "wb") as file:
            np.save(file, ranges.astype(np.float32))
    stored, checksums = _STORED[precision], []
    code_size, dtype = quantization.code_size(stored, size), quantization.code_dtype(stored)
    with vector_writer(folder / f"{precision}.npy", len(index.vectors), code_size, dtype) as put:
        for block in index.blocks():
            codes = np.ascontiguousarray(quantization.quantize(block, stored, ranges), dtype)
            checksums.append(index_lib.checksum(codes))
            put(codes)
    description = index_lib.read_description(folder)
    names = dict.fromkeys([*description.get("quantised", ()), precision])
    entries = description.get(_CHECKSUMS, {}) | {precision: index_lib.checksums_entry(checksums)}
    files.write_json(folder / index_lib.DESCRIPTION, description | {"quantised": list(names), _CHECKSUMS: entries})


def _signs(vectors):
    return quantization.quantize(vectors, "ubinary")
