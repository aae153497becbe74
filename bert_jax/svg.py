"""Holds what pictures have in common: colours, lines and labels in SVG, round numbers for axes, places for labels."""

import html
import math
from collections.abc import Sequence

from bert_jax import _moved

TEXT, GRID = "#333333", "#dddddd"
# Colours that colour-blind readers can distinguish (Okabe and Ito 2008, "Color Universal Design"), without the yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def polyline(points: Sequence[tuple[float, float]], colour: str, width: float, dashes: str = "") -> str:
    """Returns a line through points, in pixels; `dashes` as in stroke-dasharray."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def label(x: float, y: float, words: str, size: int = 12, anchor: str = "start", weight: str = "normal") -> str:
    """Returns a text at a place, in pixels; `anchor` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{TEXT}">{html.escape(words)}</text>'
    )


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """Returns a picture with a white ground, ending in a newline; `title` is what a reader without eyes is told."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{html.escape(title)}</title>", ground, *parts, "</svg>", ""])


@_moved.renamed_arguments(about="count", whole="integers")
def round_numbers(low: float, high: float, count: int = 5, integers: bool = False) -> list[float]:
    """Returns the multiples of a round number, 1, 2 or 5 times a power of ten, from `low` to `high`.

    Args:
      low, high: ends of the range, low < high.
      count: about how many are wanted; there are at most two more.
      integers: whether the round number is at least 1.
    """
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= count + 2)
    step = max(step, 1.0) if integers else step
    first = math.ceil(low / step - 1e-9)
    numbers = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [float(f"{number:.12g}") for number in numbers]


def short(number: float) -> str:
    """Returns a number in few characters, such as "1.5M"."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"


def spread(wanted: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Returns places from `low` to `high` near the wanted ones, in their order, at least `gap` apart.

    Where the range is too short for that, the places are as far apart as it allows.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    # Labels that would overlap form a block, placed about the mean of its wanted places; blocks that meet are merged.
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _start(wanted, blocks[-2], gap, low, high) + gap * len(blocks[-2]) > _start(
            wanted, blocks[-1], gap, low, high
        ):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    places = [0.0] * len(wanted)
    for block in blocks:
        start = _start(wanted, block, gap, low, high)
        for place, index in enumerate(block):
            places[index] = start + gap * place
    return places


def _start(wanted, block, gap, low, high):
    length = gap * (len(block) - 1)
    middle = sum(wanted[index] for index in block) / len(block)
    return max(low, min(high - length, middle - length / 2))
