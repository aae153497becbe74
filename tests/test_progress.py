"""Progress of commands: plain lines where standard error is no terminal."""

import io

import pytest

from bert_jax import progress


@pytest.fixture
def clock(monkeypatch):
    """Returns a list whose one number is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_there_is_no_terminal(clock, capsys):
    with progress.bar(2000, "text", name="embed") as bar:
        for clock[0] in (1.0, 10.0, 11.0, 25.0):
            bar.update(500)
        bar.write("note: a note", file=None)
    assert (
        capsys.readouterr().err
        == "embed: 1,000 of 2,000 texts (50%)\nembed: 2,000 of 2,000 texts (100%)\nnote: a note\n"
    )


def test_what_is_hidden_or_cannot_be_written_ends_nothing(clock, capsys, monkeypatch):
    with progress.bar(4, "B", hidden=True) as bar:
        clock[0] = 99.0
        bar.update()
    assert capsys.readouterr().err == ""
    closed = io.StringIO()
    with progress.bar(0, "text") as bar:
        clock[0] = 200.0
        monkeypatch.setattr("sys.stderr", closed)
        closed.close()
        bar.update(3)


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_standard_error_may_be_absent_or_closed_from_the_start(clock, capsys, monkeypatch, stream):
    monkeypatch.setattr("sys.stderr", stream)
    if stream is not None:
        stream.close()
    with progress.bar(4, "text") as bar:
        clock[0] = 99.0
        bar.update()
        bar.write("a note")
    assert capsys.readouterr().out == ""
