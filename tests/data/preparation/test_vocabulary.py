"""The vocabulary of a corpus: trained on a share of all text, checked, and warned about where it does not fit."""

import json

import pytest

from bert_jax.data.corpus import Corpus
from bert_jax.data.preparation import pipeline, sources, vocabulary
from bert_jax.data.vocabularies import fit, loading, training
from bert_jax.errors import UserError
from tests.data.awkward import PROSE, VOCABULARY
from tests.data.many_scripts import TEXTS, sentences

SIZES = {"wordpiece": 400, "bpe": 400, "bert-bpe": 400, "unigram": 200, "sentencepiece": 200}


def prepare(text, folder, tokenizer, **settings):
    """Prepares a corpus of text, or of a file that is there already; returns its manifest and folder."""
    path = folder / "text.txt"
    if text is not None:
        path.write_text(text, "utf-8")
    settings = pipeline.Settings(input=str(path), tokenizer=str(tokenizer), **settings)
    return pipeline.prepare(settings, folder / "corpus", 1, progress=False), folder / "corpus"


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("gap", ["\n", " "])
@pytest.mark.parametrize("kind", training.KINDS)
def test_text_without_blank_lines_trains_a_vocabulary(tmp_path, monkeypatch, kind, gap):
    """One sentence a line, or one line in all: a document that begins in the first byte range alone."""
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 2000)
    text = gap.join([*PROSE, *("A zebra ran away." for _ in range(200))]) + "\n"
    manifest, path = prepare(text, tmp_path, f"train:{kind}:{SIZES[kind]}", sentences="line")
    trained = manifest["tokenizer"]["training"]
    assert trained["sample_is_everything"] and trained["sample_bytes"] == pytest.approx(len(text), rel=0.05)
    assert manifest["unknown_character_share"] == 0 and manifest["documents"] == 1
    ids = Corpus.open(path).tokenizer.encode([" zebra"])[0]  # from the last part of the file
    assert len(ids) == 1 or (kind in ("unigram", "sentencepiece") and len(ids) < 6)
    assert manifest["characters"] == sum(map(len, text.split()))


def test_each_line_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 2000)
    text = "\n".join(f"Line {i} of the text. It has two sentences." for i in range(500))
    manifest, _ = prepare(text, tmp_path, "train:wordpiece:200", documents="line")
    assert (manifest["documents"], manifest["sentences"]) == (500, 1000)


@pytest.mark.parametrize(
    ("text", "tokenizer", "settings", "message"),
    [
        (" \n\n", "train:wordpiece:500", {}, "text.txt: no text in it; expected at least one document"),
        ("hello\n", "train:bpe:8192", {}, "5 bytes of text are too few to learn 8,192 tokens from; expected more text"),
        ("hello\n", "train:unigram:500", {}, "5 bytes of text are too few to learn 500 tokens from"),
        ("hello\n", None, {"add_tokens": "100"}, "5 bytes of text are too few to learn 100 tokens from"),
        ("\n", None, {"add_tokens": "3"}, "text.txt: no text in it"),
    ],
)
def test_too_little_text_is_refused(tmp_path, vocab, text, tokenizer, settings, message):
    with pytest.raises(UserError, match=message) as error:
        prepare(text, tmp_path, tokenizer or vocab, **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "corpus" / "tokenizer").exists()


def test_the_first_reason_is_told_where_no_text_can_be_read(tmp_path):
    (tmp_path / "text.txt").write_bytes(("déjà vu\n" * 3000).encode("utf-16"))
    with pytest.raises(UserError, match=r"no text in it; the first of 1 skipped: .*text\.txt.*UTF-16"):
        prepare(None, tmp_path, "train:wordpiece:500")
    (tmp_path / "a.jsonl").write_text('{"body": "Some text."}\n' * 100)
    settings = pipeline.Settings(input=str(tmp_path / "a.jsonl"), tokenizer="train:wordpiece:500")
    with pytest.raises(UserError, match=r"skipped: .*line 1: no field 'text'; found body; name the field with --text"):
        pipeline.prepare(settings, tmp_path / "other", 1, progress=False)


def test_a_vocabulary_without_room_for_the_characters_is_refused(tmp_path):
    text = "".join(chr(0x4E00 + i) for i in range(2000)) + "\n"
    with pytest.raises(UserError) as error:
        prepare(text, tmp_path, "train:wordpiece:1000")
    message = str(error.value)
    assert message.startswith("--tokenizer=train:wordpiece:1000: 50.2% of the text's characters would be unknown (such")
    assert message.endswith("or train:bpe:N, to which none is unknown") and "\n" not in message
    manifest, _ = prepare(text, tmp_path, "train:wordpiece:2200")
    assert manifest["unknown_character_share"] <= 1 - training.COVERAGE + 1e-9


def test_unknown_characters_are_counted_in_text_and_shown(tmp_path, vocab):
    """A clause of Thai is one unknown token: few tokens, and most of the text."""
    text = "\n\n".join(["hello world . " * 30 + TEXTS["thai without spaces"][:300], "hello the"])
    manifest, path = prepare(text, tmp_path, vocab, sentences="line")
    assert manifest["unknown_token_share"] == pytest.approx(1 / manifest["tokens"])
    characters = sum(map(len, text.split()))
    assert manifest["characters"] == characters
    assert manifest["unknown_character_share"] == pytest.approx(300 / characters)
    lines = pipeline.summary(manifest, path).splitlines()
    assert f"unknown tokens {1 / manifest['tokens']:.3%}, characters {300 / characters:.3%}" in lines[2]
    assert lines[-1].startswith(f"warning: {300 / characters:.1%} of the characters are unknown to the vocabulary")
    assert "most of them in words of over 100 characters: train one on this text" in lines[-1]
    old = json.loads((path / "manifest.json").read_text())
    for key in ("characters", "unknown_character_share"):
        del old[key]
    del old["tokenizer"]["fit"]
    assert ", characters" not in pipeline.summary(old, path)


def test_a_vocabulary_of_all_characters_is_not_warned_about(tmp_path):
    manifest, path = prepare("\n\n".join(sentences("english")), tmp_path, "train:wordpiece:200")
    assert "unknown to the vocabulary" not in pipeline.summary(manifest, path)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_lower_case_that_alters_letters_is_warned_about(tmp_path, capfd, kind):
    text = "\n".join(sentences("japanese"))
    for name in ("default", "accents", "cased"):
        (tmp_path / name).mkdir()
    manifest, path = prepare(text, tmp_path / "default", f"train:{kind}:300")
    share = manifest["tokenizer"]["fit"]["altered_letter_share"]
    (line,) = [line for line in pipeline.summary(manifest, path).splitlines() if "letters change" in line]
    assert line.startswith(f"warning: {share:.1%} of the letters change in more than their case (")
    assert "パ to ハ" in line and "--strip_accents=false" in line
    manifest, path = prepare(text, tmp_path / "accents", f"train:{kind}:300", strip_accents="false")
    assert "letters change" not in pipeline.summary(manifest, path)
    tokenizer = loading.load(path / "tokenizer")
    assert "".join(tokenizer.decode(tokenizer.encode(["ABC パンダ"])[0]).split()).endswith("パンダ")
    assert tokenizer.normalized("ABC É").split() == ["abc", "é"]
    manifest, path = prepare(text, tmp_path / "cased", f"train:{kind}:300", lower_case="false")
    assert "letters change" not in pipeline.summary(manifest, path)


def test_letters_of_private_use_that_are_lost_are_warned_about():
    texts = ["\ue000\ue001 word"] * 9
    measured = fit.measure(training.train("wordpiece", texts, 40), texts)
    assert measured.altered_letters == 18 and measured.letters == 54
    (line,) = vocabulary.warnings({"fit": vocabulary._summary(measured)})
    assert "33.3% of the letters change" in line and line.endswith("a trained vocabulary keeps them with train:bpe:N")


def test_warnings_come_before_the_work(tmp_path, capfd):
    (tmp_path / "text.txt").write_text("\n".join(sentences("thai")), "utf-8")
    settings = pipeline.Settings(input=str(tmp_path / "text.txt"), tokenizer="train:wordpiece:200")
    pipeline.prepare(settings, tmp_path / "corpus", 1)
    errors = capfd.readouterr().err
    assert "of the letters change in more than their case" in errors.partition("prepare:")[0]


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ("train:bpe:300", "--strip_accents=false: not for bpe; expected auto"),
        (None, "--strip_accents=false: .*vocab.txt says itself how it treats accents; expected auto"),
    ],
)
def test_accents_are_kept_where_that_is_a_choice(tmp_path, vocab, tokenizer, message):
    with pytest.raises(UserError, match=message):
        prepare("hello\n", tmp_path, tokenizer or vocab, strip_accents="false")
    with pytest.raises(UserError, match="--strip_accents=no: expected one of auto, true, false"):
        prepare("hello\n", tmp_path, tokenizer or vocab, strip_accents="no")


def test_a_corpus_from_before_a_setting_is_still_whole(tmp_path, vocab):
    manifest, path = prepare("hello world\n", tmp_path, vocab)
    del manifest["settings"]["strip_accents"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert prepare(None, tmp_path, vocab)[0] == manifest
    with pytest.raises(UserError, match="made with"):
        prepare(None, tmp_path, vocab, lower_case="false")


def test_words_of_the_text_come_from_all_of_it(tmp_path, vocab, monkeypatch):
    monkeypatch.setattr(sources, "_SMALLEST_SHARD", 2000)
    text = "\n".join(["hello world the mask"] * 500 + ["zebra and okapi"] * 300)
    manifest, _ = prepare(text, tmp_path, vocab, add_tokens="2", sentences="line")
    assert set(manifest["tokenizer"]["new_tokens"]) == {"zebra", "okapi"}


def test_the_share_that_is_refused_is_above_the_one_that_is_warned_about():
    assert 0 < 1 - training.COVERAGE < fit.UNKNOWN < fit.TOO_MUCH_UNKNOWN
    assert vocabulary.warnings({}, 0.0) == []


def test_far_fewer_tokens_than_asked_for_are_warned_about_and_the_next_command_says_so(tmp_path):
    text = "\n\n".join(sentences("english"))
    (tmp_path / "few").mkdir()
    manifest, path = prepare(text, tmp_path / "few", "train:wordpiece:1500")
    size = manifest["tokenizer"]["vocab_size"]
    assert size < 1350
    assert pipeline.summary(manifest, path).splitlines()[-2:] == [
        "",
        f"warning: the vocabulary has {size:,} tokens, not the 1,500 that were asked for: the text has no more that "
        "occur often enough; models of it need --config.model.vocab_size=0, which takes the corpus's own size",
    ]
    assert pipeline.next_command(manifest, path).endswith(f"{path} --config.model.vocab_size=0")


def test_unknown_tokens_are_warned_about(tmp_path, vocab):
    manifest, path = prepare("\n\n".join(sentences("japanese")), tmp_path, vocab)
    assert manifest["unknown_token_share"] > 0.5
    summary = pipeline.summary(manifest, path).splitlines()
    (line,) = [line for line in summary if "of the characters are unknown to the vocabulary" in line]
    assert line.startswith("warning: ")
    assert pipeline.next_command(manifest, path).endswith(" --config.model.vocab_size=0")
    (line,) = vocabulary.warnings({}, 0.0, 0.99)
    assert line.startswith("warning: 99.0% of the tokens are unknown to the vocabulary")
