"""Every part of the text gives its share of a sample, whatever its lines, paragraphs and documents look like."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from bert_jax.data.preparation import readers, sampling, sources


def words(prefix, count):
    return " ".join(f"{prefix}{i}" for i in range(count))


def sample(spec, most_bytes, **options):
    options = sources.Options(**options)
    taken = sampling.Sample(sources.plan(spec, options), options, most_bytes)
    return taken, list(taken.texts())


def sorted_words(texts):
    return sorted(" ".join(texts).split())


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 20_000)


@pytest.mark.parametrize("layout", ["blank lines", "lines", "one line", "short lines"])
@pytest.mark.parametrize("documents", sources.DOCUMENTS)
def test_all_of_a_short_text_is_in_its_sample(tmp_path, small_shards, layout, documents):
    text = words("wörd", 30_000)
    gap = {"blank lines": "\n\n", "lines": "\n", "one line": " ", "short lines": "\n"}[layout]
    step = 3 if layout == "short lines" else 200
    parts = text.split()
    (tmp_path / "a.txt").write_text(gap.join(" ".join(parts[i : i + step]) for i in range(0, len(parts), step)))
    taken, texts = sample(f"{tmp_path}/a.txt", 1 << 20, documents=documents)
    assert taken.everything and sorted_words(texts) == sorted(parts)
    assert taken.bytes == sum(len(piece.encode()) for piece in texts)
    assert max(len(piece) for piece in texts) <= 4096


@pytest.mark.parametrize("layout", ["lines", "one line", "no space"])
def test_a_long_text_gives_some_of_every_part(tmp_path, small_shards, layout):
    """Without a blank line the text is one document, of which only the first byte range has the beginning."""
    gap = {"lines": "\n", "one line": " ", "no space": "丁"}[layout]
    text = gap.join(f"中文{i}中" for i in range(40_000))
    (tmp_path / "a.txt").write_text(text)
    taken, texts = sample(f"{tmp_path}/a.txt", 100_000)
    assert not taken.everything and 80_000 < taken.bytes <= 100_000
    numbers = [int(word) for word in "".join(texts).replace("丁", " ").replace("中", " ").replace("文", " ").split()]
    tenths = [sum(4000 * i <= number < 4000 * (i + 1) for number in numbers) for i in range(10)]
    assert min(tenths) > 0.5 * sum(tenths) / 10
    assert sum(map(len, taken.excerpt)) > 10_000


def test_what_a_part_lacks_the_others_give(tmp_path, small_shards):
    (tmp_path / "empty.txt").write_text(" \n" * 50_000)
    (tmp_path / "latin.txt").write_bytes("été\n".encode("latin-1") * 20_000)
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": words("json", 20_000)}) + "\n")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(words("gz", 20_000).encode()))
    table = pyarrow.table({"text": [words("row", 100)] * 200})  # as one dictionary entry: larger than its size on disk
    parquet.write_table(table, tmp_path / "a.parquet")
    names = ["empty.txt", "latin.txt", "one.jsonl", "packed.txt.gz", "a.parquet"]
    spec = ",".join(f"{tmp_path}/{name}" for name in names)
    taken, texts = sample(spec, 1 << 20)
    everything = [words("json", 20_000), words("gz", 20_000), *[words("row", 100)] * 200]
    assert taken.everything and sorted_words(texts) == sorted_words(everything)
    assert "latin.txt" in taken.skipped[0] and "not UTF-8 at byte 0 (0xe9)" in taken.skipped[0]

    taken, texts = sample(spec, 100_000)
    assert not taken.everything and 90_000 < taken.bytes <= 100_000
    for prefix in ("json", "gz", "row"):
        assert sum(len(word) + 1 for word in sorted_words(texts) if word.startswith(prefix)) > 4000


def test_many_small_files_give_some_of_everywhere(tmp_path):
    for i in range(300):
        (tmp_path / f"{i:03d}.txt").write_text(words(f"f{i:03d}x", 30))
    taken, texts = sample(f"{tmp_path}/*.txt", 20_000)
    files = {int(word[1:4]) for word in sorted_words(texts)}
    assert 15_000 < taken.bytes <= 20_000
    assert len(files) > 60 and all(files & set(range(a, a + 60)) for a in range(0, 300, 60))
    taken, texts = sample(f"{tmp_path}/*.txt", 1 << 20)
    assert taken.everything and len({word[:4] for word in sorted_words(texts)}) == 300


def test_a_sample_is_the_same_every_time(tmp_path, small_shards):
    (tmp_path / "a.txt").write_text(words("word", 50_000))
    assert sample(f"{tmp_path}/a.txt", 50_000)[1] == sample(f"{tmp_path}/a.txt", 50_000)[1]


def test_an_excerpt_is_spread_over_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "_EXCERPT_BYTES", 20_000)
    (tmp_path / "a.txt").write_text("\n\n".join(words(f"{i:03d}x", 40) for i in range(1000)))
    taken, _ = sample(f"{tmp_path}/a.txt", 1 << 20)
    places = [int(text[:3]) for text in taken.excerpt]
    assert 20_000 <= sum(map(len, taken.excerpt)) <= 41_000
    assert len({b - a for a, b in zip(places, places[1:], strict=False)}) == 1 and places[-1] > 900


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_byte_ranges_of_any_size_lose_and_repeat_nothing(tmp_path, monkeypatch, size):
    text = "".join("é" * (i % 9) + "\n" * (i % 17 == 0) + " " * (i % 5 == 0) + "中文" for i in range(700))
    path = tmp_path / "a.txt"
    path.write_text(text)
    stop = path.stat().st_size
    options = sources.Options()
    for longest in (16, 4096):
        monkeypatch.setattr(readers, "_SAMPLED_PARAGRAPH", longest)
        pieces = []
        for start in range(0, stop, size):
            part = sources.Part("text", str(path), start, min(start + size, stop), size)
            pieces += ["".join(paragraph) for paragraph in readers.read_bytes(part, options, lambda *reason: None)]
        assert "".join("".join(pieces).split()) == "".join(text.split())
