"""Reads text files line by line, and tables in them: CSV, TSV, and what other programs write under these names.

A file may be compressed (.gz) and begin with a byte-order mark; lines end with LF or CR LF. The delimiter is the one of
the file's kind, or another one where only that gives the columns that are asked for. A TSV's quotes are text, as in
GLUE's files, unless the whole file is quoted as pandas and R quote it.
"""

import contextlib
import csv
import dataclasses
import gzip
import re
import sys
import zlib
from collections.abc import Collection, Iterator, Sequence

from bert_jax.config.schema import closest
from bert_jax.errors import UserError, shortened
from bert_jax.files import closest_path

DELIMITERS = {"csv": ",", "tsv": "\t"}
_OTHERS = (",", ";", "\t", "|")
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_GZIP = b"\x1f\x8b"  # no text in UTF-8 begins so
_COLUMN = re.compile(r"[^\W\d][\w.-]*(?: [\w.-]+){0,2}")  # a name of a column, such as text_pair or Review text
_LONGEST_RECORD = 10_000  # lines of one quoted record, beyond which quotes are taken for text


@dataclasses.dataclass(frozen=True)
class Layout:
    """States how the rows of a delimited file are written.

    Attributes:
      delimiter: the character between fields.
      quoted: whether fields may be in double quotes, with quotes in them doubled.
      columns: names of the columns.
      is_open: whether rows may have more columns than these, which are left out.
      first: number of the line after the header; 1 where there is none.
      spaced: whether spaces after a delimiter are no part of the field, as the header shows.
      notes: what a user may not expect.
    """

    delimiter: str
    quoted: bool
    columns: tuple[str, ...]
    first: int
    spaced: bool = False
    notes: tuple[str, ...] = ()
    is_open: bool = False


def lines(path, name: str = "", mark: str = " line ") -> Iterator[tuple[int, str]]:
    """Yields (number, text with its line end) of a file's lines, which only a line feed ends.

    Args:
      path: the file; one in .gz, or that begins as such a file does, is decompressed.
      name: the name of the file in messages; "": its path.
      mark: stands between the name and the number of a line in messages.

    Raises:
      UserError: a line is not UTF-8.
      OSError, EOFError, zlib.error: the file cannot be read.
    """
    name = name or str(path)
    with open(path, "rb") as raw:
        is_compressed = str(path).endswith(".gz") or raw.peek(2)[:2] == _GZIP
        file = gzip.GzipFile(fileobj=raw) if is_compressed else raw
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                hint = " (UTF-16?)" if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
                place = hint or f" at byte {error.start} of the line"
                byte = f"0x{line[error.start]:02x}"
                code = "UTF-16" if hint else "WINDOWS-1252"
                raise UserError(
                    f"{name}{mark}{number}: not UTF-8: {byte}{place}; expected UTF-8 text, as iconv -f {code} -t UTF-8 "
                    "makes of what Excel and older programs write"
                ) from error
            if number == 1 and "\0" in text:
                raise UserError(f"{name}{mark}1: holds zero bytes (UTF-16?); expected UTF-8 text")
            # A mark of byte order in the middle comes from files that were joined.
            yield number, text.lstrip("\ufeff") if text.startswith("\ufeff") else text


@contextlib.contextmanager
def reporting(name: str) -> Iterator[None]:
    """Turns the errors of reading a file into UserError, which begins with `name`."""
    try:
        yield
    except (EOFError, zlib.error) as error:
        raise UserError(f"{name}: truncated or damaged .gz ({error}); expected a whole file") from error
    except OSError as error:
        near = closest_path(error.filename or "", is_folder=False) if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"{name}: {error.strerror or error}; expected a readable file{near}") from error


def layout(
    path,
    kind: str,
    wanted: Sequence[str],
    columns: Sequence[str] = (),
    name: str = "",
    otherwise: str = "",
    mark: str = " line ",
) -> Layout | None:
    """Finds how a delimited file is written; None for an empty file.

    Args:
      path: the file.
      kind: "csv" or "tsv", which says what is expected.
      wanted: columns that must exist.
      columns: names of the columns of a file without a header; (): the file has one. A last name "..." stands for any
        number of columns that are left out.
      name: the name of the file in messages; "": its path.
      otherwise: ends the message about a missing column: where else it could be named.
      mark: see `lines`.

    Raises:
      UserError: a wanted column is missing or there twice.
    """
    name = name or str(path)
    is_open = tuple(columns)[-1:] == ("...",)
    columns = tuple(columns)[: len(columns) - is_open]
    numbered = ((number, text.rstrip("\r\n")) for number, text in lines(path, name, mark))
    first, header = next(((number, text) for number, text in numbered if text.strip(" \t")), (0, ""))
    if not first:
        return None
    separator = re.fullmatch(r'"?sep=(.)"?', header)  # Excel's
    if separator:
        first, header = next(numbered, (0, ""))
    if "\r" in header:
        raise UserError(f"{name}{mark}{first}: lines end with CR alone; expected LF or CR LF")
    usual_delimiter = DELIMITERS[kind]
    unusual = (delimiter for delimiter in _OTHERS if delimiter != usual_delimiter)
    candidates = [separator[1]] if separator else [usual_delimiter, *unusual]
    by_delimiter = {delimiter: _fields(header, delimiter) for delimiter in candidates}
    fitting = [
        delimiter
        for delimiter, fields in by_delimiter.items()
        if (_has_number(fields, columns, is_open) if columns else set(wanted) <= set(fields))
    ]
    delimiter = fitting[0] if fitting else candidates[0] if columns else _likeliest(by_delimiter, wanted)
    names = tuple(columns) or by_delimiter[delimiter]
    if columns and by_delimiter[delimiter][: len(names)] == names:
        raise UserError(f"{name}{mark}{first}: a header, which is not read where config.task.columns is given")
    _check_columns(names, wanted, name, otherwise)
    quoted = delimiter != "\t" or _is_quoted(path, delimiter, name, mark)
    notes = []
    if delimiter != usual_delimiter:
        notes.append(f"{name}: fields are separated by {_NAMES.get(delimiter, repr(delimiter))}")
    if quoted and delimiter == "\t":
        notes.append(f"{name}: fields are quoted, and read without their quotes")
    parts = header.split(delimiter)[1:]
    spaced = quoted and bool(parts) and all(part.startswith(" ") for part in parts)
    return Layout(delimiter, quoted, names, first if columns else first + 1, spaced, tuple(notes), is_open)


def rows(path, layout: Layout, name: str = "", mark: str = " line ") -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, fields) of each row of a delimited file, without empty lines.

    Args:
      path: the file.
      layout: as `layout` returns it.
      name, mark: see `lines`.

    Raises:
      UserError: a row has another number of columns, or quotes are not closed.
    """
    name = name or str(path)
    read = _quoted_rows if layout.quoted else _plain_rows
    for number, row in read(path, layout, name, mark):
        if not _has_number(row, layout.columns, layout.is_open):
            if not "".join(row).strip():
                continue
            least = f"at least {len(layout.columns)}" if layout.is_open else f"{len(layout.columns)}"
            raise UserError(f"{name}{mark}{number}: found {len(row)} columns; expected {least}")
        yield number, row[: len(layout.columns)]


def _has_number(fields, columns, is_open):
    return len(fields) >= len(columns) if is_open else len(fields) == len(columns)


def may_be_header(first: str, following: Sequence[str], known: Collection[str] = ()) -> bool:
    """Returns whether a line may name the columns of the lines below it.

    They are names without a space after the delimiter, as prose has, and every line below has as many fields; or it is
    one name: a word above lines of several words, or a known name.

    Args:
      first: the line.
      following: lines below it; none: it is no header.
      known: names of columns of texts, in lower case.
    """
    for delimiter in _OTHERS:
        names = _fields(first, delimiter)
        if len(names) < 2 or f"{delimiter} " in first or not all(map(_COLUMN.fullmatch, names)):
            continue
        if following and all(len(_fields(line, delimiter)) == len(names) or '"' in line for line in following):
            return True
    name = "".join(_fields(first, "\t"))
    if not following or not _COLUMN.fullmatch(name):
        return False
    is_word = " " not in name and not name.endswith(".")
    return name.lower() in known or (is_word and all(" " in line.strip() for line in following))


def _fields(header, delimiter):
    """Returns the fields of a header, without white space around them."""
    try:
        return tuple(
            field.strip() for field in next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), ())
        )
    except csv.Error:
        return tuple(header.split(delimiter))


def _likeliest(by_delimiter, wanted):
    """Returns the delimiter that gives most of the wanted columns, or else, where the first gives one, most columns."""
    first = next(iter(by_delimiter))
    likeliest = max(by_delimiter, key=lambda delimiter: len(set(wanted) & set(by_delimiter[delimiter])))
    if set(wanted) & set(by_delimiter[likeliest]):
        return likeliest
    return max(by_delimiter, key=lambda other: len(by_delimiter[other])) if len(by_delimiter[first]) == 1 else first


def _check_columns(names, wanted, name, otherwise):
    for column in wanted:
        if column not in names:
            shown = ", ".join(shortened(other, 30) for other in names)
            raise UserError(
                f"{name}: no column {column!r}; found {shown}; expected it in the header{otherwise}"
                f"{closest(column, names)}"
            )
        if names.count(column) > 1:
            raise UserError(f"{name}: found {names.count(column)} columns {column!r}; expected one")


def _plain_rows(path, layout, name, mark):
    for number, text in lines(path, name, mark):
        text = text.rstrip("\r\n")
        if number >= layout.first and text:
            yield number, text.split(layout.delimiter)


def _quoted_rows(path, layout, name, mark):
    csv.field_size_limit(sys.maxsize)
    reached = layout.first - 1

    def texts():
        nonlocal reached
        for number, text in lines(path, name, mark):
            if number >= layout.first:
                reached = number
                yield text

    reader = csv.reader(texts(), strict=True, delimiter=layout.delimiter, skipinitialspace=layout.spaced)
    while True:
        first = reached + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{name}{mark}{first}: not CSV ({error}); expected quotes to be closed, or TSV") from error
        if row:
            yield first, row


def _is_quoted(path, delimiter, name, mark):
    """Returns whether every field of a file that holds a quote is quoted, and some could not be read otherwise.

    Such a field holds a doubled quote, a delimiter or a line end; or all names of the header are quoted, or all fields
    below it.
    """
    field = rf'(?:"(?:[^"]|"")*"|[^"{delimiter}\r\n]*)'
    record = re.compile(rf"{field}(?:{delimiter}{field})*\r?\n?")
    certain = re.compile(rf'(?:^|{delimiter})"(?:[^"]|"")*(?:""|[\n{delimiter}])(?:[^"]|"")*"(?={delimiter}|\r?\n|$)')
    quoted_row = re.compile(rf'"(?:[^"]|"")+"(?:{delimiter}"(?:[^"]|"")+")*\r?\n?')
    is_certain, pending, count = False, "", 0
    records, quoted = 0, 0  # below the first line; the latter with every field in quotes
    for number, text in lines(path, name, mark):
        if not pending and '"' not in text:
            records += number > 1 and bool(text.strip())
            continue
        pending, count = pending + text, count + 1
        if pending.count('"') % 2 and count < _LONGEST_RECORD:
            continue
        if not record.fullmatch(pending):
            return False
        all_quoted = bool(quoted_row.fullmatch(pending))
        is_header = number == count
        records, quoted = records + (not is_header), quoted + (all_quoted and not is_header)
        is_certain = is_certain or (is_header and all_quoted) or bool(certain.search(pending))
        pending, count = "", 0
    return (is_certain or 1 < records == quoted) and not pending
