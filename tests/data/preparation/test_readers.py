"""Every kind of input is read as the same documents, however it is cut into parts."""

import functools
import gzip
import io
import json
import pathlib
import random
import re
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from bert_jax.data.preparation import readers, sources
from bert_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
STORY = "One line.\nIts second line.\n\nA second paragraph.\n\n\n  \nA third.\n"


def documents(spec, strict_skips=None, **options):
    """Returns every document of a source, as a list of paragraphs, each a list of lines."""
    options = sources.Options(**options)
    collected, document = [], []
    skip = (lambda where, reason, size: strict_skips.append(f"{where}: {reason}")) if strict_skips is not None else None
    for shard in sources.plan(spec, options).shards:
        for part in shard:
            for paragraph in readers.read(part, options, skip):
                if paragraph is None:
                    collected.append(document)
                    document = []
                else:
                    document.append(paragraph)
            assert not document, "a part ended inside a document"
    return collected


def test_documents_by_blank_line_and_by_file(tmp_path):
    (tmp_path / "a.txt").write_text(STORY)
    lines = [["One line.", "Its second line."], ["A second paragraph."], ["A third."]]
    assert documents(f"{tmp_path}/a.txt") == [[paragraph] for paragraph in lines]
    assert documents(f"{tmp_path}/a.txt", documents="file") == [lines]
    assert documents(f"{tmp_path}/a.txt", documents="line") == [[[line]] for paragraph in lines for line in paragraph]


def test_line_ends_byte_order_mark_and_blanks(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne.\r\nTwo.\r\n\r\n \t\r\nThree.")
    assert documents(f"{tmp_path}/a.txt") == [[["One.", "Two."]], [["Three."]]]
    (tmp_path / "blank.txt").write_text("\n \n\t\n")
    (tmp_path / "empty.txt").write_text("")
    assert documents(f"{tmp_path}/blank.txt,{tmp_path}/empty.txt") == []


def test_globs_are_sorted_and_each_file_is_read_once(tmp_path):
    for name in "cab":
        (tmp_path / f"{name}.txt").write_text(f"File {name}.")
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"File z.", mtime=0))
    read = documents(f"{tmp_path}/*.txt,{tmp_path}/a*,{tmp_path}/*.txt.gz")
    assert [document[0][0] for document in read] == ["File a.", "File b.", "File c.", "File z."]


@pytest.mark.parametrize("kind", ["blank_line", "one_line", "jsonl", "line"])
def test_byte_ranges_lose_and_repeat_nothing(tmp_path, monkeypatch, kind):
    options = {"documents": "line"} if kind == "line" else {}
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 1)
    lines = [f"Sentence {i} {'é' * (i % 13)}." for i in range(300)]
    if kind == "jsonl":
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps({"text": line}) + "\n" * (1 + i % 2) for i, line in enumerate(lines)))
    elif kind == "line":
        path = tmp_path / "a.txt"
        path.write_text("".join(line + ("\n", "\r\n", "\n \n\n")[i % 3] for i, line in enumerate(lines)))
    else:
        path = tmp_path / "a.txt"
        gaps = ("\n\n", "\n\n\n", "\n \n\n", "\r\n\r\n")
        path.write_text("".join(line + (gaps[i % 4] if kind == "blank_line" else "\n") for i, line in enumerate(lines)))
    expected = [[[line]] for line in lines] if kind != "one_line" else [[lines]]
    counts = set()
    for wanted in (1, 7, 64, 1000):
        monkeypatch.setattr(sources, "_SHARDS_WANTED", wanted)
        counts.add(len(sources.plan(str(path), sources.Options(**options)).shards))
        assert documents(str(path), **options) == expected
    assert max(counts) > 100


class Counting(io.BytesIO):
    """A file that counts the bytes that are read from it."""

    bytes_read = 0

    def readline(self, *arguments):
        line = super().readline(*arguments)
        Counting.bytes_read += len(line)
        return line

    def read(self, *arguments):
        block = super().read(*arguments)
        Counting.bytes_read += len(block)
        return block


@pytest.mark.parametrize(
    ("name", "by"),
    [*((name, by) for name in ("lines.txt", "one_line.txt", "blank_end.txt") for by in ("blank_line", "line")),
     ("a.jsonl", "blank_line")],
)  # fmt: skip
def test_a_byte_range_without_a_document_is_read_no_further(tmp_path, monkeypatch, name, by):
    """Text without blank lines, of which each range read the rest of the file in search of one."""
    text = {"lines.txt": "A sentence.\n" * 20_000, "one_line.txt": "A sentence. " * 20_000}.get(name)
    text = text or "A sentence.\n" * 20_000 + "\nEnd.\n"
    (tmp_path / name).write_text(json.dumps({"text": text}) + "\n" if name == "a.jsonl" else text)
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 10_000)
    monkeypatch.setattr(readers, "_MAX_PARAGRAPH", 1000)
    monkeypatch.setattr(readers.encoding, "EXAMINED_BYTES", 100)
    monkeypatch.setattr(readers.storage, "open_binary", lambda path: Counting(pathlib.Path(path).read_bytes()))
    size = (tmp_path / name).stat().st_size
    options = sources.Options(documents=by)
    assert len(sources.plan(str(tmp_path / name), options).shards) > 20
    Counting.bytes_read = 0
    number = len(documents(str(tmp_path / name), documents=by))
    by_line = by == "line" and name in ("lines.txt", "blank_end.txt")
    assert number == (20_000 + (name == "blank_end.txt") if by_line else 1 + (name == "blank_end.txt"))
    assert size <= Counting.bytes_read < 2.2 * size


def test_long_lines_come_in_pieces_and_no_character_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_MAX_PARAGRAPH", 50)
    text = "中文" * 200 + " " + "word " * 100 + "end"
    (tmp_path / "a.txt").write_text(text + "\n\nNext.\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    assert len(documents(f"{tmp_path}/a.txt", documents="line")) == 2
    document, after = documents(f"{tmp_path}/a.txt")
    pieces = [line for paragraph in document for line in paragraph]
    assert max(len(piece.encode()) for piece in pieces) <= 50
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert all(set(piece.split()) <= {"word", "end"} for piece in pieces if "w" in piece)
    assert after == [["Next."]]
    (document,) = documents(f"{tmp_path}/a.jsonl")
    assert "".join(line for paragraph in document for line in paragraph).replace(" ", "") == text.replace(" ", "")


def test_records_without_text_are_named_with_their_line(tmp_path, monkeypatch):
    good = '{"text": "Good one.\\n\\nIts second paragraph."}\n'
    bad = ['{"body": "x"}\n', "{bad\n", '{"text": 5}\n', '["x"]\n', '{"text": "\xff"}\n']
    path = tmp_path / "a.jsonl"
    path.write_bytes((good * 40 + "\n" + "".join(bad)).encode("latin-1") + good.encode())
    for wanted in (1, 30):  # in one part, and in ranges that begin inside the file
        monkeypatch.setattr(sources, "_SMALLEST_SHARD", 1)
        monkeypatch.setattr(sources, "_SHARDS_WANTED", wanted)
        skipped = []
        read = documents(str(path), skipped)
        assert read == [[["Good one."], ["Its second paragraph."]]] * 41
        assert [line.split(": ")[0] for line in skipped] == [f"{path} line {n}" for n in range(42, 47)]
    assert "no field 'text'; found body" in skipped[0]
    assert "not JSON" in skipped[1]
    assert "holds a int" in skipped[2]
    assert "expected an object" in skipped[3]
    assert "not UTF-8" in skipped[4]


def test_half_surrogates_become_replacement_characters(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud800 b \\ud83d\\ude00"}\n')
    assert documents(f"{tmp_path}/a.jsonl") == [[["a \ufffd b \U0001f600"]]]


def test_parquet_in_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 1)
    texts = [f"Row {i}." for i in range(100)] + [None]
    table = pyarrow.table({"id": range(101), "body": texts})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    spec = f"{tmp_path}/a.parquet"
    skipped = []
    read = documents(spec, skipped, text_field="body")
    assert read == [[[text]] for text in texts[:-1]]
    assert len(skipped) == 1 and "NoneType" in skipped[0]
    assert len(sources.plan(spec, sources.Options(text_field="body")).shards) > 5
    with pytest.raises(readers.Unreadable, match="no column 'text'; found id, body"):
        documents(spec)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(readers.Unreadable, match="not a whole Parquet file"):
        documents(f"{tmp_path}/cut.parquet", text_field="body")


@pytest.mark.parametrize("by", ["blank_line", "line", "file"])
def test_a_byte_that_is_not_utf_8_costs_its_paragraph(tmp_path, by):
    content = b"One.\nTwo.\n\nThree.\nna\xefve\nFour.\n\nFive.\n\n\xff\n\nSix.\nSeven.\n\xe9"
    (tmp_path / "a.txt").write_bytes(content)
    skipped = []
    read = documents(f"{tmp_path}/a.txt", skipped, documents=by)
    expected = {
        "blank_line": [[["One.", "Two."]], [["Five."]]],
        "line": [[[f"{word}."]] for word in ("One", "Two", "Three", "Four", "Five", "Six", "Seven")],
        "file": [[["One.", "Two."], ["Five."]]],
    }[by]
    assert read == expected
    places = [content.index(byte) for byte in (b"\xef", b"\xff", b"\xe9")]
    assert skipped == [f"{tmp_path}/a.txt: not UTF-8 at byte {place} (0x{content[place]:02x})" for place in places]


def _note(skipped, *lost):
    skipped.append(lost)


def test_no_more_is_left_out_of_a_long_paragraph_than_is_near_the_byte(tmp_path):
    """A megabyte without a blank line, as lines or as one line, loses less than a tenth."""
    line = b"the cat sat on the mat .\n"
    for end in (b"\n", b" "):
        content = line.replace(b"\n", end) * 50_000
        middle = content.index(b"cat", len(content) // 2)
        (tmp_path / "a.txt").write_bytes(content[:middle] + b"\xff" + content[middle:])
        options, skipped = sources.Options(), []
        (shard,) = sources.plan(f"{tmp_path}/a.txt", options).shards
        paragraphs = [p for part in shard for p in readers.read(part, options, functools.partial(_note, skipped)) if p]
        kept = sum(text.count("cat") for paragraph in paragraphs for text in paragraph)
        assert 47_000 < kept < 50_000
        ((_, reason, size),) = skipped
        assert reason == f"not UTF-8 at byte {middle} (0xff)"
        assert abs(size / len(line) / (50_000 - kept) - 1) < 0.05  # line ends are not counted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "latin.txt",
            b"na\xefve\n\n" * 5 + b"good",
            r"latin\.txt.*not UTF-8 at byte 2 \(0xef\), nor are most .* LATIN1 ",
        ),
        (
            "sjis.txt",
            "人間は自由\n".encode("shift-jis") * 9,
            r"not UTF-8 at byte 0 .*, nor are most of its lines; expected",
        ),
        ("packed.txt", gzip.compress(b"good", mtime=0), "compressed by gzip, .*expected a name that ends in .gz"),
        ("utf16.txt", "good\n".encode("utf-16-be"), r"utf16\.txt.*every few bytes a zero.* -f UTF-16 "),
        ("marked.jsonl", '{"text": "x"}'.encode("utf-16"), r"marked\.jsonl.*UTF-16, by its first bytes"),
        ("marked.txt.gz", gzip.compress("x".encode("utf-32"), mtime=0), r"marked\.txt.gz.*UTF-32, by its first bytes"),
        ("begun.txt.gz", gzip.compress(b"some text " * 100, mtime=0)[:9], r"begun\.txt\.gz.*truncated or damaged"),
        ("plain.txt.gz", b"not compressed", r"plain\.txt\.gz.*Not a gzipped file"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(readers.Unreadable) as error:
        documents(f"{tmp_path}/{name}", [])
    assert re.search(message, f"{error.value.where}: {error.value.reason}")


@pytest.mark.parametrize("kind", ["cut", "flipped", "followed"])
@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_a_damaged_gz_is_read_up_to_the_damage_and_named(tmp_path, name, kind):
    rng = random.Random(0)
    texts = ["".join(rng.choices("aäé中文 xyz👩", k=90)).strip() for _ in range(3000)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) if "jsonl" in name else text for text in texts]
    packed = gzip.compress("\n".join(lines).encode(), mtime=0)
    half = len(packed) // 2
    damaged = {"cut": packed[:half], "flipped": packed[:half] + b"\xff" * half, "followed": packed + b"tail of a copy"}
    (tmp_path / name).write_bytes(damaged[kind])
    skipped = []
    options = {} if "jsonl" in name else {"documents": "line"}
    read = [text for [[text]] in documents(f"{tmp_path}/{name}", skipped, **options)]
    assert len(skipped) == 1 or kind == "flipped"  # whose damage unpacks to a few bytes that are not UTF-8
    assert re.search(
        r"a\.\w+\.gz: truncated or damaged \.gz at byte [\d,]+ of its text \(.*\); the text before is used", skipped[-1]
    )
    intact = [text for text in read if text in texts]
    assert len(read) - len(intact) <= (1 if "jsonl" not in name else 0) + 40 * (kind == "flipped")
    assert intact == texts[: len(intact)] and len(intact) > (2990 if kind == "followed" else 1000)


TFDS = """
import sys
import tensorflow_datasets as tfds
from absl import flags

class SmallText(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))
    def _split_generators(self, dl_manager):
        return {"train": self._examples(600), "test": self._examples(3)}
    def _examples(self, count):
        for i in range(count):
            yield f"{i:04d}", {"text": f"Record {i} of {count} \u00e9."}
    def _generate_examples(self, count):
        raise NotImplementedError

flags.FLAGS.mark_as_parsed()
SmallText(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""

READ_TFDS = """
import sys
from tests.data.preparation.test_readers import documents
for split in ("train", "test", "train[:10%]"):
    read = documents(f"tfds:small_text:{split}", data_dir=sys.argv[1])
    print(len(read), *sorted(read)[0][0])
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
assert "jax" not in sys.modules, "jax was imported"
"""


def test_tfds_is_read_without_tensorflow(tmp_path):
    def python(script):
        return subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], check=True, text=True, capture_output=True, cwd=ROOT
        ).stdout

    python(TFDS)
    train, test, tenth = python(READ_TFDS).splitlines()
    assert (train, test) == ("600 Record 0 of 600 é.", "3 Record 0 of 3 é.")
    assert tenth.startswith("60 Record ")
    with pytest.raises(UserError, match="small_text:nosplit"):
        sources.plan("tfds:small_text:nosplit", sources.Options(data_dir=str(tmp_path)))


def test_zeros_at_the_end_of_a_file_are_no_other_encoding(tmp_path):
    """A file that grew, but was not written to, before the machine went down."""
    (tmp_path / "a.txt").write_bytes(b"The cat sat.\n\nIt slept.\n\n" + b"\0" * 5000)
    skipped = []
    assert documents(f"{tmp_path}/a.txt", skipped)[:2] == [[["The cat sat."]], [["It slept."]]]
