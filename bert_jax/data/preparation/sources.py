"""Finds the inputs of a corpus and plans its shards: local files, remote files, TFDS, Python's documentation.

The plan depends on the inputs alone; readers.py reads what it names.
"""

import dataclasses
import hashlib
import os
import pathlib

from bert_jax import storage
from bert_jax.data import hf_source, parquet, tfds_source
from bert_jax.data.preparation import fasta, matching, python_docs
from bert_jax.errors import UserError

DOCUMENTS = ("blank_line", "line", "file")
_KINDS = {".txt": "text", ".jsonl": "jsonl", ".parquet": "parquet"} | dict.fromkeys(fasta.ENDINGS, "fasta")
_KINDS = {ending: _KINDS[ending.removesuffix(".gz")] for ending in matching.ENDINGS}
_SMALLEST_SHARD, _LARGEST_SHARD = 1 << 20, 32 << 20  # bytes
_SHARDS_WANTED = 64  # as far as these sizes allow: enough to spread over processes, and to continue after a kill
_GZIP_RATIO = 3  # text is about so many times larger than its .gz


@dataclasses.dataclass(frozen=True)
class Options:
    """States how inputs are read.

    Attributes:
      documents: what ends a document of a .txt file: "blank_line", the end of each "line", or of the "file".
      text_field: field or column of records that holds the text.
      data_dir: where TFDS keeps its data; None for its default.
    """

    documents: str = "blank_line"
    text_field: str = "text"
    data_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """Describes a piece of an input that one process reads.

    Attributes:
      kind: "text", "jsonl", "parquet", "fasta", "tfds", "hf" or "python_docs".
      path: the file; for tfds and hf, NAME[/CONFIG]:SPLIT.
      start, stop: range in bytes of text, jsonl and fasta, row groups of parquet, records of tfds and hf; a stop of -1
        is the end.
      size: estimated bytes of text.
    """

    kind: str
    path: str
    start: int
    stop: int
    size: int

    @property
    def where(self) -> str:
        """Returns the path, with the range where the part is not the whole input; for messages."""
        unit = {"parquet": "row groups", "tfds": "records", "hf": "records"}.get(self.kind, "bytes")
        is_whole_file = self.start == 0 and self.stop == -1
        return self.path if is_whole_file else f"{self.path} ({unit} {self.start} to {self.stop})"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Holds the shards of a corpus, and what identifies its inputs.

    Attributes:
      shards: the parts of each shard.
      files: number of inputs.
      size: estimated bytes of text.
      state: a hash of the inputs' names, sizes and times of change.
    """

    shards: tuple[tuple[Part, ...], ...]
    files: int
    size: int
    state: str


def plan(spec: str, options: Options, output: str | os.PathLike | None = None) -> Plan:
    """Cuts the inputs into shards of similar size, a pure function of the inputs' names and sizes.

    Args:
      spec: globs of .txt, .jsonl and .fasta files, which may be .gz, and of .parquet, tfds: or
        hf:NAME[/CONFIG]:SPLIT, or python-docs; several are separated by commas.
      options: how inputs are read.
      output: a folder, or the URL of one, whose files are no inputs although a glob matches them.

    Raises:
      UserError: nothing matches, a file of another kind matches, or a dataset cannot be opened.
    """
    inputs = []
    for item in matching.split_items(spec):
        if item == "python-docs":
            inputs += [("python_docs", path) for path in python_docs.paths()]
        elif item.startswith("tfds:"):
            if not tfds_source.SPEC.fullmatch(item):
                raise UserError(f"--input={item}: expected tfds:NAME[/CONFIG]:SPLIT, such as tfds:imdb_reviews:train")
            inputs.append(("tfds", item.removeprefix("tfds:")))
        elif item.startswith("hf:"):
            inputs.append(("hf", item.removeprefix("hf:")))
        else:
            inputs += [(_kind(path), path) for path in matching.find_files(item, output)]
    if not inputs:
        raise UserError("--input: empty; expected a glob of files, tfds: or hf:NAME[/CONFIG]:SPLIT, or python-docs")
    inputs = list(dict.fromkeys(inputs))
    _check_options(options, {kind for kind, _ in inputs})
    digest = hashlib.blake2b(digest_size=16)
    unsplit = []
    for kind, path in inputs:
        part, state = _whole(kind, path, options)
        digest.update(os.fsencode(f"{kind}\0{path}\0{state}\n"))
        unsplit.append(part)
    size = sum(part.size for part in unsplit)
    target = min(max(size // _SHARDS_WANTED, _SMALLEST_SHARD), _LARGEST_SHARD)
    shards, shard, filled = [], [], 0
    for part in unsplit:
        for piece in _pieces(part, target, options):
            shard.append(piece)
            filled += piece.size
            if filled >= target:
                shards.append(tuple(shard))
                shard, filled = [], 0
    if shard:
        shards.append(tuple(shard))
    return Plan(tuple(shards), len(inputs), size, digest.hexdigest())


def _check_options(options, kinds):
    """Raises UserError for an option that none of the inputs' kinds reads: it was meant for other text."""
    readers = {
        "documents": (("text",), ".txt files"),
        "text_field": (("jsonl", "parquet", "tfds", "hf"), ".jsonl, .parquet, tfds: or hf: inputs"),
        "data_dir": (("tfds",), "tfds: inputs"),
    }
    for name, (reading, expected) in readers.items():
        value = getattr(options, name)
        if value != getattr(Options, name) and not kinds.intersection(reading):
            raise UserError(f"--{name}={value}: read for none of --input; expected it with {expected}")


def _kind(path):
    suffixes = pathlib.Path(path).suffixes
    kind = _KINDS.get("".join(suffixes[-2:])) or _KINDS.get("".join(suffixes[-1:]))
    if kind is None:
        raise UserError(f"{path}: unknown kind of file; expected {', '.join(_KINDS)}")
    return kind


def _whole(kind, path, options):
    """Returns (the whole input as one part, a string that changes when the input does)."""
    if kind == "hf":
        source = hf_source.open_split(f"hf:{path}")
        source.check_columns([options.text_field], "--input")
        size = source.text_bytes(options.text_field)
        return Part(kind, path, 0, len(source), size), f"{source.state} {options.text_field}"
    if kind == "tfds":
        source, bytes_per_record = open_tfds(path, options)
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
    """Cuts a whole input into parts of about `target` bytes, where it can be read from the middle."""
    if part.kind == "parquet":
        return _row_groups(part, target, options)
    if part.kind in ("tfds", "hf"):
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
    """Cuts a Parquet file between row groups."""
    pyarrow = parquet.package(part.path)
    try:
        with storage.open_binary(part.path) as file:
            facts = pyarrow.parquet.read_metadata(file)
    except (pyarrow.ArrowException, OSError):
        return [part]  # reading it will report the error
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


def open_tfds(path: str, options: Options):
    """Opens NAME[/CONFIG]:SPLIT; returns (its random-access data source, estimated bytes per record)."""
    match = tfds_source.SPEC.fullmatch(f"tfds:{path}")
    return tfds_source.open_split(match["name"], match["split"], options.data_dir)
