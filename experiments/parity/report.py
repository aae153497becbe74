"""The rows of the tables."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of one model or tokenizer.

    Attributes:
      name: of what was compared.
      figures: by column.
      failed: the columns over their bar.
    """

    name: str
    figures: dict
    failed: tuple[str, ...]


def table(found: list[Row]) -> str:
    """Markdown."""
    columns = list(found[0].figures)
    lines = [f"| | {' | '.join(columns)} | |", f"|---|{'---|' * len(columns)}---|"]
    for row in found:
        cells = [f"{figure:.1e}" if isinstance(figure, float) else str(figure) for figure in row.figures.values()]
        cells.append(f"FAIL: {', '.join(row.failed)}" if row.failed else "ok")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
