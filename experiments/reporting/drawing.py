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

from bert_jax.svg import COLOURS

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
    """Holds a picture.

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
    """Describes an arm's look in every picture: no two of 28 arms share colour and line, or of 49 colour and marker."""

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


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()
