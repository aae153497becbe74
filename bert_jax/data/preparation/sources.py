"""Where text comes from, planned as shards, read as paragraphs: files here or in remote storage, TFDS, Python's docs.

`plan` cuts the inputs into shards of similar size, by the inputs alone; `read` yields the paragraphs of one part
of a shard, as lists of stripped, non-blank lines, with None after the last paragraph of each document.
"""

import contextlib
import dataclasses
import glob
import gzip
import hashlib
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator

from bert_jax import files, storage
from bert_jax.data import tfds_source
from bert_jax.data.preparation import python_docs
from bert_jax.errors import UserError

DOCUMENTS = ("blank_line", "file")
_KINDS = {
    ".txt": "text", ".txt.gz": "text", ".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".parquet": "parquet",
}  # fmt: skip
_SMALLEST_SHARD, _LARGEST_SHARD = 1 << 20, 32 << 20
_SHARDS_WANTED = 64  # as far as the two sizes allow: enough to spread over processes and to continue from
_GZIP_RATIO = 3  # text is about this much larger than its .gz
_MAX_PARAGRAPH = 1 << 20  # characters; longer paragraphs and lines are cut, so that memory stays bounded
_RECORDS_AT_ONCE = 256
_NUMBERED_LINES = 20  # records skipped in one part whose line number is looked up


class Unreadable(Exception):
    """A file, or part of one, that cannot be read. `where` names it, `reason` says why."""

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)
        self.where, self.reason = where, reason


@dataclasses.dataclass(frozen=True)
class Options:
    """How inputs are read: what a document of a .txt is, the records' field, and where TFDS keeps its data."""

    documents: str = "blank_line"
    text_field: str = "text"
    data_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of an input that one process reads.

    Attributes:
      kind: "text", "jsonl", "parquet", "tfds" or "python_docs".
      path: the file; for tfds, NAME[/CONFIG]:SPLIT.
      start, stop: bytes of text and jsonl, row groups of parquet, records of tfds; stop -1: to the end.
      size: estimated bytes of text.
    """

    kind: str
    path: str
    start: int
    stop: int
    size: int

    @property
    def where(self) -> str:
        unit = {"parquet": "row groups", "tfds": "records"}.get(self.kind, "bytes")
        whole = self.start == 0 and self.stop == -1
        return self.path if whole else f"{self.path} ({unit} {self.start} to {self.stop})"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Shards, each a tuple of parts, and what identifies the inputs: how many, their size, and a digest."""

    shards: tuple[tuple[Part, ...], ...]
    files: int
    size: int
    state: str


def plan(spec: str, options: Options) -> Plan:
    """Cuts the inputs into shards; a pure function of the inputs' names and sizes.

    Args:
      spec: globs of .txt, .txt.gz, .jsonl, .jsonl.gz and .parquet files, tfds:NAME[/CONFIG]:SPLIT, python-docs;
        several are separated by commas.

    Raises:
      UserError: nothing matches, a file of another kind does, or a dataset is not there.
    """
    inputs = []
    for item in filter(None, (item.strip() for item in spec.split(","))):
        if item == "python-docs":
            inputs += [("python_docs", path) for path in python_docs.paths()]
        elif item.startswith("tfds:"):
            if not tfds_source.SPEC.fullmatch(item):
                raise UserError(f"--input={item}: expected tfds:NAME[/CONFIG]:SPLIT, such as tfds:imdb_reviews:train")
            inputs.append(("tfds", item.removeprefix("tfds:")))
        else:
            inputs += [(_kind(path), path) for path in _matching(item)]
    if not inputs:
        raise UserError("--input: empty; expected a glob of files, tfds:NAME[/CONFIG]:SPLIT or python-docs")
    inputs = list(dict.fromkeys(inputs))
    digest = hashlib.blake2b(digest_size=16)
    wholes = []
    for kind, path in inputs:
        whole, state = _whole(kind, path, options)
        digest.update(f"{kind}\0{path}\0{state}\n".encode())
        wholes.append(whole)
    size = sum(part.size for part in wholes)
    target = min(max(size // _SHARDS_WANTED, _SMALLEST_SHARD), _LARGEST_SHARD)
    shards, shard, filled = [], [], 0
    for part in wholes:
        for piece in _pieces(part, target, options):
            shard.append(piece)
            filled += piece.size
            if filled >= target:
                shards.append(tuple(shard))
                shard, filled = [], 0
    if shard:
        shards.append(tuple(shard))
    return Plan(tuple(shards), len(inputs), size, digest.hexdigest())


def read(part: Part, options: Options, skip: Callable[[str, str], None]) -> Iterator[list[str] | None]:
    """The part's paragraphs, each a list of stripped, non-blank lines; None ends a document.

    Args:
      skip: called with (where, reason) for a record that has no text; reading goes on.

    Raises:
      Unreadable: the part cannot be read to its end.
    """
    reader = {"text": _read_text, "jsonl": _read_jsonl, "parquet": _read_parquet, "tfds": _read_tfds}
    try:
        if part.kind == "python_docs":
            yield from python_docs.read(part.path)
        else:
            yield from reader[part.kind](part, options, skip)
    except (EOFError, zlib.error) as error:
        raise Unreadable(part.where, f"truncated or damaged .gz ({error})") from error
    except (FileNotFoundError, gzip.BadGzipFile) as error:
        raise Unreadable(part.where, f"cannot be read ({error.strerror or error})") from error
    except (UserError, Unreadable):
        raise
    except Exception as error:
        if storage.is_remote(part.path):  # it is the storage that fails, and no reason to leave text out
            raise storage.failure(part.path, error) from error
        if isinstance(error, OSError):
            raise Unreadable(part.where, f"cannot be read ({error.strerror or error})") from error
        raise


def _matching(pattern):
    if storage.is_remote(pattern):
        paths = storage.glob(pattern)
    else:
        paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        hint = f"it is a folder; try {pattern.rstrip('/')}/*.txt" if os.path.isdir(pattern) else "no file matches"
        raise UserError(f"--input={pattern}: {hint}; expected a glob of .txt, .txt.gz, .jsonl, .jsonl.gz or .parquet")
    return paths


def _kind(path):
    suffixes = pathlib.Path(path).suffixes
    kind = _KINDS.get("".join(suffixes[-2:])) or _KINDS.get("".join(suffixes[-1:]))
    if kind is None:
        raise UserError(f"{path}: unknown kind of file; expected {', '.join(_KINDS)}")
    return kind


def _whole(kind, path, options):
    """(the input as one part, what changes when the input does)"""
    if kind == "tfds":
        source, bytes_per_record = _tfds_source(path, options)
        size = len(source) * bytes_per_record
        return Part(kind, path, 0, len(source), size), f"{len(source)} {size}"
    try:
        if storage.is_remote(path):
            size, changes = storage.describe(path)
        else:
            status = os.stat(path)
            size, changes = status.st_size, str(status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a readable file") from error
    return Part(kind, path, 0, -1, size * (_GZIP_RATIO if path.endswith(".gz") else 1)), f"{size} {changes}"


def _pieces(part, target, options):
    if part.kind == "parquet":
        return _row_groups(part, target, options)
    if part.kind == "tfds":
        step, end = max(1, target * part.stop // max(1, part.size)), part.stop
    else:
        one_document = part.kind == "text" and options.documents == "file"
        if one_document or part.kind == "python_docs" or part.path.endswith(".gz") or part.size < 2 * target:
            return [part]
        step, end = target, part.size
    starts = range(0, end, step)
    scale = part.size / max(1, end)
    return [
        dataclasses.replace(part, start=a, stop=min(a + step, end), size=round((min(a + step, end) - a) * scale))
        for a in starts
    ]


def _row_groups(part, target, options):
    import pyarrow
    from pyarrow import parquet

    try:
        with storage.open_binary(part.path) as file:
            facts = parquet.read_metadata(file)
    except (pyarrow.ArrowException, OSError):
        return [part]  # reading it will say what is wrong
    sizes = []
    for i in range(facts.num_row_groups):
        group = facts.row_group(i)
        columns = [group.column(j) for j in range(group.num_columns)]
        sizes.append(sum(c.total_uncompressed_size for c in columns if c.path_in_schema == options.text_field))
    pieces, start, filled = [], 0, 0
    for i, size in enumerate(sizes):
        filled += size
        if filled >= target or i == len(sizes) - 1:
            pieces.append(dataclasses.replace(part, start=start, stop=i + 1, size=filled))
            start, filled = i + 1, 0
    return pieces or [part]


@contextlib.contextmanager
def _open(path):
    with storage.open_binary(path) as file:
        if not path.endswith(".gz"):
            yield file
            return
        with gzip.open(file, "rb") as text:
            yield text


def _lines(file, rest=b""):
    """Lines of a binary file, as (bytes, whether a line begins here); over-long lines come in several pieces."""
    begins = True
    while line := rest + file.readline(_MAX_PARAGRAPH - len(rest)):
        rest = b""
        if line.endswith(b"\n") or len(line) < _MAX_PARAGRAPH:
            yield line, begins
            begins = True
            continue
        cut = line.rfind(b" ") + 1
        if not cut:  # no space: between two characters
            cut = len(line)
            while cut > len(line) - 4 and line[cut - 1] & 0xC0 == 0x80:
                cut -= 1
            if line[cut - 1] >= 0xC0:
                cut -= 1
        yield line[:cut], begins
        begins, rest = False, line[cut:]


def _read_text(part, options, skip):
    """A byte range owns the documents after the blank lines that begin in it; the first range, also the first."""
    by_file = options.documents == "file"
    with _open(part.path) as file:
        position = _skip_to_line(file, part.start)
        owned = part.start == 0
        paragraph, length, in_document = [], 0, False
        for line, begins in _lines(file):
            try:
                text = line.decode("utf-8-sig" if position == 0 else "utf-8").strip()
            except UnicodeDecodeError as error:
                at = position + error.start
                raise Unreadable(part.where, f"not UTF-8 at byte {at} (0x{line[error.start]:02x})") from error
            if text:
                if owned:
                    paragraph.append(text)
                    length += len(text)
                    in_document = True
                    if length >= _MAX_PARAGRAPH:
                        yield paragraph
                        paragraph, length = [], 0
            elif begins:
                if paragraph:
                    yield paragraph
                    paragraph, length = [], 0
                if not by_file:
                    if in_document:
                        yield None
                        in_document = False
                    if part.stop != -1 and position >= part.stop:
                        return
                    owned = True
            position += len(line)
        if paragraph:
            yield paragraph
        if in_document:
            yield None


def _skip_to_line(file, start):
    """Moves to the first line that begins at or after start; returns its position."""
    if start == 0:
        return 0
    file.seek(start - 1)
    while (line := file.readline(_MAX_PARAGRAPH)) and not line.endswith(b"\n"):
        pass
    return file.tell()


def _read_jsonl(part, options, skip):
    numbered = 0
    with _open(part.path) as file:
        position = _skip_to_line(file, part.start)
        number = 0
        while (part.stop == -1 or position < part.stop) and (line := file.readline()):
            number += 1
            if line.strip():
                text, reason = _record_text(line, options.text_field)
                if reason is None:
                    yield from _paragraphs(text)
                    yield None
                else:
                    before = _count_lines(part) if part.start and numbered < _NUMBERED_LINES else 0
                    numbered += 1
                    skip(f"{part.path} line {before + number}", reason)
            position += len(line)


def _record_text(line, field):
    try:
        record = files.parse_object(line)
    except ValueError as error:
        return None, f"{error}; expected an object with the field {field!r}"
    return _field_text(record, field)


def _field_text(record, field):
    if field not in record:
        found = ", ".join(sorted(map(str, record))) or "none"
        return None, f"no field {field!r}; found {found}; name the field with --text_field"
    text = record[field]
    if isinstance(text, bytes):
        try:
            return text.decode("utf-8"), None
        except UnicodeDecodeError:
            return None, f"field {field!r} is not UTF-8"
    if not isinstance(text, str):
        return None, f"field {field!r} holds a {type(text).__name__}; expected text"
    return text, None


def _count_lines(part):
    """Lines that begin before the part's first own line."""
    with storage.open_binary(part.path) as file:
        left = _skip_to_line(file, part.start)
        file.seek(0)
        count = 0
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            count += block.count(b"\n")
            left -= len(block)
    return count


def _paragraphs(text):
    try:
        text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can name and UTF-8 cannot hold
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
    import pyarrow
    from pyarrow import parquet

    try:
        with storage.open_binary(part.path) as opened, parquet.ParquetFile(opened) as file:
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
                    text, reason = _field_text({options.text_field: value}, options.text_field)
                    if reason is None:
                        yield from _paragraphs(text)
                        yield None
                    else:
                        skip(f"{part.where} row {row}", reason)
    except pyarrow.ArrowException as error:
        raise Unreadable(part.where, f"not a whole Parquet file ({' '.join(str(error).split())})") from error


def _read_tfds(part, options, skip):
    source, _ = _tfds_source(part.path, options)
    for start in range(part.start, part.stop, _RECORDS_AT_ONCE):
        indices = range(start, min(start + _RECORDS_AT_ONCE, part.stop))
        for index, record in zip(indices, source.__getitems__(indices), strict=True):
            text, reason = _field_text(record, options.text_field)
            if reason is None:
                yield from _paragraphs(text)
                yield None
            else:
                skip(f"tfds:{part.path} record {index}", reason)


def _tfds_source(path, options):
    """(the random-access data source of NAME[/CONFIG]:SPLIT, estimated bytes per record)"""
    match = tfds_source.SPEC.fullmatch(f"tfds:{path}")
    return tfds_source.open_split(match["name"], match["split"], options.data_dir)
