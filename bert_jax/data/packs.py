"""Which instances of a corpus share a packed row: an index of the index.

A pure function of (instance index, limits of a row, masking), made once in windows of the instance index, so that
neither memory nor the time of a window grows with the corpus, and cached beside the corpus as the instance index is.
Each instance is in one row.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from bert_jax.data import hashing, instances, packing
from bert_jax.data.corpus import Corpus, Split
from bert_jax.data.masking import Masking
from bert_jax.errors import UserError

_VERSION = 1  # of what build() makes; part of the cached files' names
_WINDOW = 1 << 15  # instances that may share rows
_AT_ONCE = 1 << 11  # instances whose words are looked at together


@dataclasses.dataclass(frozen=True)
class Packs:
    """Rows of instances, memory-mapped.

    Attributes:
      first: int64 [rows + 1], where each row's instances begin in `members`.
      members: int64 [instances], indexes of instances, row by row.
    """

    first: np.ndarray
    members: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(indexes of the instances of these rows, one row after the other; int64 [rows + 1], where each begins)"""
        begin = np.asarray(self.first[rows])
        counts = np.asarray(self.first[rows + 1]) - begin
        first = np.append(0, np.cumsum(counts))
        return self.members[np.arange(first[-1]) + np.repeat(begin - first[:-1], counts)], first


def open_packs(
    corpus: Corpus,
    split_name: str,
    recipe: instances.Recipe,
    most: packing.Limits,
    masking: Masking | None,
    is_special: np.ndarray,
) -> Packs:
    """The memory-mapped rows of the instances of a recipe without pairs, built first where they are not cached yet.

    Args:
      corpus: the corpus, beside whose instance index they are kept.
      split_name: "train" or "eval".
      recipe: of the instances.
      most: what a row holds.
      masking: how many tokens of an instance may be masked; None where none is.
      is_special: bool [vocabulary], the tokenizer's special tokens.

    Raises:
      UserError: the cache cannot be written.
    """
    index = instances.open_index(corpus, split_name, recipe)
    masks = (masking.unit == "token", masking.rate, masking.slots) if masking else ()
    key = hashing.fold("packs", _VERSION, *recipe.key(), *dataclasses.astuple(most), *masks)
    stem = f"{split_name}-{recipe.format}-{recipe.sequence_length}-packs-{key:016x}"
    folder = instances.cache_folder(corpus)
    paths = folder / f"{stem}.first.npy", folder / f"{stem}.members.npy"
    found = _open(*paths)
    if found is None:
        try:
            _build_files(build(corpus.split(split_name), index, most, masking, is_special), len(index), *paths)
        except OSError as error:
            raise UserError(f"{paths[1]}: cannot be written: {error.strerror or error}; make room") from error
        found = _open(*paths)
    return found


def build(
    split: Split, index: np.ndarray, most: packing.Limits, masking: Masking | None, is_special: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(members, first) of each window of the instances, as packing.fill gives them; members are indexes of `index`."""
    for begin in range(0, len(index), _WINDOW):
        some = np.asarray(index[begin : begin + _WINDOW])
        # [CLS], and a [SEP] behind each document.
        lengths = some["stop"] - some["start"] + some["num_documents"] + 1
        if masking is None:
            masks = np.zeros(len(some), np.int64)
        elif masking.unit == "token":
            masks = masking.wanted(some["stop"] - some["start"])
        else:
            parts = range(0, len(some), _AT_ONCE)
            masks = np.concatenate([_most_masks(split, some[i : i + _AT_ONCE], masking, is_special) for i in parts])
        members, first = packing.fill(lengths, masks, most)
        yield begin + members, first


def _open(first, members):
    arrays = instances.open_array(first), instances.open_array(members)
    if any(array is None for array in arrays) or arrays[0][-1] != len(arrays[1]):
        return None
    return Packs(*arrays)


def _build_files(windows, number, first_path, members_path):
    first_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=first_path.parent, prefix=f".{first_path.stem}-") as name:
        folder = pathlib.Path(name)

        def mapped(file, length):
            return np.lib.format.open_memmap(folder / file, mode="w+", dtype=np.int64, shape=(length,))

        members, longest = mapped("members.npy", number), mapped("longest.npy", number + 1)
        done = rows = 0
        for of_window, begins in windows:
            members[done : done + len(of_window)] = of_window
            longest[rows : rows + len(begins)] = done + begins
            done, rows = done + len(of_window), rows + len(begins) - 1
        first = mapped("first.npy", rows + 1)
        first[:] = longest[: rows + 1]
        for array, path in ((members, members_path), (first, first_path)):
            array.flush()
            os.replace(array.filename, path)


def _most_masks(split, some, masking, is_special):
    """How many tokens of each instance whole-word masking may predict, int64 [instances]; a bound that is reached.

    Where every word is longer than what is wanted, the shortest is predicted (masking.py). Neighbours in an index of a
    format without pairs are neighbours in the text.
    """
    begin, end = int(some["start"][0]), int(some["stop"][-1])
    tokens, starts = np.empty(end - begin, np.int64), np.empty(end - begin, bool)
    for shard, first in zip(split.shards, split.shard_starts.tolist(), strict=False):
        low, high = max(begin, first), min(end, first + shard.num_tokens)
        if low < high:
            tokens[low - begin : high - begin] = shard.tokens[low - first : high - first]
            bits = np.unpackbits(shard.word_starts[(low - first) // 8 : (high - first + 7) // 8])
            starts[low - begin : high - begin] = bits[(low - first) % 8 :][: high - low]
    maskable = ~is_special[tokens]
    documents = split.sentences[split.documents[some["document"][0] : some["document"][-1] + some["num_documents"][-1]]]
    starts[some["start"] - begin] = True
    starts[documents[documents > begin] - begin] = True  # a [SEP] stands before it
    starts[1:] |= ~maskable[:-1]
    words = np.flatnonzero(starts & maskable)
    of_words = np.diff(np.append(np.append(0, np.cumsum(maskable))[words], maskable.sum()))
    instance = np.searchsorted(some["start"] - begin, words, side="right") - 1
    shortest = np.full(len(some), np.iinfo(np.int64).max)
    np.minimum.at(shortest, instance, of_words)
    wanted = masking.wanted(np.bincount(instance, of_words, len(some)).astype(np.int64))
    return np.where((shortest > wanted) & (shortest <= masking.slots), shortest, wanted)
