"""Tells text that is not UTF-8: as a whole, from the beginning of a file, or a few bytes of it."""

import re
from collections.abc import Callable, Iterator

EXAMINED_BYTES = 1 << 16  # the beginning of a file, which shows its encoding
_MOST_LOST = 1 << 16  # bytes; of a longer paragraph or line, no more are left out at once
_FEW_PARAGRAPHS = 4  # that are damaged say nothing about the others
_FEW_MARKS = 1 / 3  # share of the bytes that are letters with marks in text with Latin letters
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


def find_problem(begin: bytes) -> str:
    """Returns why text that begins with some bytes is of another encoding than UTF-8; "" where it may be UTF-8.

    Args:
      begin: the first EXAMINED_BYTES of a file, or all of it.
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if begin.startswith(mark):
            return f"{name}, by its first bytes; {_advice(name)}"
    if begin.startswith(b"\x1f\x8b"):
        return "compressed by gzip, by its first bytes; expected a name that ends in .gz"
    begin = begin.rstrip(b"\0") or begin  # what a crash leaves at the end of a file
    if begin.count(b"\0") > len(begin) // 8:
        return f"every few bytes a zero, as in UTF-16 or what is no text; {_advice('UTF-16')}"
    if len(_CONTROLS.findall(begin)) > len(begin) // 20:  # UTF-16 of scripts whose second bytes are such
        return f"every few bytes a control character, as in UTF-16 or what is no text; {_advice('UTF-16')}"
    if len(begin) == EXAMINED_BYTES:
        begin = begin[: begin.rfind(b"\n") + 1 or None]
    error = _error(begin)
    paragraphs = [paragraph for paragraph in _BLANK_LINE.split(begin) if paragraph.strip()] if error else []
    unit = "paragraphs"
    if len(paragraphs) <= _FEW_PARAGRAPHS:  # a file without blank lines
        unit = "lines"
        paragraphs = [line for paragraph in paragraphs for line in paragraph.split(b"\n") if line.strip()]
    damaged = sum(_error(paragraph) is not None for paragraph in paragraphs)
    if error and damaged > max(_FEW_PARAGRAPHS, len(paragraphs) // 2):
        far = sum(byte > 127 for byte in begin) > _FEW_MARKS * sum(byte > 32 for byte in begin)
        names = "GB18030, SHIFT_JIS, KOI8-R or CP1251" if far else "LATIN1 or CP1250"
        return (
            f"{describe(error)}, nor are most of its {unit}; expected UTF-8, such as from iconv -f ENCODING -t "
            f"UTF-8, where ENCODING is the file's own: {names}, for instance"
        )
    return ""


def describe(error: UnicodeDecodeError, position: int = 0) -> str:
    """Returns what is wrong with bytes that begin at `position` of a file."""
    return f"not UTF-8 at byte {position + error.start} (0x{error.object[error.start]:02x})"


def _advice(name):
    return f"expected UTF-8, such as from iconv -f {name} -t UTF-8"


def _error(text):
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error
    return None


class Damage:
    """Reports the text of a paragraph that is left out because some of its bytes are not UTF-8.

    Attributes:
      reason: what is wrong with them; "" where nothing is left out.
    """

    def __init__(self, path: str, skip: Callable[[str, str, int], None]):
        """Begins without any.

        Args:
          path: names the file.
          skip: called with (path, reason, bytes) for each paragraph, or piece of a long one, that is left out.
        """
        self._path, self._skip = path, skip
        self.reason, self._lost = "", 0

    def add(self, size: int, reason: str = "") -> None:
        """Leaves out `size` bytes, for a reason or for that of the bytes before; reports them if they are many."""
        self.reason = self.reason or reason
        self._lost += size
        if self._lost >= _MOST_LOST:
            self.report()

    def report(self) -> None:
        """Reports what was left out, if anything was, and begins anew."""
        if self.reason:
            self._skip(self._path, self.reason, self._lost)
        self.reason, self._lost = "", 0


def salvage(line: bytes, position: int) -> Iterator[tuple[str, str, int]]:
    """Yields the pieces of a line that is not UTF-8 as (text, what is wrong with it or "", number of bytes).

    Args:
      line: the line; a long one is cut at spaces, so that no more than a piece is lost.
      position: its place in the file.
    """
    start = 0
    while start < len(line):
        stop = min(start + _MOST_LOST, len(line))
        if stop < len(line):
            stop = line.rfind(b" ", start + 1, stop) + 1 or stop
        piece = line[start:stop]
        error = _error(piece)
        yield (
            ("" if error else piece.decode().strip()),
            (describe(error, position + start) if error else ""),
            len(piece),
        )
        start = stop


def is_long(length: int) -> bool:
    """Returns whether so much text is too much to lose for one of its bytes."""
    return length >= _MOST_LOST
