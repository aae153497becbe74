"""Proteins are read from FASTA files, however their lines are cut and their files divided; mistakes name a line."""

import gzip
import random

import pytest

from bert_jax.data.corpus import Corpus
from bert_jax.data.preparation import pipeline, sources
from bert_jax.errors import UserError
from tests.data.preparation.test_readers import documents


def made(path, text):
    packed = path.name.endswith(".gz")
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    return str(path)


def proteins(spec, skipped=None):
    read = documents(spec, skipped)
    assert all(len(document) == len(document[0]) == 1 for document in read)
    return [document[0][0] for document in read]


@pytest.mark.parametrize("name", ["a.fasta", "a.fa", "a.faa", "a.fasta.gz", "a.fa.gz", "a.faa.gz"])
def test_records_of_several_lines(tmp_path, name):
    text = ">one with words > and others\nMKTL\nLAG\n\n>two\n  mkt xbuzoj\t\n\n\n;an old comment\n-.A\n>three\nM"
    for ends in ("\n", "\r\n"):
        path = made(tmp_path / name, text.replace("\n", ends))
        assert proteins(path) == ["MKTLLAG", "MKTXBUZOJ-.A", "M"]
    assert proteins(made(tmp_path / name, f"\ufeff\n; first\n{text}\n\n")) == ["MKTLLAG", "MKTXBUZOJ-.A", "M"]


def test_a_stop_ends_a_protein(tmp_path):
    text = ">a\nMKTL*\n>b\nMK*\n*LA\nG**\n>c\nMK\n*\n"
    assert proteins(made(tmp_path / "a.fa", text)) == ["MKTL", "MK", "LAG", "MK"]


def test_records_that_hold_something_else_are_skipped_by_line(tmp_path):
    skipped = []
    text = ">a\nMKTL\n>b\n>c\nLA\nMK1L\n22\n>d\n*\n>e\nM\u00e9K\n>f\nGGG\n>"
    path = made(tmp_path / "a.fasta", text)
    assert proteins(path, skipped) == ["MKTL", "GGG"]
    assert [line.removeprefix(path) for line in skipped] == [
        " line 3: a header without residues behind it",
        " line 6: found '1' among residues; expected letters, * or -",
        " line 8: a header without residues behind it",
        " line 11: found '\u00e9' among residues; expected letters, * or -",
        " line 14: a header without residues behind it",
    ]


@pytest.mark.parametrize("text", ["\n\nMKTL\n>a\nMK\n", "@read 1 of a FASTQ file\nACGT\n+\nIIII\n", "{}\n"])
def test_other_files_are_refused_by_line(tmp_path, text):
    path = made(tmp_path / "a.fasta", text)
    number = text.count("\n", 0, len(text) - len(text.lstrip())) + 1
    settings = pipeline.Settings(path, "amino-acids")
    for strict in (False, True):
        with pytest.raises(UserError) as raised:
            pipeline.prepare(settings, tmp_path / f"corpus{strict}", 1, strict, progress=False)
        message = str(raised.value)
        assert f"{path} line {number}: no FASTA: found '" in message and "\n" not in message
        assert "expected > and a name before the first protein" in message


def test_byte_ranges_lose_and_repeat_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 1)
    draw, parts, expected, wrong = random.Random(0), [], [], []
    for i in range(200):
        protein = "".join(draw.choices("LAGVSERTIDPKQNFYMHWC", k=draw.randint(1, 90)))
        if i % 9 == 8:
            protein = f"{protein}1"
            wrong.append("".join(parts).count("\n") + 2)
        else:
            expected.append(protein)
        width = draw.choice([7, 60, 1000])
        lines = [protein[begin : begin + width] for begin in range(0, len(protein), width)]
        wrong[-1:] = [wrong[-1] + len(lines) - 1] if i % 9 == 8 else wrong[-1:]
        parts.append(f">protein {i} {'x' * draw.randint(0, 50)}\n" + "\n".join(lines) + "\n" * draw.randint(1, 3))
    path = made(tmp_path / "a.fasta", "".join(parts))
    counts = set()
    for wanted in (1, 7, 64, 1000):
        monkeypatch.setattr(sources, "_SHARDS_WANTED", wanted)
        counts.add(len(sources.plan(path, sources.Options()).shards))
        skipped = []
        assert proteins(path, skipped) == expected
        assert [line.partition(":")[0] for line in skipped] == [f"{path} line {number}" for number in wrong]
    assert max(counts) > 100


def test_a_line_longer_than_a_block_is_one_protein(tmp_path, monkeypatch):
    monkeypatch.setattr("bert_jax.data.preparation.readers._MAX_PARAGRAPH", 50)
    path = made(tmp_path / "a.fasta", f">{'name ' * 40}\n{'MKTLA' * 100}\n>b\nMK\n")
    assert proteins(path) == ["MKTLA" * 100, "MK"]


def test_options_of_other_text_are_refused(tmp_path):
    path = made(tmp_path / "a.fasta", ">a\nMK\n")
    with pytest.raises(UserError, match="--documents=line: read for none of --input"):
        sources.plan(path, sources.Options(documents="line"))


def test_a_corpus_of_proteins(tmp_path):
    """One sentence is one protein, whatever splits text, and its length is no cause of a warning."""
    text = "".join(f">{i}\n{'MKTL.AGX' * (90 + i)}*\n" for i in range(30))
    made(tmp_path / "a.fasta", text), made(tmp_path / "b.faa.gz", ">x\nmkj\n")
    settings = pipeline.Settings(f"{tmp_path}/*", "amino-acids", eval_share=0.2)
    manifest = pipeline.prepare(settings, tmp_path / "corpus", 1, progress=False)
    assert (manifest["documents"], manifest["sentences"]) == (31, 31)
    assert manifest["tokens"] == 3 + sum(8 * (90 + i) for i in range(30))
    assert "in sentences of more than 512 tokens" not in pipeline.summary(manifest, tmp_path / "corpus")
    opened = Corpus.open(tmp_path / "corpus")
    assert (opened.vocab_size, opened.tokenizer.mask_id, opened.tokenizer.token(4)) == (33, 32, "L")
