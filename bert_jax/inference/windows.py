"""Texts longer than the model: cut, or read in overlapping windows."""

from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.inference.batching import Row

LONG = ("windows", "truncate")


def check_long(long: str) -> None:
    """Raises UserError unless `long` is a way to treat long texts."""
    if long not in LONG:
        raise UserError(f"long: found {long!r}; expected {' or '.join(LONG)}")


def cut(ids: Sequence[int], room: int) -> list[Sequence[int]]:
    """Windows of `room` tokens that begin three quarters of `room` apart; the last one ends with the text.

    All are full, so that each has as much context as the model can see; a text that fits is its only window.
    """
    if len(ids) <= room:
        return [ids]
    starts = [*range(0, len(ids) - room, room - room // 4), len(ids) - room]
    return [ids[start : start + room] for start in starts]


def single(tokenizer: Tokenizer, ids: Sequence[int], longest: int, long: str, repeated: int = 0) -> list[Row]:
    """The rows of one text: all its windows, or (truncate) its beginning alone.

    Args:
      tokenizer: the model's.
      ids: of the text.
      longest: tokens of a row.
      long: "windows" or "truncate".
      repeated: tokens at the beginning of the text, a prompt, that every window begins with.
    """
    room = longest - rows_lib.num_special(tokenizer, pair=False)
    if len(ids) <= room or long == "truncate":
        parts = [ids[:room]]
    else:
        parts = [[*ids[:repeated], *part] for part in cut(ids[repeated:], room - repeated)]
    return [Row(*rows_lib.join(tokenizer, part)) for part in parts]


def grouped(outputs: Sequence[np.ndarray], counts: Sequence[int]) -> Iterator[np.ndarray]:
    """The outputs of each text's rows, [rows, ...], from those of all rows and the rows of each text."""
    begin = 0
    for count in counts:
        yield np.stack(outputs[begin : begin + count])
        begin += count
