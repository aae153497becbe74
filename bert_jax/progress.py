"""Shows how far a command is: a live bar on a terminal, a plain line from time to time elsewhere."""

import contextlib
import sys
import time
from typing import Any

EVERY = 10.0  # seconds between plain lines; what takes less says nothing


def bar(total: int, unit: str, initial: int = 0, name: str = "", hidden: bool = False) -> Any:
    """Returns a context manager whose value has `update(count)`, of finished units, and `write(line)`.

    Both write to standard error: on a terminal a live bar of tqdm, elsewhere plain lines, at most one every EVERY
    seconds.

    Args:
      total: number of units of the whole.
      unit: what they are called, such as "text"; "B" for bytes.
      initial: units that are finished already.
      name: begins the bar or the line.
      hidden: whether nothing is shown but what `write` is given.
    """
    if hidden or not _is_terminal():
        return contextlib.nullcontext(_Lines(total, unit, initial, name, hidden))
    from tqdm import tqdm

    return tqdm(
        total=total, initial=initial, unit=unit, unit_scale=unit == "B", desc=name or None, mininterval=0.5
    )  # fmt: skip


def _is_terminal():
    """Returns whether standard error is a terminal; it may be closed, or absent, as in programs without a console."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


class _Lines:
    """Writes plain lines to standard error."""

    def __init__(self, total, unit, initial, name, hidden):
        self._total, self._unit, self._done, self._hidden = total, unit, initial, hidden
        self._name, self._last = f"{name}: " if name else "", time.monotonic()

    def update(self, count: int = 1) -> None:
        """Adds finished units, and writes how many there are if that was not done for a while."""
        self._done += count
        if not self._hidden and time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            share = f" ({self._done / self._total:.0%})" if self._total else ""
            unit = self._unit if self._unit == "B" else f"{self._unit}s"
            self.write(f"{self._name}{self._done:,} of {self._total:,} {unit}{share}")

    def write(self, line: str, **_: Any) -> None:
        """Writes a line; a stream that is closed or full ends nothing."""
        if sys.stderr is None:  # print would take standard output
            return
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
