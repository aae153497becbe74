"""Splits texts that are longer than the model into rows: truncated, or in overlapping windows."""

from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax import _moved
from bert_jax.data import rows as rows_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.inference.batching import Row

LONG = ("windows", "truncate")


def check_long(long: str) -> None:
    """Raises UserError unless `long` is "windows" or "truncate"."""
    if long not in LONG:
        raise UserError(f"long: found {long!r}; expected {' or '.join(LONG)}")


@_moved.renamed_arguments(room="size")
def overlapping_windows(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    """Splits token ids into windows of `size` tokens, each starting three quarters of `size` after the one before.

    A text of at most `size` tokens is one window. In a longer text every window is full, the last one ending with the
    text, so that each token is read with as much context as the model allows.
    """
    if len(ids) <= size:
        return [ids]
    starts = [*range(0, len(ids) - size, size - size // 4), len(ids) - size]
    return [ids[start : start + size] for start in starts]


@_moved.renamed_arguments(longest="max_length", repeated="prompt")
def rows_of_text(tokenizer: Tokenizer, ids: Sequence[int], max_length: int, long: str, prompt: int = 0) -> list[Row]:
    """Returns the rows of one text: all its windows, or its beginning alone.

    Args:
      tokenizer: the model's tokenizer.
      ids: token ids of the text, without special tokens.
      max_length: the most tokens of a row, special tokens included.
      long: "windows" or "truncate": what happens to a text that does not fit a row.
      prompt: number of tokens at the beginning of the text that belong to a prompt, which every window repeats.
    """
    room = max_length - rows_lib.num_special(tokenizer, pair=False)
    if len(ids) <= room or long == "truncate":
        parts = [ids[:room]]
    else:
        parts = [[*ids[:prompt], *part] for part in overlapping_windows(ids[prompt:], room - prompt)]
    return [Row(*rows_lib.join(tokenizer, part)) for part in parts]


def group_by_text(outputs: Sequence[np.ndarray], counts: Sequence[int]) -> Iterator[np.ndarray]:
    """Yields the stacked outputs of each text's rows, [rows, ...].

    Args:
      outputs: one array for each row of all texts, in order.
      counts: the number of rows of each text.
    """
    begin = 0
    for count in counts:
        yield np.stack(outputs[begin : begin + count])
        begin += count


def __getattr__(name):
    return _moved.find("inference.windows", name)
