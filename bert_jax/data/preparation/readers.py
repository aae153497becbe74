"""Reads the text of planned inputs as paragraphs.

A paragraph is a list of stripped, non-blank lines; None follows the last paragraph of each document.
"""

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator

from bert_jax import files, storage
from bert_jax.data import hf_source, parquet
from bert_jax.data.preparation import encoding, fasta, python_docs
from bert_jax.data.preparation.sources import Options, Part, open_tfds
from bert_jax.errors import UserError

_MAX_PARAGRAPH = 1 << 20  # characters; longer paragraphs and lines are cut, so that memory stays bounded
_BLOCK = 1 << 17  # bytes decoded at once
_RECORDS_AT_ONCE = 256
_CHARACTER = 4  # bytes of the longest one
_SAMPLED_PARAGRAPH = 1 << 12  # bytes; in a sample, lines are joined to paragraphs of about this size
_NUMBERED_LINES = 20  # skipped records of a part whose line number is looked up


class Unreadable(Exception):
    """Reports a file, or part of one, that cannot be read.

    Attributes:
      where: names it.
      reason: why it cannot be read.
    """

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)
        self.where, self.reason = where, reason


def read(part: Part, options: Options, skip: Callable[[str, str, int], None]) -> Iterator[list[str] | None]:
    """Yields a part's paragraphs, each a list of stripped, non-blank lines; None ends a document.

    Args:
      part: what to read.
      options: how to read it.
      skip: called with (where, reason, bytes) for a record without text, and for a paragraph of a .txt file that is not
        UTF-8; then reading continues.

    Raises:
      Unreadable: the part cannot be read to its end.
      UserError: remote storage fails, or a dataset cannot be opened.
    """
    readers = {
        "text": _read_text, "jsonl": _read_jsonl, "fasta": _read_fasta, "parquet": _read_parquet, "tfds": _read_tfds,
        "hf": _read_hf,
    }  # fmt: skip
    try:
        if part.kind == "python_docs":
            yield from python_docs.read(part.path)
        else:
            yield from readers[part.kind](part, options, skip)
    except (UserError, Unreadable):
        raise
    except Exception as error:
        _reraise(part, error)


def _reraise(part, error):
    """Raises what `read` documents for an exception that reading a part raised."""
    if isinstance(error, EOFError | zlib.error):
        raise Unreadable(part.where, f"truncated or damaged .gz ({error})") from error
    if isinstance(error, FileNotFoundError | gzip.BadGzipFile):
        raise Unreadable(part.where, f"cannot be read ({error.strerror or error})") from error
    if storage.is_remote(part.path):  # a failure of the storage must stop the work, not leave text out
        raise storage.failure(part.path, error) from error
    if isinstance(error, OSError):
        raise Unreadable(part.where, f"cannot be read ({error.strerror or error})") from error
    raise error


class _Unpacked(io.RawIOBase):
    """Reads the text of a .gz, which ends before the first byte that is missing or damaged.

    A file of which nothing can be read raises what gzip raises.

    Attributes:
      size: bytes of text read so far, from the beginning.
      damage: why the text ends before its end; "" where it does not.
    """

    def __init__(self, file):
        self._file = gzip.GzipFile(fileobj=file, mode="rb")
        self.size, self.damage, self._rest = 0, "", b""

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, place, whence=io.SEEK_SET):
        place = self._file.seek(place, whence)
        self.size, self.damage, self._rest = place, "", b""
        return place

    def tell(self):
        return self.size

    def readinto(self, buffer):
        while not self.damage:
            try:
                block = self._file.read1(max(1, len(buffer) - len(self._rest)))
            except (EOFError, OSError, zlib.error) as error:
                if not self.size:
                    raise
                self.damage = str(error)
                break
            # A character that the next block ends is given with it, so that damage divides none.
            text = self._rest + block
            whole = len(text) - _begun(text) if block and len(text) > _CHARACTER else len(text)
            self._rest = text[whole:]
            buffer[:whole] = text[:whole]
            self.size += whole
            return whole
        return 0


def _begun(text):
    """Returns how many of the last bytes begin a character of UTF-8 without ending it."""
    for size in range(1, _CHARACTER):
        first = text[-size]
        if first & 0xC0 != 0x80:
            length = 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1
            return size if length > size else 0
    return 0


@contextlib.contextmanager
def _open_text(part, skip):
    """Opens a file of text; `skip` is told if it is a .gz that is cut off or damaged behind what is read.

    Raises Unreadable if it is of another encoding than UTF-8.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(storage.open_binary(part.path))
        unpacked = None
        if part.path.endswith(".gz"):
            unpacked = _Unpacked(file)
            file = stack.enter_context(io.BufferedReader(unpacked, _BLOCK))
        problem = encoding.find_problem(file.read(encoding.EXAMINED_BYTES))
        if problem:
            raise Unreadable(part.where, problem)
        file.seek(0)
        yield file
        if unpacked and unpacked.damage:
            lost = max(0, part.size - unpacked.size)
            skip(
                part.path,
                f"truncated or damaged .gz at byte {unpacked.size:,} of its text ({unpacked.damage}); the text before "
                "is used",
                lost,
            )


def _lines(file, rest=b""):
    """Yields the lines of a binary file as (bytes, whether a line begins with them); a long line in several pieces."""
    begins = True
    while line := rest + file.readline(_MAX_PARAGRAPH - len(rest)):
        rest = b""
        if line.endswith(b"\n") or len(line) < _MAX_PARAGRAPH:
            yield line, begins
            begins = True
            continue
        cut = line.rfind(b" ") + 1
        if not cut:  # there is no space: cut between two UTF-8 characters
            cut = len(line)
            while cut > len(line) - 4 and line[cut - 1] & 0xC0 == 0x80:
                cut -= 1
            if line[cut - 1] >= 0xC0:
                cut -= 1
        yield line[:cut], begins
        begins, rest = False, line[cut:]


def _read_text(part, options, skip):
    """Reads the documents that belong to a byte range.

    Where a line is a document, these are the lines that begin in the range; else what follows a blank line that begins
    in the range, and in the first range also the first document. A range in which none begins is read no further.
    """
    text = _Text(options.documents, encoding.Damage(part.path, skip), part.start == 0)
    with _open_text(part, skip) as file:
        position, rest = _skip_to_line(file, part.start, part.stop), b""
        size = min(_BLOCK, _MAX_PARAGRAPH)
        # Whole lines are decoded a block at a time, up to where the place of each of them matters.
        while part.stop == -1 or position + size <= part.stop:
            block = rest + file.read(size - len(rest))
            cut = block.rfind(b"\n") + 1
            block, rest = block[:cut], block[cut:]
            if not block:  # the last line, or one that is longer than a block
                break
            try:
                yield from text.add_lines(block.decode("utf-8-sig" if position == 0 else "utf-8")[:-1].split("\n"))
                position += cut
            except UnicodeDecodeError:
                for line in io.BytesIO(block):
                    yield from text.add_line(line, True, position)
                    position += len(line)
        for line, begins in _lines(file, rest):
            if position >= part.stop != -1 and text.ends_before(line, begins):
                break
            yield from text.add_line(line, begins, position)
            position += len(line)
        yield from text.end()


class _Text:
    """Gathers lines as paragraphs, and these as documents.

    Its methods return the paragraphs that are complete, with None after the last one of each document.
    """

    def __init__(self, documents: str, damage: encoding.Damage, owned: bool):
        """Begins at the beginning of a byte range.

        Args:
          documents: see Options.
          damage: receives what is left out.
          owned: whether the first line belongs to the range, and not to a document that begins before it.
        """
        self._by_line, self._by_file = documents == "line", documents == "file"
        self._damage = damage
        self._owned = owned or self._by_line
        self._paragraph, self._length = [], 0
        self._in_document = False  # whether paragraphs of the document have been returned

    def add_lines(self, lines: list[str]) -> list[list[str] | None]:
        """Adds whole lines, which need not be stripped."""
        if self._by_line or not self._owned or self._damage.reason:
            return [item for line in lines for item in self._add(line.strip(), True, len(line))]
        complete: list[list[str] | None] = []
        paragraph, length = self._paragraph, self._length
        for line in lines:
            line = line.strip()
            if line:
                paragraph.append(line)
                length += len(line)
                if length < _MAX_PARAGRAPH:
                    continue
            self._paragraph = paragraph
            complete += self._end_paragraph() if line else self._end_document()
            paragraph, length = self._paragraph, 0
        self._paragraph, self._length = paragraph, length
        return complete

    def add_line(self, line: bytes, begins: bool, position: int) -> Iterator[list[str] | None]:
        """Adds a line, or a piece of a long one.

        Args:
          line: its bytes.
          begins: whether the line begins with them.
          position: their place in the file.
        """
        try:
            yield from self._add(line.decode("utf-8-sig" if position == 0 else "utf-8").strip(), begins, len(line))
            return
        except UnicodeDecodeError:
            pass
        if self._by_line and begins:
            yield from self._end_document()
        for text, reason, size in encoding.salvage(line, position) if self._owned else ():
            if reason and encoding.is_long(self._length):
                yield from self._end_paragraph()
            elif reason:
                self._damage.add(self._length, reason)
            if reason or self._damage.reason:
                self._paragraph, self._length = [], 0
                self._damage.add(size, reason)
            else:
                yield from self._add(text, False, size)

    def _add(self, text, begins, size):
        """Adds the text of a line or of a piece of one, stripped, and its size in bytes."""
        complete = self._end_document() if self._by_line and begins else []
        if not text:
            return complete if self._by_line or not begins else self._end_document()
        if self._damage.reason:
            self._damage.add(size)
        elif self._owned:
            self._paragraph.append(text)
            self._length += len(text)
            if self._length >= _MAX_PARAGRAPH:
                complete += self._end_paragraph()
        return complete

    def _end_paragraph(self):
        self._damage.report()
        if not self._paragraph:
            return []
        complete, self._paragraph, self._length = [self._paragraph], [], 0
        self._in_document = True
        return complete

    def _end_document(self):
        """Ends what a blank line ends: the paragraph, and the document unless that is the file."""
        self._owned = True
        complete = self._end_paragraph()
        return complete if self._by_file else complete + self._none()

    def _none(self):
        ended, self._in_document = self._in_document, False
        return [None] if ended else []

    def ends_before(self, line: bytes, begins: bool) -> bool:
        """Returns whether a line that is behind the range belongs to another one, as do all after it."""
        if self._by_line:
            return begins
        return not self._owned or (begins and not line.decode(errors="replace").strip() and not self._by_file)

    def end(self) -> list[list[str] | None]:
        """Ends the file or the range."""
        return self._end_paragraph() + self._none()


def _skip_to_line(file, start, stop=-1):
    """Moves a file to the first line that begins at or after `start`; returns its position.

    The position is no line's beginning where none is before `stop`, beyond which it does not search.
    """
    if start == 0:
        return 0
    file.seek(start - 1)
    while (line := file.readline(_MAX_PARAGRAPH)) and not line.endswith(b"\n"):
        if file.tell() >= stop != -1:
            break
    return file.tell()


def read_bytes(part: Part, options: Options, skip: Callable[[str, str, int], None]) -> Iterator[list[str]]:
    """Yields the paragraphs of a part's own bytes, for a sample of the text: as `read`, whatever document they are of.

    A byte range of a .txt file thus has text even if no document begins in it. A long line, or one that a range ends
    in, is cut at a space. What is not UTF-8 is named and left out.
    """
    if part.kind != "text":
        for paragraph in read(part, options, skip):
            if paragraph is not None:
                yield paragraph
        return
    try:
        yield from _byte_range(part, options, skip)
    except (UserError, Unreadable):
        raise
    except Exception as error:
        _reraise(part, error)


def _byte_range(part, options, skip):
    by_line = options.documents == "line"
    with _open_text(part, skip) as file:
        stop = -1 if part.stop == -1 else _word_start(file, part.stop)
        position = _word_start(file, part.start)
        if not part.path.endswith(".gz"):
            file.seek(position)
        paragraph, length = [], 0
        for line, _ in _lines(file):
            start, position = position, position + len(line)
            line = line if stop == -1 else line[: max(0, stop - start)]
            try:
                text = line.decode("utf-8-sig" if start == 0 else "utf-8").strip()
            except UnicodeDecodeError as error:
                skip(part.path, encoding.describe(error, start), len(line))
                text = ""
            if text:
                paragraph.append(text)
                length += len(text)
            if paragraph and (not text or by_line or length >= _SAMPLED_PARAGRAPH):
                yield paragraph
                paragraph, length = [], 0
            if stop != -1 and position >= stop:
                break
        if paragraph:
            yield paragraph


def _word_start(file, place):
    """Returns where text may begin at or after a byte of a file: behind a line's end, a space or a character.

    Line ends and spaces count only if they are near, so that the same place is found however a file is cut.
    """
    if place == 0:
        return 0
    file.seek(place - 1)
    block = file.read(_SAMPLED_PARAGRAPH)
    for end in (b"\n", b" "):
        if end in block:
            return place + block.index(end)
    while place < file.tell() and block[place - file.tell() + len(block)] & 0xC0 == 0x80:
        place += 1
    return place


def _read_jsonl(part, options, skip):
    numbered = 0
    with _open_text(part, skip) as file:
        position = _skip_to_line(file, part.start, part.stop)
        number = 0
        while (part.stop == -1 or position < part.stop) and (line := file.readline()):
            number += 1
            if line.strip():
                text, reason = _record_text(line, options.text_field)
                if reason is None:
                    yield from _paragraphs(text)
                    yield None
                elif line.endswith(b"\n") or not _is_damaged(file):  # else it is what damage has left of a record
                    before = _count_lines(part) if part.start and numbered < _NUMBERED_LINES else 0
                    numbered += 1
                    skip(f"{part.path} line {before + number}", reason, len(line))
            position += len(line)


def _read_fasta(part, options, skip):
    """Reads the records whose header begins in a byte range."""
    with _open_text(part, skip) as file:
        problem = fasta.first_problem(_numbered(file, 0)) if part.start == 0 else None
        if problem:
            raise Unreadable(f"{part.path} line {problem[0]}", problem[1])
        file.seek(0)
        position = _skip_to_line(file, part.start, part.stop)
        if position >= part.stop != -1:
            return

        def skip_line(number, reason, size):
            before = _count_lines(part) if part.start else 0
            skip(f"{part.path} line {before + number}", reason, size)

        yield from fasta.Records(skip_line).read(_numbered(file, position), part.stop)


def _numbered(file, position):
    """Yields the lines of a binary file from a position on: (number, position, bytes, whether a line begins)."""
    number = 0
    for line, begins in _lines(file):
        number += begins
        yield number, position, line.removeprefix(b"\xef\xbb\xbf") if position == 0 else line, begins
        position += len(line)


def _is_damaged(file):
    return isinstance(file, io.BufferedReader) and bool(getattr(file.raw, "damage", ""))


def _record_text(line, field):
    """Returns (text of a JSON line's field, None), or (None, why there is none)."""
    try:
        record = files.parse_object(line)
    except ValueError as error:
        return None, f"{error}; expected an object with the field {field!r}"
    return _field_text(record, field)


def _field_text(record, field):
    """Returns (text of a record's field, None), or (None, why there is none)."""
    if field not in record:
        fields = ", ".join(sorted(map(str, record))) or "none"
        return None, f"no field {field!r}; found {fields}; name the field with --text_field"
    text = record[field]
    if isinstance(text, bytes):
        try:
            return text.decode("utf-8"), None
        except UnicodeDecodeError:
            return None, f"field {field!r} is not UTF-8"
    if not isinstance(text, str):
        return None, f"field {field!r} holds a {type(text).__name__}; expected text"
    return text, None


def _read_record(record, field, where, skip):
    """Yields the paragraphs of a record's field and None, the document's end; skips a record without such text."""
    text, reason = _field_text(record, field)
    if reason is None:
        yield from _paragraphs(text)
        yield None
    else:
        value = record.get(field)
        skip(where, reason, len(value) if isinstance(value, bytes) else 0)


def _count_lines(part):
    """Counts the lines of the file before the part's first line."""
    with storage.open_binary(part.path) as file:
        left = _skip_to_line(file, part.start)
        file.seek(0)
        count = 0
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            count += block.count(b"\n")
            left -= len(block)
    return count


def _paragraphs(text):
    """Yields the paragraphs of a text, which blank lines separate."""
    try:
        text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can express and UTF-8 cannot
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    paragraph, length = [], 0
    for line in text.split("\n"):
        for start in range(0, max(1, len(line)), _MAX_PARAGRAPH):
            stripped = line[start : start + _MAX_PARAGRAPH].strip()
            if stripped:
                paragraph.append(stripped)
                length += len(stripped)
            if paragraph and (not stripped or length >= _MAX_PARAGRAPH):
                yield paragraph
                paragraph, length = [], 0
    if paragraph:
        yield paragraph


def _read_parquet(part, options, skip):
    pyarrow = parquet.package(part.path)
    try:
        with storage.open_binary(part.path) as opened, pyarrow.parquet.ParquetFile(opened) as file:
            names = file.schema_arrow.names
            if options.text_field not in names:
                raise Unreadable(
                    part.path,
                    f"no column {options.text_field!r}; found {', '.join(names)}; name it with --text_field",
                )
            groups = range(part.start, file.num_row_groups if part.stop == -1 else part.stop)
            row = 0
            batches = file.iter_batches(_RECORDS_AT_ONCE, row_groups=list(groups), columns=[options.text_field])
            for batch in batches:
                for value in batch.column(0).to_pylist():
                    row += 1
                    record = {options.text_field: value}
                    yield from _read_record(record, options.text_field, f"{part.where} row {row}", skip)
    except pyarrow.ArrowException as error:
        raise Unreadable(part.where, f"not a whole Parquet file ({' '.join(str(error).split())})") from error


def _read_tfds(part, options, skip):
    source, _ = open_tfds(part.path, options)
    for start in range(part.start, part.stop, _RECORDS_AT_ONCE):
        indices = range(start, min(start + _RECORDS_AT_ONCE, part.stop))
        for index, record in zip(indices, source.__getitems__(indices), strict=True):
            yield from _read_record(record, options.text_field, f"tfds:{part.path} record {index}", skip)


def _read_hf(part, options, skip):
    source = hf_source.open_split(f"hf:{part.path}")
    for index, record in source.records([options.text_field], part.start, part.stop):
        yield from _read_record(record, options.text_field, f"hf:{part.path} record {index}", skip)
