"""Writes the tables of the comparison."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """Holds the result for one model or tokenizer.

    Attributes:
      name: name of the model or tokenizer.
      figures: errors or counts by column.
      failed: the columns that are over their bar.
    """

    name: str
    figures: dict
    failed: tuple[str, ...]


def table(rows: list[Row]) -> str:
    """Returns a table in Markdown."""
    columns = list(rows[0].figures)
    lines = [f"| | {' | '.join(columns)} | |", f"|---|{'---|' * len(columns)}---|"]
    for row in rows:
        cells = [f"{figure:.1e}" if isinstance(figure, float) else str(figure) for figure in row.figures.values()]
        cells.append(f"FAIL: {', '.join(row.failed)}" if row.failed else "ok")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
