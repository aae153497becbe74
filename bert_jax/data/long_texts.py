"""Makes one row of a text that is longer than the encoder's rows: its beginning, both its ends, or all its chunks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LongReading:
    """Says how long texts are read.

    Attributes:
      long: "truncate" (the beginning), "head_tail" (the beginning and the end; Sun et al. 2019, section 5.3.1) or
        "chunks" (all of it, in rows that model.documents combines).
      length: the most tokens of a text, with the special tokens of its chunks.
      head_tokens: tokens of the beginning, with "head_tail".
      chunk_length: tokens of a chunk, special ones included; 0 without chunks.
    """

    long: str
    length: int
    head_tokens: int = 0
    chunk_length: int = 0

    @classmethod
    def from_config(cls, config: Any) -> "LongReading":
        """Returns how a fine-tuning config reads texts."""
        task = config.task
        chunk = task.chunk_length if task.long == "chunks" else 0
        return cls(task.long, config.data.sequence_length, task.head_tokens, chunk)

    def room(self, tokenizer: Tokenizer) -> int:
        """Returns how many tokens of a text are read, special tokens left out."""
        special = rows_lib.num_special(tokenizer, pair=False)
        if not self.chunk_length:
            return self.length - special
        full, rest = divmod(self.length, self.chunk_length)
        return full * (self.chunk_length - special) + max(0, rest - special)

    def kept(self, ids: Sequence[int], room: int) -> Sequence[int]:
        """Returns what is read of a text, at most `room` of its token ids."""
        if len(ids) <= room or self.long != "head_tail":
            return ids[:room]
        head = min(self.head_tokens, room)
        return [*ids[:head], *ids[len(ids) - (room - head) :]]

    def lengths(self, tokenizer: Tokenizer, tokens: np.ndarray) -> np.ndarray:
        """Returns the tokens of each text's row, int32 [texts]; tokens: int [texts], without special tokens."""
        special = rows_lib.num_special(tokenizer, pair=False)
        chunks = 1
        if self.chunk_length:
            chunks = np.maximum(1, -(-tokens // (self.chunk_length - special)))
        return (tokens + special * chunks).astype(np.int32)

    def row(self, tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Returns (ids, segments) of a text that was cut by `kept`: one row, or its chunks one behind the other.

        All chunks but the last one are full.
        """
        if not self.chunk_length:
            return rows_lib.join(tokenizer, ids)
        room = self.chunk_length - rows_lib.num_special(tokenizer, pair=False)
        parts = [rows_lib.join(tokenizer, ids[start : start + room]) for start in range(0, max(1, len(ids)), room)]
        return [i for part, _ in parts for i in part], [i for _, part in parts for i in part]


def settings(reading: LongReading) -> dict[str, Any]:
    """Returns what the prediction of new texts needs to know of a reading, as JSON values; {} for "truncate"."""
    if reading.long == "truncate":
        return {}
    return {"long": reading.long} | ({"head_tokens": reading.head_tokens} if reading.long == "head_tail" else {})


def bucket_lengths(buckets: Sequence[int], longest: int, chunk_length: int = 0) -> tuple[int, ...]:
    """Returns the lengths that rows are padded to, ascending; the last one is `longest`.

    With chunks they are those of a single chunk, and then 2, 3, 4, 6, 8, 12, 16, 24, ... chunks.
    """
    single = min(longest, chunk_length) if chunk_length else longest
    lengths = sorted(size for size in buckets if size < single)
    number = 1
    while chunk_length and number * chunk_length < longest:
        lengths.append(number * chunk_length)
        number = 2 if number == 1 else number * 3 // 2 if number & (number - 1) == 0 else number * 4 // 3
    return (*lengths, longest)
