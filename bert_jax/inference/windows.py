"""Splits texts that are longer than the model into rows: truncated, or in overlapping windows."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax import _moved
from bert_jax.data import rows as rows_lib
from bert_jax.data.long_texts import LongReading
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.inference.batching import Row
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import Model

LONG = ("windows", "truncate", "head_tail")
HEAD_TOKENS = 128  # where a model was fine-tuned without (Sun et al. 2019, section 5.3.1)


def check_long(long: str) -> None:
    """Raises UserError unless `long` is one of LONG."""
    if long not in LONG:
        raise UserError(f"long: found {long!r}; expected {', '.join(LONG[:-1])} or {LONG[-1]}")


def long_of(long: str | None, model: Pretrained, default: str) -> str:
    """Returns what a predictor does with long texts: as asked, else as the model was fine-tuned, else `default`.

    Args:
      long: the predictor's argument; None for the model's own.
      model: the model.
      default: for a model that learned from the beginnings of long texts, or of which nothing is known.

    Raises:
      UserError: there is no such way, or the model has another one.
    """
    own = model.settings.get("long")
    if own == "chunks" and long not in (None, own):
        raise UserError(f"long: found {long!r}; expected chunks, in which {model.name} was fine-tuned")
    long = long or own or default
    if long != "chunks":
        check_long(long)
    elif own != long:
        raise UserError(
            f"long: found 'chunks'; expected {', '.join(LONG[:-1])} or {LONG[-1]}, as {model.name} was not fine-tuned "
            "with config.task.long=chunks"
        )
    return long


def encoder_of_chunks(model: Pretrained) -> Pretrained:
    """Returns a model that reads texts in chunks without its task: the encoder alone; any other model as it is."""
    task = model.model.spec.task
    if not (task and task.chunk_length):
        return model
    settings = {key: value for key, value in model.settings.items() if key not in ("long", "max_length", "pooling")}
    spec = dataclasses.replace(model.model.spec, task=None)
    return dataclasses.replace(model, model=Model(spec), settings=settings, labels=(), problem="", scheme="")


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
def rows_of_text(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    max_length: int,
    long: str,
    prompt: int = 0,
    *,
    head_tokens: int | None = None,
    chunk_length: int = 0,
) -> list[Row]:
    """Returns the rows of one text: all its windows, or one row.

    Args:
      tokenizer: the model's tokenizer.
      ids: token ids of the text, without special tokens.
      max_length: the most tokens of a row, special tokens included.
      long: "windows", or how one row is made of a text that does not fit it (data.long_texts.LongReading).
      prompt: number of tokens at the beginning of the text that belong to a prompt, which every window repeats.
      head_tokens: tokens of the beginning, with "head_tail"; None: HEAD_TOKENS, and at most a quarter of the text's.
      chunk_length: tokens of a chunk, with "chunks".
    """
    room = LongReading(long, max_length, 0, chunk_length).room(tokenizer)
    head = min(HEAD_TOKENS, room // 4) if head_tokens is None else head_tokens
    reading = LongReading(long, max_length, head, chunk_length)
    if len(ids) <= room or long != "windows":
        return [Row(*reading.row(tokenizer, reading.kept(ids, room)))]
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
