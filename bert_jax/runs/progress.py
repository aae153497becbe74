"""Shows a run's progress: a line for each row of the log, and on a terminal a live line between them.

The live line goes to standard error where that is a terminal, so that rows can be piped away beside it, else to
standard output. It is left out where TERM is "dumb" or CI is set, and has no colour where NO_COLOR is set
(no-color.org). It is drawn from numbers that the host has anyway: no step waits for it.
"""

import contextlib
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from bert_jax.objectives.language_modeling import mlm_headline

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 16  # losses in the sparkline
_SECONDS = 0.25  # between two drawings of the live line
_ERASE = "\r\x1b[K"
_COLOURS = {"faint": "2", "loss": "36", "score": "32", "warning": "33"}  # parameters of ECMA-48's SGR
_live: "LiveLine | None" = None  # the one that is drawn on the terminal now


class LiveLine:
    """Rewrites one line of a terminal in place; other lines are printed above it."""

    def __init__(self, stream: TextIO):
        self._stream, self._lock, self._shown = stream, threading.RLock(), False

    def draw(self, text: str) -> None:
        """Shows a text in place of what the line showed, cut to the width of the terminal."""
        width = _columns(self._stream) - 1
        with self._lock:
            self._write(_ERASE + fit_width(text, width))
            self._shown = True

    def erase(self) -> None:
        """Removes the line, so that something else can be printed."""
        with self._lock:
            if self._shown:
                self._write(_ERASE)
            self._shown = False

    def _write(self, text):
        with contextlib.suppress(OSError, ValueError):  # a terminal that has gone must not end a run
            self._stream.write(text)
            self._stream.flush()


class Progress:
    """Shows progress: a line for each row, and a live line where there is a terminal.

    On a terminal the rows without an evaluation are shown in the live line alone, whose sparkline keeps the last
    losses in sight.

    Args:
      num_steps: number of steps of the whole run.
      stream: where rows are printed; None: standard output.
      headline: returns the evaluation in a row in words.
      live: where the live line is drawn; None: where `live_stream` says, but nowhere beside another `stream`.
    """

    def __init__(
        self,
        num_steps: int,
        stream: TextIO | None = None,
        headline: Callable[[Mapping], str] = mlm_headline,
        live: TextIO | None = None,
    ):
        self._num_steps, self._headline = num_steps, headline
        self._stream = stream or sys.stdout
        if live is None:
            live = live_stream() if stream is None else stream if is_terminal(stream) else None
        self._line = LiveLine(live) if live else None
        self._colours = live is not None and has_colours(live)
        self._keeps_rows = live is None or not is_terminal(self._stream)
        self._losses = deque(maxlen=_SHOWN)
        self._row, self._kept, self._next = {}, True, 0.0
        self._first = None  # (step, time) of the first row
        _show(self._line)

    def write(self, row: Mapping) -> None:
        now = time.monotonic()
        left = self._seconds_left(row["step"], now)
        self._first = self._first or (row["step"], now)
        self._row = {**row, "left": left}
        if isinstance(row.get("loss"), int | float) and math.isfinite(row["loss"]):
            self._losses.append(row["loss"])
        self._kept = self._keeps_rows or bool(self._headline(row))
        if self._kept:
            self._print(row, left)
        if self._line is not None:
            self._draw(row["step"], row.get("tokens_per_second"), left)

    def advance(self, step: int, speed: Callable[[], float | None]) -> None:
        """Moves the live line on to a step that has been started. `speed` returns the tokens per second."""
        now = time.monotonic()
        if self._line is None or now < self._next:
            return
        self._next = now + _SECONDS
        self._draw(step, speed() or self._row.get("tokens_per_second"), self._seconds_left(step, now))

    @contextlib.contextmanager
    def compiling(self, step: int) -> Iterator[None]:
        """Shows, while inside, for how long the program of a step has been compiled."""
        line = self._line
        if line is None:
            yield
            return
        began, done = time.monotonic(), threading.Event()

        def tick():
            while True:
                seconds = time.monotonic() - began
                text = f"step {step:,}/{self._num_steps:,}  {self._coloured('faint', f'compiling ... {seconds:.0f} s')}"
                line.draw(text)
                if done.wait(0.5):
                    return

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            line.erase()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if not self._kept:
            self._print(self._row, self._row.get("left"))
            self._kept = True
        if self._line:
            self._line.erase()
        _show(None)

    def _print(self, row, left):
        if self._line:
            self._line.erase()
        coloured = self._colours and is_terminal(self._stream)
        text = progress_line(row, self._num_steps, left, self._headline)
        _print(self._stream, _sgr("score", text) if coloured and self._headline(row) else text)

    def _draw(self, step, speed, left):
        if self._line is None:
            return
        parts = [f"step {step:,}/{self._num_steps:,}"]
        if self._losses:
            bars = f" {sparkline(self._losses)}" if _writes_bars(self._stream) else ""
            parts.append(f"loss {self._coloured('loss', f'{self._losses[-1]:.4f}{bars}')}")
        if speed is not None:
            parts.append(f"{speed:,.0f} tokens/s")
        if left is not None:
            parts.append(self._coloured("faint", f"{clock(left)} left"))
        self._line.draw("  ".join(parts))

    def _coloured(self, name, text):
        return _sgr(name, text) if self._colours else text

    def _seconds_left(self, step, now):
        if self._first is None or step <= self._first[0]:
            return None
        return (now - self._first[1]) / (step - self._first[0]) * (self._num_steps - step)


def progress_line(
    row: Mapping, num_steps: int, seconds_left: float | None, headline: Callable[[Mapping], str] = mlm_headline
) -> str:
    """Returns a row in words, such as "step 200/1,000  loss 6.81  12,300 tokens/s  MFU 41%  3:20 left"."""
    parts = [f"step {row['step']:,}/{num_steps:,}"]
    if row.get("loss") is not None:
        parts.append(f"loss {row['loss']:.4f}")
    if headline(row):
        parts.append(headline(row))
    if row.get("tokens_per_second") is not None:
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    if row.get("mfu") is not None:
        parts.append(f"MFU {row['mfu']:.1%}")
    if seconds_left is not None:
        parts.append(f"{clock(seconds_left)} left")
    return "  ".join(parts)


def say_line(text: str) -> None:
    """Prints a line for the user on standard output, above the live line if there is one."""
    live = _live
    if live:
        live.erase()
    if text.startswith("warning: ") and is_terminal(sys.stdout) and has_colours(sys.stdout):
        text = _sgr("warning", text)
    _print(sys.stdout, text)


def _print(stream, text):
    """Prints a line; one that cannot be written, into a closed pipe or onto a full disk, never ends a run."""
    if stream:  # None where it is closed
        with contextlib.suppress(OSError):
            stream.write(f"{text}\n")
            stream.flush()


def sparkline(values: "deque[float] | list[float]") -> str:
    """Returns numbers as a row of bars, from the smallest to the largest of them: "▇▅▃▂▁"."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((value - low) / span * len(_BARS)))] for value in values)


def fit_width(text: str, width: int) -> str:
    """Returns a text cut to a number of columns; colours take none, and end where the text is cut."""
    shown, out, position = 0, [], 0
    while position < len(text):
        if text[position] == "\x1b":
            end = text.index("m", position) + 1
            out.append(text[position:end])
            position = end
            continue
        if shown == width:
            return "".join(out) + ("\x1b[0m" if "\x1b" in text else "")
        out.append(text[position])
        shown, position = shown + 1, position + 1
    return "".join(out)


def live_stream() -> TextIO | None:
    """Returns the stream for the live line: standard error, else standard output; None where neither is a terminal."""
    return next((stream for stream in (sys.stderr, sys.stdout) if is_terminal(stream)), None)


def is_terminal(stream: TextIO | None) -> bool:
    """Returns whether a stream is a terminal on which a line can be rewritten."""
    try:
        good = stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False
    return good and os.environ.get("TERM", "") != "dumb" and not os.environ.get("CI")


def has_colours(stream: TextIO) -> bool:
    """Returns whether a terminal may be written to in colour."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def clock(seconds: float) -> str:
    """Returns a time as minutes and seconds, with hours where there are any: "3:20", "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _show(line):
    global _live
    _live = line


def _sgr(name, text):
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m"


def _columns(stream):
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _writes_bars(stream):
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
