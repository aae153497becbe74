"""Tests delimited files as other programs write them: delimiters, quotes, line ends, and rows that hold nothing."""

import csv

import pytest

from bert_jax.data.tasks import text_files
from bert_jax.errors import UserError

ROWS = [["text", "other", "label"], ["one, two", "a;b", "yes"], ['say "three"', "", "no"], ["four", "f\u00fcnf", "yes"]]


def write(path, delimiter, quoting=csv.QUOTE_MINIMAL, end="\n", rows=ROWS):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    return path


def read(path, wanted=("text", "label"), columns=()):
    layout = text_files.layout(path, "tsv" if ".tsv" in path.name else "csv", wanted, columns)
    return layout, [row for _, row in text_files.rows(path, layout)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_what_the_csv_module_and_pandas_write(tmp_path, name, delimiter, quoting, end):
    layout, rows = read(write(tmp_path / name, delimiter, quoting, end))
    assert rows == ROWS[1:] and layout.columns == tuple(ROWS[0]) and layout.delimiter == delimiter
    assert len(layout.notes) == (delimiter != {"a.csv": ",", "a.tsv": "\t"}[name]) + (delimiter == "\t")


def test_records_of_several_lines_in_quoted_tabs(tmp_path):
    rows = [["text", "label"], ["two\nlines", "1"], ["a\ttab", "0"], ["", "1"]]
    layout, got = read(write(tmp_path / "a.tsv", "\t", rows=rows))
    assert got == rows[1:] and layout.quoted
    numbers = [number for number, _ in text_files.rows(tmp_path / "a.tsv", layout)]
    assert numbers == [2, 4, 5]


@pytest.mark.parametrize(
    "lines",
    [
        ['"quoted from the first', 'say "no" twice'],
        ['"I am proud ," he said . "', "b"],
        ['"whole"', '"fields"'],  # may be either: quotes are text, as in GLUE's files
        ['a "" b', '"c""d"'],
    ],
)
def test_quotes_are_text_in_other_tsv(tmp_path, lines):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{line}\t1\n" for line in lines))
    layout, rows = read(tmp_path / "a.tsv")
    assert [row[0] for row in rows] == lines and not layout.notes


def test_every_field_below_the_header_is_quoted(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"first"\t"x"\n"second"\t"y"\n')
    layout, rows = read(tmp_path / "a.tsv")
    assert rows == [["first", "x"], ["second", "y"]] and len(layout.notes) == 1
    (tmp_path / "a.tsv").write_text('text\tlabel\n"first"\t"x"\n"second"\t"y"\nthird\tz\n')
    assert read(tmp_path / "a.tsv")[1][0] == ['"first"', '"x"']


def test_empty_lines_and_rows_and_excel(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffsep=;\r\n text ; label \r\na,b;1\r\n\r\n  \r\n;\r\nc;2\r\n", newline="")
    layout, rows = read(tmp_path / "a.csv")
    assert layout.columns == ("text", "label") and rows == [["a,b", "1"], ["", ""], ["c", "2"]]
    (tmp_path / "b.tsv").write_text("\n \na;1\nb;0\n")
    assert read(tmp_path / "b.tsv", columns=("text", "label"))[1] == [["a", "1"], ["b", "0"]]
    (tmp_path / "c.csv").write_text("\n\n")
    assert text_files.layout(tmp_path / "c.csv", "csv", ("text",)) is None


def test_columns_that_are_left_out(tmp_path):
    """The files of the STS benchmark have seven columns in some rows, and nine in others."""
    (tmp_path / "a.tsv").write_text('0.5\ta "b"\tc\n1\td\te\tsource\tlicence\n')
    layout, rows = read(tmp_path / "a.tsv", columns=("score", "text", "label", "..."))
    assert layout.columns == ("score", "text", "label") and rows == [["0.5", 'a "b"', "c"], ["1", "d", "e"]]
    (tmp_path / "a.tsv").write_text("0.5\ta\tb\n1\tc\n")
    with pytest.raises(UserError, match="line 2: found 2 columns; expected at least 3"):
        read(tmp_path / "a.tsv", columns=("score", "text", "label", "..."))
    (tmp_path / "a.tsv").write_text("0.5\ta\tb\n1\tc\td\te\n")
    with pytest.raises(UserError, match="line 2: found 4 columns; expected 3"):
        read(tmp_path / "a.tsv", columns=("score", "text", "label"))


def test_spaces_after_delimiters(tmp_path):
    (tmp_path / "a.csv").write_text('text, label\n"a, b", "x"\nc, y\n')
    assert read(tmp_path / "a.csv")[1] == [["a, b", "x"], ["c", "y"]]
    (tmp_path / "a.csv").write_text('"text", "label"\n"a ""b""", "x"\n')
    assert read(tmp_path / "a.csv")[1] == [['a "b"', "x"]]
    (tmp_path / "a.csv").write_text("label,text\nx, a\n")
    assert read(tmp_path / "a.csv")[1] == [["x", " a"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,text,label\na,b,1\n", r"a\.csv: found 2 columns 'text'; expected one"),
        (b"text;lable\na;1\n", r"no column 'label'; found text, lable; expected it in the header; did you mean lable"),
        (b"a,b\tText\tLabel\nx\ty\t1\n", r"a\.csv: no column 'text'; found a,b, Text, Label|found a, b\tText\tLabel"),
        (b"id|Text|Label\n1|a|1\n", r"a\.csv: no column 'text'; found id, Text, Label; expected it"),
        (b"Text,Label\na,1\n", r"a\.csv: no column 'text'; found Text, Label"),
        (b"text,label\ra,1\r", r"a\.csv line 1: lines end with CR alone"),
        ("text,label\na,1\n".encode("utf-16-le"), r"a\.csv line 1: holds zero bytes \(UTF-16\?\)"),
        ("text,label\n\u00e4,1\n".encode("utf-16"), r"a\.csv line 1: not UTF-8: 0xff \(UTF-16\?\)"),
        ("text,label\na,1\n\u00e4,1\n".encode("latin-1"), r"a\.csv line 3: not UTF-8: 0xe4"),
        (b"text,label\na,1\nb,1,\n", r"a\.csv line 3: found 3 columns; expected 2"),
        (b"text;label\na;1\nb\n", r"a\.csv line 3: found 1 columns; expected 2"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / "a.csv")
    assert "\n" not in str(error.value)
