"""Packs several sequences into one row: which sequences share a row, and the arrays of a packed batch.

A packed row holds its sequences one after the other. Three arrays of the batch say where they are: `sequence_ids`,
`position_ids` and `cls_positions`.

Which instances of a corpus share a row is a pure function of (instance index, limits of a row, masking). It is computed
once, in windows of the instance index, so that neither memory nor the time for a window grows with the corpus, and
cached beside the corpus as the instance index is. Each instance is in one row.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from bert_jax import _moved, files
from bert_jax.data import array_files, batches, hashing, instances, verification
from bert_jax.data.corpus import Corpus, Split
from bert_jax.data.masking import Masking
from bert_jax.errors import UserError

_TOKENS_PER_SEQUENCE = 4  # a row has room for one sequence per so many tokens
_SPARE_SLOTS = 8  # a row gets one more prediction slot per so many, because short sequences round their number up
_VERSION = 1  # version of the rows that build_packs() computes; part of the cached files' names
_WINDOW = 1 << 15  # instances that may share rows
_INSTANCES_AT_ONCE = 1 << 11  # instances whose words are read together


@dataclasses.dataclass(frozen=True)
class Limits:
    """Holds the capacity of a packed row, and so the shapes of packed batches.

    Attributes:
      tokens: tokens of a row, special ones included.
      sequences: places in cls_positions.
      masks: prediction slots; 0 where nothing is masked.
    """

    tokens: int
    sequences: int
    masks: int = 0


def limits(tokens: int, slots: int = 0) -> Limits:
    """Returns the limits of rows of `tokens` tokens, where a row of a single sequence has `slots` prediction slots."""
    return Limits(tokens, max(1, tokens // _TOKENS_PER_SEQUENCE), slots - (-slots // _SPARE_SLOTS))


@_moved.renamed_arguments(most="row_limits")
def fill(lengths: np.ndarray, masks: np.ndarray, row_limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Assigns sequences to rows: best fit, the longest first, for all sequences of one size at once.

    The published packings for BERT (Krell et al. 2021, "Efficient sequence packing without cross-contamination") work
    on a histogram of lengths for the same reason.

    Args:
      lengths: int [n], tokens of each sequence, at least 1 and at most row_limits.tokens.
      masks: int [n], prediction slots that each may use; none over row_limits.masks.
      row_limits: the capacity of a row.

    Returns:
      (members int64 [n], indexes of the sequences row by row, ascending within a row; first int64 [rows + 1], where
      each row begins in `members`)
    """
    lengths, masks = np.asarray(lengths, np.int64), np.asarray(masks, np.int64)
    order = np.lexsort((-masks, -lengths))
    sizes = np.stack([lengths[order], masks[order]])
    bounds = [*np.flatnonzero((sizes[:, 1:] != sizes[:, :-1]).any(0)) + 1, len(order)] if len(order) else []
    rows = _Rows(
        row_limits, len(order), int(lengths.min(initial=row_limits.tokens)), int(masks.min(initial=row_limits.masks))
    )
    row = np.empty(len(order), np.int64)
    begin = 0
    for end in bounds:
        row[begin:end] = rows.place(end - begin, *sizes[:, begin].tolist())
        begin = end
    members = order[np.lexsort((order, row))]
    return members, np.append(0, np.cumsum(np.bincount(row, minlength=rows.count)))


class _Rows:
    """Holds rows being filled, grouped by the number of tokens that still fit (their room)."""

    def __init__(self, row_limits, number, shortest, fewest_masks):
        self.count = 0
        self._row_limits, self._shortest, self._fewest_masks = row_limits, shortest, fewest_masks
        self._sequences = np.empty(number, np.int64)  # how many sequences each row still takes
        self._masks = np.empty(number, np.int64)  # how many masks each row still takes
        self._with_room = [[] for _ in range(row_limits.tokens + 1)]
        self._rooms = 0  # bit r is set where some row has room r

    def place(self, number, length, masks):
        """Places `number` sequences of one size, in rows with the least room first; returns their rows, [number]."""
        parts, room = [], length
        rooms = self._rooms >> length
        while number and rooms:
            skipped = (rooms & -rooms).bit_length() - 1
            room, rooms = room + skipped, rooms >> (skipped + 1)
            parts.append(self._add(self._take(room), room, number, length, masks))
            number -= len(parts[-1])
            room += 1
        if number:
            row_limits = self._row_limits
            per_row = self._num_fitting(row_limits.tokens, row_limits.sequences, row_limits.masks, length, masks)
            new = np.arange(self.count, self.count - (-number // per_row))
            self.count += len(new)
            self._sequences[new], self._masks[new] = row_limits.sequences, row_limits.masks
            parts.append(self._add(new, row_limits.tokens, number, length, masks))
        return np.concatenate(parts)

    def _num_fitting(self, room, sequences_left, masks_left, length, masks):
        """Returns how many sequences of a size fit in rows with such capacity left."""
        fitting = np.minimum(room // length, sequences_left)
        return np.minimum(fitting, masks_left // masks) if masks else fitting

    def _take(self, room):
        """Removes the rows with this room from their group and returns them."""
        parts, self._with_room[room] = self._with_room[room], []
        self._rooms &= ~(1 << room)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _add(self, rows, room, number, length, masks):
        """Adds up to `number` sequences to rows that all have this room, and regroups the rows.

        Returns the row of each sequence that was added.
        """
        fitting = self._num_fitting(room, self._sequences[rows], self._masks[rows], length, masks)
        added = np.minimum(fitting, np.maximum(number - (np.cumsum(fitting) - fitting), 0))
        self._sequences[rows] -= added
        self._masks[rows] -= added * masks
        open_rows = (self._sequences[rows] > 0) & (self._masks[rows] >= self._fewest_masks)
        for times in np.unique(added).tolist():
            left = room - times * length
            group = rows[(added == times) & open_rows] if left >= self._shortest else ()
            if len(group):
                self._with_room[left].append(group)
                self._rooms |= 1 << left
        return np.repeat(rows, added)


@dataclasses.dataclass(frozen=True)
class Places:
    """Locates the sequences of packed rows; every array is int64 [n], in the order of the rows.

    Attributes:
      row: the row of each sequence.
      number: which of its row's sequences it is, from 0.
      begin: the column of its first token.
      lengths: its number of tokens.
    """

    row: np.ndarray
    number: np.ndarray
    begin: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_lengths(cls, lengths: np.ndarray, first: np.ndarray) -> "Places":
        """Returns the places of sequences that are packed one after the other.

        Args:
          lengths: int [n], tokens of each sequence, row by row.
          first: int64 [rows + 1]: row i holds the sequences first[i] to first[i + 1], at least one.
        """
        lengths, counts = np.asarray(lengths, np.int64), np.diff(first)
        row = np.repeat(np.arange(len(counts)), counts)
        before = np.cumsum(lengths) - lengths
        return cls(row, np.arange(len(row)) - first[row], before - before[first[row]], lengths)

    of = from_lengths  # the method's name in earlier versions


@_moved.renamed_arguments(most="row_limits")
def pack(
    batch: Mapping[str, np.ndarray], first: np.ndarray, num_rows: int, row_limits: Limits, pad_id: int, cls_id: int
) -> dict[str, np.ndarray]:
    """Packs a batch whose rows hold one sequence each into rows of several.

    Args:
      batch: arrays [n, ...] of the loader, of data.tasks.Examples or of rows.pad, in the order of the packed rows.
      first: int64 [rows + 1]: row i holds the sequences first[i] to first[i + 1], as `fill` returns it.
      num_rows: rows of the packed batch. Rows behind the filled ones hold [CLS] alone, so that attention is defined,
        and add nothing to a loss.
      row_limits: the shapes of the packed batch; no row exceeds them.
      pad_id, cls_id: ids of the tokenizer.

    Returns:
      The same arrays: per-token ones [num_rows, tokens], of masks [num_rows, masks], per-sequence ones [num_rows,
      sequences, ...], with the sizes of row_limits, zero where a row has fewer sequences (-1 in labels of pairs, which
      then do not count); positions count in the packed row. Also int32 sequence_ids, position_ids [num_rows, tokens]
      and cls_positions [num_rows, sequences].
    """
    batch = dict(batch)
    present = batch["attention_mask"] != 0
    lengths = present.sum(1)
    places = Places.from_lengths(lengths, first)
    shape = (num_rows, row_limits.tokens)
    total = int(lengths.sum())
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    destination = np.repeat(places.row * row_limits.tokens + places.begin, lengths) + within

    def per_token(values, fill=0):
        out = np.full(shape, fill, np.int32)
        out.reshape(-1)[destination] = values
        return out

    def per_sequence(values, fill=0):
        out = np.full((num_rows, row_limits.sequences, *values.shape[1:]), fill, values.dtype)
        out[places.row, places.number] = values
        return out

    packed = {
        "sequence_ids": per_token(np.repeat(places.number + 1, lengths)),
        "position_ids": per_token(within),
        "cls_positions": per_sequence(places.begin.astype(np.int32)),
    }
    if "masked_positions" in batch:
        packed |= _pack_masks(batch, places, num_rows, row_limits)
    fillers = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": 0}
    if "first_subwords" in batch:  # token classification, which has a label per token
        fillers |= {"first_subwords": 0, "labels": -100}
    for name, filler in fillers.items():
        packed[name] = per_token(batch.pop(name)[present], filler)
    for name in ("start_positions", "end_positions"):
        if name in batch:
            packed[name] = per_sequence((batch.pop(name) + places.begin).astype(np.int32))
    for name in batches.LABELS:
        if name in batch:
            packed[name] = per_sequence(batch.pop(name), -1)
    if "global_positions" in batch:
        positions = batch.pop("global_positions")
        positions = per_sequence(np.where(positions < 0, -1, positions + places.begin[:, None]).astype(np.int32), -1)
        positions = np.sort(positions.reshape(num_rows, -1), axis=1)[:, ::-1]  # with -1 at the end
        packed["global_positions"] = positions[:, : row_limits.tokens]
    packed |= {name: per_sequence(array) for name, array in batch.items() if name not in packed}
    for name, value in (("input_ids", cls_id), ("attention_mask", 1), ("sequence_ids", 1)):
        packed[name][len(first) - 1 :, 0] = value
    return packed


def _pack_masks(batch, places, num_rows, row_limits):
    """Returns masked_positions, masked_labels and masked_weights of packed rows, [num_rows, row_limits.masks]."""
    used = batch["masked_weights"] > 0
    sequence, slot = np.nonzero(used)
    row = places.row[sequence]
    counts = np.bincount(row, minlength=num_rows)
    packed_slot = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    columns = {
        "masked_positions": batch["masked_positions"][sequence, slot] + places.begin[sequence],
        "masked_labels": batch["masked_labels"][sequence, slot],
        "masked_weights": batch["masked_weights"][sequence, slot],
    }
    packed = {}
    for name, values in columns.items():
        packed[name] = np.zeros((num_rows, row_limits.masks), batch[name].dtype)
        packed[name][row, packed_slot] = values
    return packed


@dataclasses.dataclass(frozen=True)
class Packs:
    """Holds the packed rows of a corpus's instances, memory-mapped.

    Attributes:
      first: int64 [rows + 1], where each row's instances begin in `members`.
      members: int64 [instances], indexes of instances, row by row.
    """

    first: np.ndarray
    members: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def members_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the instances of some rows.

        Args:
          rows: int64 [rows].

        Returns:
          (indexes of instances, row by row, int64 [n]; int64 [rows + 1], where each row begins in them)
        """
        begin = np.asarray(self.first[rows])
        counts = np.asarray(self.first[rows + 1]) - begin
        first = np.append(0, np.cumsum(counts))
        return self.members[np.arange(first[-1]) + np.repeat(begin - first[:-1], counts)], first

    of = members_of  # the method's name in earlier versions


@_moved.renamed_arguments(most="row_limits")
def open_packs(
    corpus: Corpus,
    split_name: str,
    recipe: instances.Recipe,
    row_limits: Limits,
    masking: Masking | None,
    is_special: np.ndarray,
) -> Packs:
    """Opens the packed rows of a corpus's instances, which are computed first where they are not cached yet.

    Args:
      corpus: the corpus, beside whose instance index they are cached.
      split_name: "train" or "eval".
      recipe: how the instances were made.
      row_limits: the capacity of a row.
      masking: bounds how many tokens of an instance are masked; None where none is.
      is_special: bool [vocabulary], the tokenizer's special tokens.

    Raises:
      UserError: the cache cannot be written.
    """
    index = instances.open_index(corpus, split_name, recipe)
    masks = (masking.unit == "token", masking.rate, masking.slots) if masking else ()
    key = hashing.fold("packs", _VERSION, *recipe.key(), *dataclasses.astuple(row_limits), *masks)
    stem = f"{split_name}-{recipe.format}-{recipe.sequence_length}-packs-{key:016x}"
    folder = instances.cache_folder(corpus)
    paths = folder / f"{stem}.first.npy", folder / f"{stem}.members.npy"
    packs = _open_files(*paths)
    if packs is None:
        try:
            _write_files(
                build_packs(corpus.split(split_name), index, row_limits, masking, is_special), len(index), *paths
            )
        except OSError as error:
            raise UserError(f"{paths[1]}: cannot be written: {error.strerror or error}; make room") from error
        packs = _open_files(*paths)
        assert packs is not None, f"{paths[1]} was written and cannot be read"
    return packs


@_moved.renamed_arguments(most="row_limits")
def build_packs(
    split: Split, index: np.ndarray, row_limits: Limits, masking: Masking | None, is_special: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Assigns instances to rows, window by window.

    Args:
      split: the split of the corpus.
      index: [instances] records of any recipe.
      row_limits, masking, is_special: see open_packs.

    Yields:
      (members, first) of a window, as `fill` returns them; members are indexes into `index`.
    """
    for begin in range(0, len(index), _WINDOW):
        window = np.asarray(index[begin : begin + _WINDOW])
        lengths = instances.row_lengths(window)
        if masking is None:
            masks = np.zeros(len(window), np.int64)
        elif masking.unit == "token":
            masks = masking.wanted(instances.text_lengths(window))
        else:
            starts = range(0, len(window), _INSTANCES_AT_ONCE)
            parts = [window[i : i + _INSTANCES_AT_ONCE] for i in starts]
            masks = np.concatenate([_max_masks(split, part, masking, is_special) for part in parts])
        members, first = fill(lengths, masks, row_limits)
        yield begin + members, first


def _open_files(first, members):
    """Returns the Packs of two files; None where they are missing or do not belong together."""
    arrays = array_files.open_array(first), array_files.open_array(members)
    if any(array is None for array in arrays) or arrays[0][-1] != len(arrays[1]):
        return None
    return Packs(*arrays)


def _write_files(windows, num_instances, first_path, members_path):
    """Writes what `build_packs` yields to two files, each of which appears when it is whole."""
    first_path.parent.mkdir(parents=True, exist_ok=True)
    with files.scratch_folder(first_path) as folder:

        def mapped(file, length):
            return np.lib.format.open_memmap(folder / file, mode="w+", dtype=np.int64, shape=(length,))

        # The number of rows is not known before the end: at most one for each instance.
        members, all_first = mapped("members.npy", num_instances), mapped("longest.npy", num_instances + 1)
        done = rows = 0
        for window_members, window_first in windows:
            members[done : done + len(window_members)] = window_members
            all_first[rows : rows + len(window_first)] = done + window_first
            done, rows = done + len(window_members), rows + len(window_first) - 1
        first = mapped("first.npy", rows + 1)
        first[:] = all_first[: rows + 1]
        for array, partial, path in ((members, "members.npy", members_path), (first, "first.npy", first_path)):
            array.flush()
            array_files.put(folder / partial, path)


def _max_masks(split, records, masking, is_special):
    """Returns the largest number of tokens that whole-word masking may predict in each instance, int64 [instances].

    Where every word is longer than the wanted number, the shortest is predicted (masking.py).
    """
    rows, begins, lengths = batches.text_pieces(split, records)
    rows, begins, lengths = (array[lengths > 0] for array in (rows, begins, lengths))
    tokens, starts = _read_pieces(split, begins, lengths, len(is_special))
    piece_first = np.cumsum(lengths) - lengths
    maskable = ~is_special[tokens]
    starts[piece_first] = True  # [CLS] or [SEP] precedes it
    starts[1:] |= ~maskable[:-1]
    words = np.flatnonzero(starts & maskable)
    word_lengths = np.diff(np.append(np.append(0, np.cumsum(maskable))[words], maskable.sum()))
    instance = rows[np.searchsorted(piece_first, words, side="right") - 1]
    shortest = np.full(len(records), np.iinfo(np.int64).max)
    np.minimum.at(shortest, instance, word_lengths)
    wanted = masking.wanted(np.bincount(instance, word_lengths, len(records)).astype(np.int64))
    return np.where((shortest > wanted) & (shortest <= masking.slots), shortest, wanted)


def _read_pieces(split, begins, lengths, vocab_size):
    """Returns (ids, int64; whether a word starts there, bool), [tokens] each, of pieces of text one after the other."""
    place = np.arange(lengths.sum()) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    tokens, starts = np.empty(len(place), np.int64), np.empty(len(place), bool)
    number = np.repeat(np.searchsorted(split.shard_starts, begins, side="right") - 1, lengths)
    for n in np.unique(number).tolist():
        shard, inside = split.shards[n], number == n
        local = place[inside] - split.shard_starts[n]
        ids = shard.tokens[local]
        largest = int(local[ids.argmax()])
        verification.check_ids(shard, shard.tokens[largest : largest + 1], largest, vocab_size)
        tokens[inside] = ids
        starts[inside] = shard.word_starts[local // 8] >> (7 - local % 8).astype(np.uint8) & 1  # see unpack_bits
    return tokens, starts
