"""Several sequences in one row: which ones share a row, and a batch's arrays put together. numpy; no jax.

A packed row holds its sequences one after the other. Three arrays say where they lie: sequence_ids, position_ids and
cls_positions, as in a batch.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

_TOKENS_A_SEQUENCE = 4  # a row has room for one sequence for so many of its tokens
_SPARE = 8  # one prediction slot for so many more than a row of one sequence has: short sequences round up


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a row holds at most: the shapes of packed batches, whatever the text is.

    Attributes:
      tokens: special ones included.
      sequences: places in cls_positions.
      masks: prediction slots; 0 where nothing is masked.
    """

    tokens: int
    sequences: int
    masks: int = 0


def limits(tokens: int, slots: int = 0) -> Limits:
    """The limits of rows of `tokens` tokens, where a row of a single sequence has `slots` prediction slots."""
    return Limits(tokens, max(1, tokens // _TOKENS_A_SEQUENCE), slots - (-slots // _SPARE))


def fill(lengths: np.ndarray, masks: np.ndarray, most: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Which sequences share a row: best fit, the longest first, for all sequences of one size at once.

    The published packings for BERT (Krell et al. 2021, "Efficient sequence packing without cross-contamination") work
    on a histogram of lengths for the same reason.

    Args:
      lengths: int [n], tokens of each sequence, at least 1 and at most most.tokens.
      masks: int [n], prediction slots that each may use; none over most.masks.
      most: what a row holds.

    Returns:
      (members int64 [n], the sequences row by row, in ascending order in each; first int64 [rows + 1], where each row
      begins among them)
    """
    lengths, masks = np.asarray(lengths, np.int64), np.asarray(masks, np.int64)
    order = np.lexsort((-masks, -lengths))
    sizes = np.stack([lengths[order], masks[order]])
    bounds = [*np.flatnonzero((sizes[:, 1:] != sizes[:, :-1]).any(0)) + 1, len(order)] if len(order) else []
    rows = _Rows(most, len(order), int(lengths.min(initial=most.tokens)), int(masks.min(initial=most.masks)))
    row = np.empty(len(order), np.int64)
    begin = 0
    for end in bounds:
        row[begin:end] = rows.place(end - begin, *sizes[:, begin].tolist())
        begin = end
    members = order[np.lexsort((order, row))]
    return members, np.append(0, np.cumsum(np.bincount(row, minlength=rows.count)))


class _Rows:
    """Rows being filled, kept by the tokens that they have left."""

    def __init__(self, most, number, shortest, fewest_masks):
        self.count = 0
        self._most, self._shortest, self._fewest = most, shortest, fewest_masks
        self._sequences = np.empty(number, np.int64)  # that each row still takes
        self._masks = np.empty(number, np.int64)
        self._with_room = [[] for _ in range(most.tokens + 1)]
        self._rooms = 0  # one bit for each room that some row has

    def place(self, number, length, masks):
        """The rows of `number` sequences of one size, [number]; those with the least room are filled first."""
        parts, room = [], length
        rooms = self._rooms >> length
        while number and rooms:
            skipped = (rooms & -rooms).bit_length() - 1
            room, rooms = room + skipped, rooms >> (skipped + 1)
            parts.append(self._add(self._taken(room), room, number, length, masks))
            number -= len(parts[-1])
            room += 1
        if number:
            most = self._most
            each = self._fitting(most.tokens, most.sequences, most.masks, length, masks)
            new = np.arange(self.count, self.count - (-number // each))
            self.count += len(new)
            self._sequences[new], self._masks[new] = most.sequences, most.masks
            parts.append(self._add(new, most.tokens, number, length, masks))
        return np.concatenate(parts)

    def _fitting(self, room, sequences, left, length, masks):
        """How many sequences of a size fit in rows with this left."""
        fitting = np.minimum(room // length, sequences)
        return np.minimum(fitting, left // masks) if masks else fitting

    def _taken(self, room):
        parts, self._with_room[room] = self._with_room[room], []
        self._rooms &= ~(1 << room)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _add(self, rows, room, number, length, masks):
        """The row of each sequence that goes to these rows, which all have this room; they are kept by what is left."""
        fitting = self._fitting(room, self._sequences[rows], self._masks[rows], length, masks)
        added = np.minimum(fitting, np.maximum(number - (np.cumsum(fitting) - fitting), 0))
        self._sequences[rows] -= added
        self._masks[rows] -= added * masks
        more = (self._sequences[rows] > 0) & (self._masks[rows] >= self._fewest)
        for times in np.unique(added).tolist():
            left = room - times * length
            some = rows[(added == times) & more] if left >= self._shortest else ()
            if len(some):
                self._with_room[left].append(some)
                self._rooms |= 1 << left
        return np.repeat(rows, added)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the sequences of packed rows lie; all int64 [n], in the order of the rows.

    Attributes:
      row: which row.
      number: which of the row's sequences, from 0.
      begin: its first token's column.
      lengths: its tokens.
    """

    row: np.ndarray
    number: np.ndarray
    begin: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray, first: np.ndarray) -> "Places":
        """Of sequences of these lengths [n], those from first[i] to first[i + 1] in row i, none of which is empty."""
        lengths, counts = np.asarray(lengths, np.int64), np.diff(first)
        row = np.repeat(np.arange(len(counts)), counts)
        before = np.cumsum(lengths) - lengths
        return cls(row, np.arange(len(row)) - first[row], before - before[first[row]], lengths)


def pack(
    batch: Mapping[str, np.ndarray], first: np.ndarray, num_rows: int, most: Limits, pad_id: int, cls_id: int
) -> dict[str, np.ndarray]:
    """A batch's rows, each of one sequence, put together in rows of several.

    Args:
      batch: arrays as the loader, data.tasks.Examples or rows.pad makes them, [n, ...], in the order of the new rows.
      first: int64 [rows + 1], the sequences first[i] to first[i + 1] are in row i, as `fill` gives it.
      num_rows: of the packed batch. Those behind the filled ones hold [CLS] alone, so that attention has something to
        see, and count nothing.
      most: the shapes of the packed batch; none of its limits is exceeded.
      pad_id, cls_id: of the tokenizer.

    Returns:
      the same arrays: of tokens [num_rows, most.tokens], of masks [num_rows, most.masks], of sequences [num_rows,
      most.sequences, ...] with zeros where a row has fewer; positions are those in the new row. And int32 sequence_ids,
      position_ids [num_rows, most.tokens] and cls_positions [num_rows, most.sequences].
    """
    batch = dict(batch)
    present = batch["attention_mask"] != 0
    lengths = present.sum(1)
    places = Places.of(lengths, first)
    shape = (num_rows, most.tokens)
    total = int(lengths.sum())
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    to = np.repeat(places.row * most.tokens + places.begin, lengths) + within

    def of_tokens(values, fill=0):
        out = np.full(shape, fill, np.int32)
        out.reshape(-1)[to] = values
        return out

    def of_sequences(values):
        out = np.zeros((num_rows, most.sequences, *values.shape[1:]), values.dtype)
        out[places.row, places.number] = values
        return out

    packed = {
        "sequence_ids": of_tokens(np.repeat(places.number + 1, lengths)),
        "position_ids": of_tokens(within),
        "cls_positions": of_sequences(places.begin.astype(np.int32)),
    }
    if "masked_positions" in batch:
        packed |= _masks(batch, places, num_rows, most)
    fillers = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": 0}
    if "first_subwords" in batch:  # of token classification, whose labels are the tokens'
        fillers |= {"first_subwords": 0, "labels": -100}
    for name, filler in fillers.items():
        packed[name] = of_tokens(batch.pop(name)[present], filler)
    for name in ("start_positions", "end_positions"):
        if name in batch:
            packed[name] = of_sequences((batch.pop(name) + places.begin).astype(np.int32))
    packed |= {name: of_sequences(array) for name, array in batch.items() if name not in packed}
    for name, value in (("input_ids", cls_id), ("attention_mask", 1), ("sequence_ids", 1)):
        packed[name][len(first) - 1 :, 0] = value
    return packed


def _masks(batch, places, num_rows, most):
    """masked_positions, masked_labels and masked_weights of packed rows, [num_rows, most.masks]."""
    used = batch["masked_weights"] > 0
    sequence, slot = np.nonzero(used)
    row = places.row[sequence]
    counts = np.bincount(row, minlength=num_rows)
    at = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    values = {
        "masked_positions": batch["masked_positions"][sequence, slot] + places.begin[sequence],
        "masked_labels": batch["masked_labels"][sequence, slot],
        "masked_weights": batch["masked_weights"][sequence, slot],
    }
    packed = {}
    for name, found in values.items():
        packed[name] = np.zeros((num_rows, most.masks), batch[name].dtype)
        packed[name][row, at] = found
    return packed
