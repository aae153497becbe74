"""On a terminal a live line stands below the rows; elsewhere there are plain lines, as there always were."""

import contextlib
import io
import os
import pty
import re
import sys
import time

import pytest

from bert_jax.runs import progress

CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal: `stream` to write to, and `text()` of what has been written to it."""

    def __init__(self):
        self._ours, theirs = pty.openpty()
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")

    def text(self):
        self.stream.flush()
        os.set_blocking(self._ours, False)
        content = b""
        try:
            while part := os.read(self._ours, 65536):
                content += part
        except BlockingIOError:
            pass
        return content.decode()

    def close(self):
        with contextlib.suppress(OSError):  # a test has closed its other end
            self.stream.close()
        os.close(self._ours)


@pytest.fixture
def terminal(monkeypatch):
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    yield terminal
    terminal.close()


def row(step, loss, **more):
    return {"step": step, "loss": loss, "tokens_per_second": 1000.0} | more


def test_a_terminal_keeps_evaluations_and_shows_the_last_losses(terminal):
    shown = progress.Progress(40, terminal.stream)
    for step, loss in ((10, 4.0), (20, 3.0), (30, 2.0)):
        shown.write(row(step, loss, **({"eval/mlm_loss": 2.5, "eval/unigram_loss": 5.0} if step == 20 else {})))
    shown.advance(33, lambda: None)
    text = terminal.text()
    lines = [CONTROL.sub("", line).rpartition("\r")[2] for line in text.split("\n")]
    assert "held-out 2.5000" in text
    assert "loss 2.0000 █▅▁" in CONTROL.sub("", text) and "1,000 tokens/s" in lines[-1] and "step 33/40" in lines[-1]
    assert text.count("\n") == 1, "only the evaluation stays"
    assert "\x1b[36m" in text
    shown.close()
    assert "step 30/40  loss 2.0000" in CONTROL.sub("", terminal.text()), "the last row stays at the end"


def test_rows_piped_away_are_plain_beside_the_live_line(terminal):
    rows = io.StringIO()
    shown = progress.Progress(40, rows, live=terminal.stream)
    shown.write(row(10, 4.0))
    shown.write(row(20, 3.0))
    shown.close()
    assert rows.getvalue().splitlines()[0] == "step 10/40  loss 4.0000  1,000 tokens/s"
    assert "\x1b" not in rows.getvalue() and "step 20/40" in terminal.text()


@pytest.mark.parametrize("name", ["CI", "TERM"])
def test_no_live_line_where_it_is_not_wanted(terminal, monkeypatch, name):
    monkeypatch.setenv(name, "dumb")
    shown = progress.Progress(40, terminal.stream)
    shown.write(row(10, 4.0))
    shown.advance(11, lambda: pytest.fail("asked for a speed that nobody sees"))
    shown.close()
    assert terminal.text() == "step 10/40  loss 4.0000  1,000 tokens/s\r\n"


def test_no_colour_where_it_is_not_wanted(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = progress.Progress(40, terminal.stream)
    shown.write(row(10, 4.0, **{"eval/mlm_loss": 2.0, "eval/unigram_loss": 3.0}))
    with shown.compiling(11):
        time.sleep(0.01)
    shown.close()
    text = terminal.text()
    assert "compiling ... 0 s" in text and set(CONTROL.findall(text)) == {"\x1b[K"}


def test_lines_for_the_user_stand_above_the_live_line(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal.stream)
    shown = progress.Progress(40, terminal.stream)
    shown.write(row(10, 4.0))
    progress.say_line("warning: look")
    assert terminal.text().endswith("\r\x1b[K\x1b[33mwarning: look\x1b[0m\r\n")
    shown.close()


def test_a_live_line_fits_the_terminal():
    assert progress.fit_width("\x1b[36mabcdef\x1b[0m", 3) == "\x1b[36mabc\x1b[0m"
    assert progress.fit_width("abc", 3) == "abc"


def test_a_terminal_that_has_gone_does_not_end_a_run(terminal):
    shown = progress.Progress(40, io.StringIO(), live=terminal.stream)
    os.close(terminal._ours)
    shown.write(row(10, 4.0))
    shown.close()
    terminal._ours = os.open(os.devnull, os.O_RDONLY)


def test_sparkline():
    assert progress.sparkline([1.0, 2.0, 3.0]) == "▁▅█" and progress.sparkline([2.0, 2.0]) == "▁▁"
