"""Reads cells of labelled records: texts, numbers and lists of them, refused with their place."""

import contextlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from bert_jax.data.tasks.records import Table
from bert_jax.errors import UserError


def text(table: Table, i: int, name: str) -> str:
    """Returns the text of record `i` in a column. Raises UserError as `check_text` does."""
    return check_text(table, i, name, table.columns[name][i])


def check_text(table: Table, i: int, name: str, value: Any) -> str:
    """Returns a value of record `i` in a column. Raises UserError if it is not a text, or is blank."""
    if not isinstance(value, str):
        raise UserError(f"{table.where(i)}: {name!r} holds {kind_of(value)}; expected text")
    if not value.strip():
        raise UserError(f"{table.where(i)}: {name!r} is empty; expected text")
    return value


def number(table: Table, i: int, name: str, value: Any) -> float:
    """Returns a value of record `i` in a column as a number. Raises UserError if it is not a finite one."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = float("nan")
    if not np.isfinite(result):
        raise UserError(f"{table.where(i)}: {name!r} holds {value!r}; expected a number")
    return result


def listed(value: Any) -> Any:
    """Returns a list for a list, a tuple, an array, or a list as JSON text, which a CSV file holds; else the value."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    return list(value) if isinstance(value, list | tuple | np.ndarray) else value


def check_named_once(columns: Iterable[str]) -> None:
    """Raises UserError if config.task names a column for two things; "" is none."""
    names = [name for name in columns if name]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"config.task: column {name!r} is named for two things; expected one for each")


def kind_of(value: Any) -> str:
    """Returns the type of a value in words, for messages."""
    return "nothing" if value is None else f"a {type(value).__name__}"
