"""Holds what a report's pictures have in common: the looks of arms, places for labels, PNG files.

The same folders and the same matplotlib give the same bytes.
"""

import dataclasses
import io
from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

# Colours that colour-blind readers can distinguish (Okabe and Ito 2008, "Color Universal Design"), without the yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# An arm beyond the colours repeats one with another line and marker.
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FONT_SIZE = 9
# Ignores the user's matplotlibrc, and allows any characters in names of arms.
STYLE = {**matplotlib.rcParamsDefault, "text.parse_math": False, "font.size": FONT_SIZE}
STYLE.pop("backend")
_DPI = 100


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
      name: name of the PNG file.
      caption: caption of the picture.
      content: the PNG's bytes.
    """

    name: str
    caption: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Look:
    """The look of an arm in every picture: no two of 28 arms share colour and line, nor colour and marker of 49."""

    colour: str
    line: str
    marker: str


def look(arms: Sequence[str], arm: str) -> Look:
    """Returns the look of an arm, by its place among the arms of the experiment."""
    repeats, place = divmod(list(arms).index(arm), len(COLOURS))
    return Look(COLOURS[place], LINES[repeats % len(LINES)], MARKERS[repeats % len(MARKERS)])


def text_width(texts: Sequence[str]) -> float:
    """Returns the width in inches of the widest of some texts at the pictures' font size."""
    figure = Figure(dpi=_DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    widths = [Text(0, 0, text, figure=figure).get_window_extent(renderer).width for text in texts]
    return max(widths, default=0.0) / _DPI


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


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()
