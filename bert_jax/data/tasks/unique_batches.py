"""Divides an epoch into batches without the same text twice, as a function of data, seed and epoch alone.

`identities` says which texts are the same.
"""

import collections
from collections.abc import Sequence

import numpy as np

from bert_jax.data import hashing


def order(texts: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the rows of each batch of an epoch, int64 [batches, batch_size]; -1 where a batch has fewer rows.

    Rows come in a random order that the seed and the epoch decide. A row goes to the first batch with room behind the
    batches that hold one of its texts; a row for which none is left goes to any batch without its texts, from which
    another row moves if it is full, and if there is none it is left out of this epoch.

    Args:
      texts: the numbers of each row's texts, int [rows, columns]; -1 is no text.
      batch_size: rows of a batch.
      seed: decides the order.
      epoch: counts from 0.
    """
    number = len(texts)
    count = -(-number // batch_size)
    rows = hashing.permute(np.arange(number), number, hashing.fold("fine-tuning order", seed, epoch))
    batches: list[list[int]] = [[] for _ in range(count)]
    room_from = list(range(count + 1))  # the first batch with room from a batch on, through the batches in between
    next_batch: dict[int, int] = {}  # the first batch behind the last one that holds a text

    def with_room(batch):
        root = batch
        while room_from[root] != root:
            root = room_from[root]
        while room_from[batch] != root:
            room_from[batch], batch = root, room_from[batch]
        return root

    unplaced = []
    for row, row_texts in zip(rows.tolist(), texts[rows].tolist(), strict=True):
        row_texts = {text for text in row_texts if text >= 0}
        batch = with_room(max((next_batch.get(text, 0) for text in row_texts), default=0))
        if batch == count:
            unplaced.append((row, row_texts))
            continue
        batches[batch].append(row)
        if len(batches[batch]) == batch_size:
            room_from[batch] = batch + 1
        for text in row_texts:
            next_batch[text] = batch + 1
    if unplaced:
        _place_late(batches, unplaced, texts, batch_size)
    table = np.full((count, batch_size), -1)
    for batch, members in enumerate(batches):
        table[batch, : len(members)] = members
    return table


def commonest(texts: np.ndarray) -> tuple[int, int]:
    """Returns (number of the text that most rows hold, how many rows hold it).

    Args:
      texts: int [rows, columns]; -1 is no text.
    """
    ordered = np.sort(texts, axis=1)
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    counts = np.bincount(ordered[first & (ordered >= 0)])
    return int(counts.argmax()), int(counts.max())


def _place_late(batches, unplaced, texts, batch_size):
    """Puts rows that found no place at the end into batches without their texts, in place.

    Where each of those is full, one of its rows moves to a batch with room.
    """
    held = [collections.Counter(_different(texts[members])) for members in batches]

    def put(row, row_texts, batch):
        batches[batch].append(row)
        held[batch].update(row_texts)

    for row, row_texts in unplaced:
        incomplete = [batch for batch, members in enumerate(batches) if len(members) < batch_size]
        fitting = [batch for batch in range(len(batches)) if not any(held[batch][text] for text in row_texts)]
        place = next((batch for batch in fitting if len(batches[batch]) < batch_size), None)
        if place is not None:
            put(row, row_texts, place)
            continue
        moves = ((batch, i, target) for batch in fitting for i in range(batch_size) for target in incomplete)
        for batch, i, target in moves:
            moved = set(_different(texts[[batches[batch][i]]]))
            if not any(held[target][text] for text in moved):
                put(batches[batch].pop(i), moved, target)
                held[batch].subtract(moved)
                put(row, row_texts, batch)
                break


def _different(texts):
    """Returns the texts of rows, int [rows, columns], those of each row once."""
    return [text for row in texts.tolist() for text in {text for text in row if text >= 0}]


def identities(texts: Sequence[str], ids: Sequence[Sequence[int]], unknown: int | None) -> np.ndarray:
    """Returns numbers that are equal for texts with equal token ids, which a model cannot tell apart, int32 [texts].

    Such texts differ by white space, say, or by case where the tokenizer knows none, or behind the end of a row. Texts
    with unknown tokens may be any, and are told apart as they are written.

    Args:
      texts: without prompts; equal ones count as the first of them.
      ids: token ids of each, without those of its prompt.
      unknown: id of the unknown token; None for a vocabulary without it.
    """
    first: dict[str, str | bytes] = {}
    numbers: dict[str | bytes, int] = {}
    pairs = list(zip(texts, ids, strict=True))
    tokens = (text if unknown in row else np.asarray(row, np.int64).tobytes() for text, row in pairs)
    keys = [first.setdefault(text, key) for (text, _), key in zip(pairs, tokens, strict=True)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int32)
