"""What a config's keys and values are held against: types, and the names that a misspelled one is closest to."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

from bert_jax.errors import UserError


def check_type(where: str, value: Any, default: Any) -> None:
    """Raises UserError, which begins with `where`, if a value has not the type of its default."""
    kind = type(default)
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        good = True
    if kind is tuple and isinstance(value, list):
        good = True
    if not good:
        raise UserError(
            f"{where}: found {value!r} ({type(value).__name__}); expected a {kind.__name__} such as {default!r}"
        )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def closest(word: str, names: Iterable[str]) -> str:
    """What a message about an unknown name ends with: the dotted name or group that was meant, or ""."""
    names = list(names)
    group, _, last = word.rpartition(".")
    same = [name for name in names if name.rpartition(".")[2] == last]  # the right key in a wrong group
    close = difflib.get_close_matches(word, same, n=1, cutoff=0.0)
    if not close and group and not any(name.startswith(f"{group}.") for name in names):
        groups = difflib.get_close_matches(group, {name.rpartition(".")[0] for name in names}, n=1)
        inside = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] in groups}
        close = [inside[key] for key in difflib.get_close_matches(last, inside, n=1)] or [f"{near}." for near in groups]
    close = close or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
