"""Checks how the vectors of a text's tokens are pooled, as `Embedder` and `predict embed --pooling` take it."""

import re

from bert_jax.config.finetuning_keys import TOKEN_POOLING
from bert_jax.config.schema import closest
from bert_jax.errors import UserError

LAST_LAYERS = re.compile(r"last_([1-9]\d*)(_concat)?")
_NAMED = (*TOKEN_POOLING, "second_to_last")


def check_kind(where: str, kind: object) -> None:
    """Raises UserError, which begins with `where` and names the closest, for what is no way of pooling."""
    if kind in _NAMED or LAST_LAYERS.fullmatch(str(kind)):
        return
    near = closest(str(kind), (*_NAMED, "last_4", "last_4_concat"))
    named = ", ".join(_NAMED)
    raise UserError(f"{where}: found {kind!r}; expected {named}, last_4 or last_4_concat (any number of layers){near}")
