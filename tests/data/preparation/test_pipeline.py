"""Preparation: the corpus holds the text, whatever the number of workers, and after kills and damage."""

import collections
import hashlib
import json
import os
import pathlib
import resource
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from bert_jax.config import load_recipe
from bert_jax.data.corpus import Corpus
from bert_jax.data.preparation import joining, pipeline, shards, sources, vocabulary
from bert_jax.data.preparation.sentences import sentences_of
from bert_jax.data.vocabularies import loading, word_pieces
from bert_jax.errors import UserError
from tests.commands import LONGEST_WAIT, is_running, wait_until
from tests.data.awkward import VOCABULARY, bpe_files, random_texts, shared

ROOT = pathlib.Path(__file__).parents[3]
WORDS = ["hello", "world", "the", "mask", "sat", "don", "a", "b", "c", "x", "y", "z", "helloing", "3.14", "école"]


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    return path


def make_text(documents, seed=0):
    rng = np.random.default_rng(seed)
    return "\n\n".join(
        "\n".join(" ".join(rng.choice(WORDS, 12)).capitalize() + "." for _ in range(rng.integers(1, 8)))
        for _ in range(documents)
    )


def prepare(spec, output, vocab, workers=1, strict=False, **settings):
    settings = pipeline.Settings(input=str(spec), tokenizer=str(vocab), **settings)
    return pipeline.prepare(settings, output, workers, strict, progress=False)


def contents(path):
    """Returns the hash of every file under a folder, by relative path."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def documents_of(path, splits=("train", "eval")):
    """Returns the documents of a corpus: each a tuple of sentences, each a tuple of (id, starts a word)."""
    documents = []
    for name in splits:
        split = Corpus.open(path).split(name)
        tokens = [shard.tokens for shard in split.shards]
        bits = [np.unpackbits(shard.word_starts)[: shard.num_tokens] for shard in split.shards]
        flat = list(zip(np.concatenate(tokens).tolist(), np.concatenate(bits).tolist(), strict=True)) if tokens else []
        for a, b in zip(split.documents, split.documents[1:], strict=False):
            documents.append(tuple(tuple(flat[split.sentences[i] : split.sentences[i + 1]]) for i in range(a, b)))
    return documents


def expected_documents(texts, tokenizer, mode="split"):
    """Returns the documents that prepare should write for texts, computed in the plainest way."""
    documents, begins_word = [], word_pieces.begins_word(tokenizer)
    for text in texts:
        rows = []
        for paragraph in text.split("\n\n"):
            lines = [line.strip() for line in paragraph.split("\n") if line.strip()]
            for sentence in sentences_of(lines, mode, "en") if lines else []:
                space = " " if rows and tokenizer.leading_space else ""
                (ids,), (starts,) = tokenizer.encode_with_words([space + sentence])
                if len(ids):
                    starts = starts | begins_word[ids]
                    rows.append(tuple(zip(ids.tolist(), starts.astype(int).tolist(), strict=True)))
        if rows:
            documents.append(tuple(rows))
    return documents


def small_shards(monkeypatch, shards=40):
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 1)
    monkeypatch.setattr(sources, "_SHARDS_WANTED", shards)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("mode", ["split", "line"])
def test_the_corpus_holds_the_text(tmp_path, vocab, monkeypatch, kind, mode):
    small_shards(monkeypatch)
    if kind == "bpe":
        bpe_files(tmp_path)
        vocab.unlink()
        vocab = tmp_path
    awkward = [text.replace("\n", " ").replace("\r", " ").strip() for text in random_texts(150, seed=5)]
    texts = [text for text in [*make_text(120).split("\n\n"), *awkward] if text]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), "utf-8")
    manifest = prepare(tmp_path / "a.txt", tmp_path / "out", vocab, sentences=mode, eval_share=0.2)
    tokenizer = loading.load(vocab)
    expected = expected_documents(texts, tokenizer, mode)
    assert collections.Counter(documents_of(tmp_path / "out")) == collections.Counter(expected)
    for split in ("train", "eval"):  # in the text's order
        ours = documents_of(tmp_path / "out", [split])
        chosen = collections.Counter(ours)
        assert ours == [document for document in expected if chosen[document]]
        assert len(ours) > 20
    tokens = [token for document in expected for sentence in document for token, _ in sentence]
    assert manifest["documents"] == len(expected)
    assert manifest["sentences"] == sum(map(len, expected))
    assert manifest["tokens"] == len(tokens)
    assert manifest["unknown_token_share"] == pytest.approx(tokens.count(tokenizer.unk_id) / len(tokens))
    assert manifest["duplicate_documents"] == len(texts) - len(set(texts))
    assert not (set(tokens) & (set(tokenizer.special_ids) - {tokenizer.unk_id}))


def test_long_documents_are_written_in_pieces(tmp_path, vocab, monkeypatch):
    text = make_text(60)
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(make_text(3, seed=1))
    monkeypatch.setattr(shards, "_BATCH_BYTES", 700)
    monkeypatch.setattr(shards, "_HASHED_BYTES", 1000)
    prepare(f"{tmp_path}/?.txt", tmp_path / "out", vocab, documents="file")
    expected = expected_documents([text, make_text(3, seed=1)], loading.load(vocab))
    assert sorted(documents_of(tmp_path / "out")) == sorted(expected)


def test_worker_count_changes_no_byte(tmp_path, vocab, monkeypatch):
    small_shards(monkeypatch, shards=16)
    text = make_text(300)
    (tmp_path / "a.txt").write_text(text + "\n\n" + text)
    spec = f"{tmp_path}/a.txt"
    for workers in (1, 3):
        prepare(spec, tmp_path / str(workers), vocab, workers, drop_duplicates=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    prepare(spec, tmp_path / "all", vocab)
    assert len(list((tmp_path / "all" / "train").glob("*.tokens.npy"))) > 10
    assert Corpus.open(tmp_path / "all").fingerprint != Corpus.open(tmp_path / "1").fingerprint


def test_equal_documents_are_counted_and_dropped(tmp_path, vocab, monkeypatch):
    small_shards(monkeypatch)
    monkeypatch.setattr(joining, "_BUCKET_DOCUMENTS", 50)
    monkeypatch.setattr(joining, "_HASHES_AT_ONCE", 7)
    unique = make_text(150).split("\n\n")
    texts = unique + unique[:100] + unique[50:120]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    kept = prepare(tmp_path / "a.txt", tmp_path / "kept", vocab, eval_share=0.2)
    dropped = prepare(tmp_path / "a.txt", tmp_path / "dropped", vocab, eval_share=0.2, drop_duplicates=True)
    duplicates = len(texts) - len(set(texts))
    assert kept["duplicate_documents"] == dropped["duplicate_documents"] == duplicates >= 170
    assert kept["documents"] == len(texts)
    assert dropped["documents"] == len(set(texts))
    for split in ("train", "eval"):
        firsts = list(dict.fromkeys(documents_of(tmp_path / "kept", [split])))
        assert documents_of(tmp_path / "dropped", [split]) == firsts
    train = Corpus.open(tmp_path / "dropped")
    tokens = np.concatenate([shard.tokens for shard in train.split("train").shards])
    assert train.unigram_counts.tolist() == np.bincount(tokens, minlength=train.vocab_size).tolist()


@pytest.mark.parametrize(("count", "share", "expected"), [(1, 0.9, (1, 0)), (2, 0.001, (1, 1)), (5, 0.0, (5, 0))])
def test_an_empty_split_gets_a_document(tmp_path, vocab, count, share, expected):
    (tmp_path / "a.txt").write_text(make_text(count))
    facts = prepare(tmp_path / "a.txt", tmp_path / "out", vocab, eval_share=share)["splits"]
    assert (facts["train"]["documents"], facts["eval"]["documents"]) == expected
    assert len(documents_of(tmp_path / "out")) == count
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.unigram_counts.sum() == corpus.split("train").num_tokens > 0


def test_train_is_never_empty(tmp_path, vocab):
    (tmp_path / "a.txt").write_text(make_text(3))
    facts = prepare(tmp_path / "a.txt", tmp_path / "out", vocab, eval_share=0.999999)["splits"]
    assert (facts["train"]["documents"], facts["eval"]["documents"]) == (1, 2)


@pytest.mark.parametrize(
    ("sizes", "share", "told"), [((40, 3), 0.4, "7.9%"), ((3, 40), 0.1, "9"), ((1, 1), 0.5, ""), ((5,), 0.02, "0.0%")]
)
def test_a_held_out_share_far_from_the_one_asked_for_is_told(tmp_path, vocab, sizes, share, told):
    """A document is held out whole, so that of a few large ones the share is what chance makes it."""
    for i, size in enumerate(sizes):
        (tmp_path / f"{i}.txt").write_text(make_text(size, seed=i))
    manifest = prepare(tmp_path / "?.txt", tmp_path / "out", vocab, documents="file", eval_share=share)
    lines = pipeline.summary(manifest, "out").splitlines()
    warnings = [line for line in lines if "held out" in line]
    if not told:
        assert not warnings
        return
    (line,) = warnings
    assert line.startswith(f"warning: {told}") and f"not the {share:.1%} of --eval_share" in line
    assert "--documents=blank_line" in line


def test_the_language_is_known_where_it_was_said(tmp_path, vocab):
    (tmp_path / "a.txt").write_text(make_text(4))
    for number, (language, known) in enumerate({"": "", "en": "en", "de-AT": "de"}.items()):
        prepare(tmp_path / "a.txt", tmp_path / str(number), vocab, language=language)
        assert Corpus.open(tmp_path / str(number)).language == known


def test_a_documents_split_depends_on_its_text_alone(tmp_path, vocab):
    texts = make_text(200).split("\n\n")
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    (tmp_path / "b.txt").write_text("\n\n".join(reversed(texts[50:])))
    held_out = []
    for name in "ab":
        prepare(tmp_path / f"{name}.txt", tmp_path / name, vocab, eval_share=0.2)
        held_out.append(set(documents_of(tmp_path / name, ["eval"])))
    assert held_out[1] <= held_out[0]
    assert 0.1 < len(held_out[0]) / 200 < 0.3


def test_unreadable_files_leave_no_trace_and_are_named(tmp_path, vocab):
    (tmp_path / "a.txt").write_text(make_text(20, seed=1))
    (tmp_path / "c.txt").write_text(make_text(20, seed=2))
    prepare(f"{tmp_path}/[ac].txt", tmp_path / "good", vocab)
    (tmp_path / "b.txt").write_text(make_text(20, seed=3), "utf-16")
    manifest = prepare(f"{tmp_path}/[abc].txt", tmp_path / "skipping", vocab)
    assert documents_of(tmp_path / "skipping") == documents_of(tmp_path / "good")
    assert manifest["fingerprint"] == Corpus.open(tmp_path / "good").fingerprint
    size = (tmp_path / "b.txt").stat().st_size
    assert manifest["skipped"]["count"] == 1 and manifest["skipped"]["bytes"] == size
    assert "b.txt: UTF-16, by its first bytes; expected UTF-8, such as" in manifest["skipped"]["examples"][0]
    assert f"skipped 1 ({size / 1e6:.3f} MB), such as" in pipeline.summary(manifest, "out")
    with pytest.raises(UserError, match=r"b\.txt: UTF-16"):
        prepare(f"{tmp_path}/[abc].txt", tmp_path / "strict", vocab, strict=True)
    with pytest.raises(UserError, match=r"b\.txt: UTF-16"):
        prepare(f"{tmp_path}/[abc].txt", tmp_path / "strict2", vocab, workers=2, strict=True)
    with pytest.raises(UserError, match=r"no text in it; the first of 1 skipped: .*b\.txt"):
        prepare(f"{tmp_path}/b.txt", tmp_path / "nothing", vocab)


@pytest.mark.parametrize(("words", "long"), [(30, False), (600, True)])
def test_text_without_sentences_is_warned_about(tmp_path, vocab, words, long):
    sentence = " ".join(["hello", "world"] * (words // 2))
    (tmp_path / "a.txt").write_text("\n\n".join([sentence] * 20))
    manifest = prepare(tmp_path / "a.txt", tmp_path / "out", vocab)
    facts = manifest["splits"]["train"]
    assert (facts["longest_sentence"], facts["long_sentence_share"]) == (words, float(long))
    warning = "100.0% of the text is in sentences of more than 512 tokens (the longest has 600)"
    assert (warning in pipeline.summary(manifest, "out")) == long


def test_bytes_that_are_not_utf_8_cost_their_paragraph(tmp_path, vocab, monkeypatch):
    small_shards(monkeypatch)
    texts = [f"{i} " + text for i, text in enumerate(make_text(60, seed=3).split("\n\n"))]
    (tmp_path / "good.txt").write_text("\n\n".join(text for i, text in enumerate(texts) if i % 15 != 7))
    damaged = [text.encode() + (b"\xff more" if i % 15 == 7 else b"") for i, text in enumerate(texts)]
    (tmp_path / "bad.txt").write_bytes(b"\n\n".join(damaged))
    prepare(tmp_path / "good.txt", tmp_path / "good", vocab)
    manifest = prepare(tmp_path / "bad.txt", tmp_path / "bad", vocab)
    assert documents_of(tmp_path / "bad") == documents_of(tmp_path / "good")
    assert manifest["skipped"]["count"] == 4
    lost = sum(len(text) for i, text in enumerate(damaged) if i % 15 == 7)
    assert abs(manifest["skipped"]["bytes"] - lost) < 40
    place = (tmp_path / "bad.txt").read_bytes().index(b"\xff")
    assert manifest["skipped"]["examples"][0] == f"{tmp_path}/bad.txt: not UTF-8 at byte {place} (0xff)"


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.txt",
            "Où est l'été ?\n\nIl était là.\n\n".encode("latin-1") * 9,
            "not UTF-8 at byte 1 .* own: LATIN1 or",
        ),
        ("a.txt", "Все люди рождаются свободными.\n\n".encode("koi8-r") * 9, "at byte 0 .* own: GB18030, .*KOI8-R"),
        (
            "a.txt",
            "人人生而自由，在尊严上平等。\n\n".encode("gb18030") * 9,
            "at byte 0 .* own: GB18030, ",
        ),
        ("a.txt", "The cat sat.\n".encode("utf-16-le"), "every few bytes a zero.*iconv -f UTF-16"),
        ("a.txt", "Все люди рождаются свободными.\n".encode("utf-16-le"), "every few bytes a control character.*iconv"),
        ("a.jsonl", '{"text": "The cat sat."}\n'.encode("utf-16"), "UTF-16, by its first bytes"),
        ("a.jsonl", b'{"body": "The cat sat."}\n', "no field 'text'; found body; name the field with --text_field"),
    ],
)
def test_the_reason_why_no_vocabulary_can_be_trained(tmp_path, kind, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"no text in it; the first of 1 skipped: {tmp_path}/{name}.*{reason}") as error:
        prepare(tmp_path / name, tmp_path / "out", f"train:{kind}:300")
    assert "\n" not in str(error.value)


def test_a_finished_corpus_stays_and_another_is_refused(tmp_path, vocab):
    (tmp_path / "a.txt").write_text(make_text(20))
    first = prepare(tmp_path / "a.txt", tmp_path / "out", vocab)
    before = contents(tmp_path / "out")
    assert prepare(tmp_path / "a.txt", tmp_path / "out", vocab) == first
    with pytest.raises(UserError, match="made with sentences=split, not sentences=line"):
        prepare(tmp_path / "a.txt", tmp_path / "out", vocab, sentences="line")
    with pytest.raises(UserError, match="made with tokenizer="):
        prepare(tmp_path / "a.txt", tmp_path / "out", vocab, lower_case="true")
    (tmp_path / "a.txt").write_text(make_text(21))
    with pytest.raises(UserError, match="input files that have changed"):
        prepare(tmp_path / "a.txt", tmp_path / "out", vocab)
    assert contents(tmp_path / "out") == before
    with pytest.raises(UserError, match="holds other files"):
        prepare(tmp_path / "a.txt", tmp_path, vocab)
    with pytest.raises(UserError, match="a file; expected"):
        prepare(tmp_path / "a.txt", tmp_path / "a.txt", vocab)


def test_joining_may_stop_anywhere(tmp_path, vocab, monkeypatch):
    small_shards(monkeypatch, shards=20)
    text = make_text(60)
    (tmp_path / "a.txt").write_text(text + "\n\n" + text[: len(text) // 2])
    settings = {"drop_duplicates": True, "eval_share": 1e-9}
    prepare(tmp_path / "a.txt", tmp_path / "whole", vocab, **settings)
    real, stops = os.replace, 0
    while not (tmp_path / "out" / "manifest.json").exists():
        calls = 0

        def failing(source, target, stops=stops):
            nonlocal calls
            calls += 1
            if calls > 2 + stops:  # one further each time
                raise KeyboardInterrupt
            return real(source, target)

        monkeypatch.setattr(os, "replace", failing)
        try:
            prepare(tmp_path / "a.txt", tmp_path / "out", vocab, **settings)
        except UserError as error:
            assert "interrupted" in str(error)
        stops += 1
    assert stops > 10
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_trained_vocabulary_and_what_it_was_trained_on(tmp_path, monkeypatch):
    small_shards(monkeypatch)
    text = make_text(200)
    (tmp_path / "a.txt").write_text(text)
    manifest = prepare(tmp_path / "a.txt", tmp_path / "whole", "train:wordpiece:500")
    training = manifest["tokenizer"]["training"]
    assert manifest["tokenizer"]["vocab_size"] < 500 == training["asked"]
    assert training["sample_is_everything"] and training["sample_bytes"] == pytest.approx(len(text), rel=0.1)
    assert manifest["unknown_token_share"] == 0
    assert (tmp_path / "whole" / "tokenizer" / "vocab.txt").is_file()
    monkeypatch.setattr(vocabulary, "_SAMPLE_BYTES", 5000)
    sampled = prepare(tmp_path / "a.txt", tmp_path / "sampled", "train:wordpiece:500")["tokenizer"]["training"]
    assert not sampled["sample_is_everything"] and 0 < sampled["sample_bytes"] <= 5000


def command(*flags, **options):
    return subprocess.run(
        [sys.executable, "-m", "bert_jax.prepare", *map(str, flags)],
        cwd=ROOT, text=True, capture_output=True, **options,
    )  # fmt: skip


def start(*flags):
    return subprocess.Popen(
        [sys.executable, "-m", "bert_jax.prepare", *map(str, flags)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def large(tmp_path, vocab):
    """Writes text for a preparation of some seconds over twelve shards; returns its flags without --output."""
    text = make_text(4000)
    for i in range(12):
        (tmp_path / f"{i:02d}.txt").write_text("\n\n".join([text[: 900_000 + i], text[:300_000]]))
    return (f"--input={tmp_path}/*.txt", f"--tokenizer={vocab}", "--workers=2")


def workers_of(process):
    """Returns the process ids of a running prepare's workers."""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this machine: no /proc, which names the worker processes")
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for_shards(process, output, count):
    wait_until(lambda: len(list(output.glob("parts/[0-9]*[0-9]"))) >= count, process)


def test_killed_and_started_again_gives_the_same_bytes(tmp_path, large):
    large = (large[0].replace("*.txt", "[0-9]*.txt"), *large[1:])
    assert command(*large, f"--output={tmp_path}/whole").returncode == 0
    output = tmp_path / "out"
    for count in (2, 6):
        process = start(*large, f"--output={output}")
        wait_for_shards(process, output, count)
        workers = workers_of(process)
        assert len(workers) == 2
        process.kill()
        process.communicate()
        assert not (output / "manifest.json").exists()
        wait_until(lambda workers=workers: not any(map(is_running, workers)))
        done = {path: path.stat().st_mtime_ns for path in output.glob("parts/[0-9]*[0-9]/facts.json")}
    finished = command(*large, f"--output={output}")
    assert finished.returncode == 0, finished.stderr
    assert done and contents(output) == contents(tmp_path / "whole")


def test_a_killed_worker_is_an_error_not_a_hang(tmp_path, large):
    large = (large[0].replace("*.txt", "[0-9]*.txt"), *large[1:])
    output = tmp_path / "out"
    process = start(*large, f"--output={output}")
    wait_for_shards(process, output, 1)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 2
    assert errors.strip().splitlines()[-1].startswith("error: a worker process was killed")


def test_a_full_disk_is_named_and_the_work_continues(tmp_path, vocab):
    (tmp_path / "a.txt").write_text(make_text(4000))
    flags = (f"--input={tmp_path}/a.txt", f"--output={tmp_path}/out", f"--tokenizer={vocab}", "--workers=1")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    failed = command(*flags, preexec_fn=limit)
    assert failed.returncode == 2
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "File too large" in last and "continues it" in last
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert command(*flags).returncode == 0
    prepare(tmp_path / "a.txt", tmp_path / "whole", vocab)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": "nothing/*.txt"}, "--input=nothing/\\*.txt: no file matches"),
        ({"vocab": "train:foo:10"}, "--tokenizer=train:foo:10: expected train:KIND:SIZE"),
        ({"vocab": "train:wordpeice:10"}, "--tokenizer=train:wordpeice:10: expected .*; did you mean wordpiece"),
        ({"vocab": "train:wordpiece:1e9"}, "wordpiece:1e9: found '1e9' as its size; expected a whole"),
        ({"vocab": "train:bpe:30k"}, "found '30k' as its size; expected a whole number, such as train:bpe:8192$"),
        ({"vocab": "train:unigram"}, "--tokenizer=train:unigram: no size; expected a whole number"),
        ({"vocab": "train:wordpiece:2"}, "2 is less than its 5 special tokens and one character need; expected a size "
                                         "of at least 6,"),
        ({"vocab": "train:unigram:0"}, "0 is less than .*; expected a size of at least 7, such as train:unigram:8192"),
        ({"vocab": "train:sentencepiece:6"}, "expected a size of at least 7"),
        ({"vocab": "train:bpe:260"}, "260 is less than its 5 special tokens and 256 bytes need; .* at least 261"),
        ({"vocab": "train:bert-bpe:5"}, "expected a size of at least 261"),
        ({"output": "a.txt/x"}, "a.txt/x"),
        ({"sentences": "word"}, "--sentences=word: expected one of split, line"),
        ({"eval_share": 1.5}, "--eval_share=1.5: expected a share"),
        ({"workers": 0}, "--workers=0: expected a number from 1 to 1,024"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(tmp_path, vocab, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("Some text.\n")
    with pytest.raises(UserError, match=message) as error:
        prepare(**({"spec": "a.txt", "output": "out", "vocab": vocab} | change))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": None}, "--input: not given"),
        ({"tokenizer": "{tmp}/nothing"}, "nothing: no such vocabulary"),
        ({"inptu": "x"}, "--inptu: unknown flag; did you mean --input?"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, vocab, change, message):
    (tmp_path / "a.txt").write_text("Some text.\n")
    flags = {"input": f"{tmp_path}/a.txt", "output": f"{tmp_path}/out", "tokenizer": vocab} | change
    done = command(*(f"--{k}={v}".format(tmp=tmp_path) for k, v in flags.items() if v is not None))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_at_once_are_refused(tmp_path, vocab):
    (tmp_path / "a.txt").write_text(make_text(5))
    parts = tmp_path / "out" / "parts"
    parts.mkdir(parents=True)
    with pipeline._lock(parts / "lock", tmp_path), pytest.raises(UserError, match="another prepare"):
        prepare(tmp_path / "a.txt", tmp_path / "out", vocab)


def test_workers_import_neither_jax_nor_tensorflow():
    script = (
        "import sys, bert_jax.prepare\n"
        "print(sorted({'jax', 'tensorflow', 'tensorflow_datasets', 'pyarrow', 'sentencepiece'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


def test_records_and_json_manifest(tmp_path, vocab):
    lines = [json.dumps({"body": f"Hello world {i}. The mask sat."}) for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"text": "x"}']))
    manifest = prepare(tmp_path / "a.jsonl", tmp_path / "out", vocab, text_field="body")
    assert manifest["documents"] == 30 and manifest["sentences"] == 60
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["skipped"] == {
        "count": 1,
        "bytes": len('{"text": "x"}'),
        "examples": [f"{tmp_path}/a.jsonl line 31: no field 'body'; found text; name the field with --text_field"],
    }


def test_books_in_the_published_vocabulary(tmp_path):
    book = shared("books/00035_the-time-machine.txt")
    manifest = prepare(book, tmp_path / "out", shared("vocab/bert-base-uncased/vocab.txt"))
    assert manifest["unknown_token_share"] < 1e-4
    assert documents_of(tmp_path / "out", ["train"])


def test_a_preparation_that_a_mistake_ended_gives_way_to_another(tmp_path, vocab):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="no text in it"):
        prepare(tmp_path / "empty.txt", tmp_path / "out", vocab)
    (tmp_path / "a.txt").write_text(make_text(20))
    prepare(tmp_path / "a.txt", tmp_path / "out", vocab)
    prepare(tmp_path / "a.txt", tmp_path / "expected", vocab)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_overwrite_replaces_the_corpus_of_other_settings(tmp_path, vocab):
    (tmp_path / "a.txt").write_text(make_text(20))
    prepare(tmp_path / "a.txt", tmp_path / "out", vocab)
    (tmp_path / "out" / "notes").write_text("mine")
    with pytest.raises(UserError, match="replace this one with --overwrite"):
        prepare(tmp_path / "a.txt", tmp_path / "out", vocab, eval_share=0.5)
    settings = pipeline.Settings(input=str(tmp_path / "a.txt"), tokenizer=str(vocab), eval_share=0.5)
    pipeline.prepare(settings, tmp_path / "out", 1, progress=False, overwrite=True)
    pipeline.prepare(settings, tmp_path / "expected", 1, progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected") | {
        "notes": hashlib.sha256(b"mine").hexdigest()
    }


def test_the_next_command_runs_as_it_is_printed(tmp_path, vocab, monkeypatch):
    """The recipe that it names suits any vocabulary and corpus, and its workdir is new."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("ab cd ef.")
    manifest = prepare(tmp_path / "a.txt", "corpora/my corpus", vocab)
    assert manifest["tokenizer"]["vocab_size"] != 30522
    for taken, workdir in ((None, "runs/my corpus-small"), ("runs/my corpus-small", "runs/my corpus-small-2")):
        if taken:
            (tmp_path / taken).mkdir(parents=True)
            (tmp_path / taken / "run.json").write_text("{}")
        line = pipeline.next_command(manifest, "corpora/my corpus").splitlines()[-1]
        assert line.startswith("next: ")
        *program, config, folder, corpus, size = shlex.split(line.removeprefix("next: "))
        assert program[-1].endswith("pretrain") and config == "--config=small" and folder == f"--workdir={workdir}"
        assert (corpus, size) == ("--config.data.corpus=corpora/my corpus", "--config.model.vocab_size=0")
    config = load_recipe("small")
    assert config.model.vocab_size in (0, load_recipe("bert_base").model.vocab_size)
    manifest["tokenizer"]["vocab_size"] = 30522
    assert "vocab_size" not in pipeline.next_command(manifest, "corpora/x")


def test_the_command_that_prepares_a_text_again_keeps_its_settings(tmp_path, vocab, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.txt").write_text("ab cd ef.\ngh ij.\n")
    changes = {"documents": "line", "eval_share": 0.5, "drop_duplicates": True, "language": "de"}
    manifest = prepare("a b.txt", "corpus", vocab, **changes)
    words = shlex.split(pipeline.command_again(manifest, "corpus", "my model"))
    flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
    assert flags == {name: str(value) for name, value in changes.items()} | {
        "input": "a b.txt", "output": "corpus-again", "tokenizer": "my model",
    }  # fmt: skip
    settings = {name: value for name, value in flags.items() if name not in ("output", "tokenizer")}
    settings |= {"eval_share": 0.5, "drop_duplicates": True}
    settings["spec"] = settings.pop("input")
    assert prepare(output="corpus-again", vocab=vocab, **settings)["documents"] == manifest["documents"]
