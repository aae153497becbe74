"""A trained model at work: fill-mask."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data import tokenizers
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained
from bert_jax.training.models import open_model

_LENGTH_STEP = 32  # rows are padded to a multiple of it, so that few shapes are compiled
_BATCH = 32


class FillMask:
    """Predicts the tokens behind the mask tokens of a text.

    Attributes:
      tokenizer: the model's.
      max_length: tokens that a text may have, special tokens included.
    """

    def __init__(self, model: model_lib.Model, params: dict, tokenizer: tokenizers.Tokenizer):
        if model.spec.attention == "causal":
            raise UserError("fill-mask: the model is left-to-right (config.model.attention=causal) and fills no mask")
        self.tokenizer = tokenizer
        self.max_length = model.spec.max_positions
        self._params = params
        self._predict = jax.jit(functools.partial(_top, model), static_argnames="top_k")

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike) -> "FillMask":
        """The newest checkpoint of a run's workdir. Raises UserError if there is none."""
        loaded = open_model(path)
        return cls(loaded.model, loaded.params, loaded.tokenizer)

    def __call__(self, text: str | Sequence[str], top_k: int = 5) -> dict[str, Any] | list[dict[str, Any]]:
        """The most probable tokens of each mask.

        Args:
          text: one text or several, each with at least one mask token ("[MASK]", or what the vocabulary calls it).
          top_k: tokens per mask.

        Returns:
          {"masks": [[{"token": str, "id": int, "score": float}, ...], ...]}, a list per mask, best first, scores
          being probabilities over the whole vocabulary; for several texts, a list of these in their order.

        Raises:
          UserError: a text is empty, has no mask or is longer than the model; or top_k is out of range.
        """
        if not 1 <= top_k <= self.tokenizer.vocab_size:
            raise UserError(f"top_k: found {top_k}; expected 1 to {self.tokenizer.vocab_size}")
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.check(one, f"text {i}") for i, one in enumerate(texts, 1)]
        answers: list[dict[str, Any]] = [{}] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for begin in range(0, len(order), _BATCH):
            some = order[begin : begin + _BATCH]
            for i, answer in zip(some, self._answers([rows[i] for i in some], top_k), strict=True):
                answers[i] = answer
        return answers[0] if isinstance(text, str) else answers

    def check(self, text: str, where: str = "text") -> list[int]:
        """The text's ids with special tokens. Raises UserError, beginning with `where`, if it cannot be answered."""
        if not text.strip():
            raise UserError(f"{where}: empty; expected words and {self.tokenizer.token(self.tokenizer.mask_id)}")
        ids = [self.tokenizer.cls_id, *self.tokenizer.encode([text], special=True)[0], self.tokenizer.sep_id]
        if len(ids) > self.max_length:
            raise UserError(
                f"{where}: {len(ids)} tokens with the special ones, but the model reads at most {self.max_length}; "
                "shorten it"
            )
        if self.tokenizer.mask_id not in ids:
            mask = self.tokenizer.token(self.tokenizer.mask_id)
            raise UserError(f"{where}: no {mask} in {_shortened(text)!r}; expected at least one")
        return ids

    def _answers(self, rows, top_k):
        batch = 1 << (len(rows) - 1).bit_length()
        length = min(-(-max(map(len, rows)) // _LENGTH_STEP) * _LENGTH_STEP, self.max_length)
        counts = [row.count(self.tokenizer.mask_id) for row in rows]
        slots = 1 << (max(counts) - 1).bit_length()
        input_ids = np.full((batch, length), self.tokenizer.pad_id, np.int32)
        attention_mask = np.zeros((batch, length), np.int32)
        attention_mask[:, 0] = 1
        positions = np.zeros((batch, slots), np.int32)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
            positions[i, : counts[i]] = np.flatnonzero(input_ids[i] == self.tokenizer.mask_id)
        scores, ids = jax.device_get(
            self._predict(
                self._params,
                {
                    "input_ids": input_ids,
                    "attention_mask": attention_mask,
                    "token_type_ids": np.zeros_like(input_ids),
                    "masked_positions": positions,
                },
                top_k=top_k,
            )
        )
        for i, count in enumerate(counts):
            yield {
                "masks": [
                    [
                        {"token": self.tokenizer.token(int(token)), "id": int(token), "score": float(score)}
                        for token, score in zip(ids[i, slot], scores[i, slot], strict=True)
                    ]
                    for slot in range(count)
                ]
            }


def load(name: str | os.PathLike) -> tuple[Pretrained, tokenizers.Tokenizer]:
    """A model with its parameters, and its vocabulary; see training.models.open_model for names and errors."""
    model = open_model(name)
    return model, model.tokenizer


def _top(model, params, batch, *, top_k):
    logits = model.apply(params, batch)["mlm_logits"]
    return jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top_k)


def _shortened(text, length=60):
    return text if len(text) <= length else text[: length - 3] + "..."
