"""Figures of the papers, to stand beside ours."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper: `rows` maps the paper's name of a setting to a figure for each column, None where it has none."""

    title: str
    source: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | None]]


TABLES: Mapping[str, Table] = {}
