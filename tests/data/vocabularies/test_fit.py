"""Every kind of vocabulary writes every script, and what it does not write, or alters, is measured."""

import pytest

from bert_jax.data.vocabularies import fit, hugging_face, loading, training
from tests.data.awkward import shared
from tests.data.many_scripts import TEXTS, sentences

LANGUAGES = [
    "am", "ar", "bn", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "it", "ja", "ka", "km", "ko", "my", "pl",
    "pt", "ru", "sw", "ta", "th", "tr", "uk", "ur", "vi", "zh", "zh-hant",
]  # fmt: skip


def without_spaces(text):
    return "".join(text.split())


def check_that_it_writes(tokenizer, texts):
    """Checks that a vocabulary knows the text, and that decoding gives it back as the normalizer leaves it."""
    assert fit.measure(tokenizer, texts).unknown_share < 0.005
    for text in texts:
        decoded = tokenizer.decode(tokenizer.encode([text])[0])
        assert without_spaces(decoded) == without_spaces(tokenizer.normalized(text))


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("kind", training.KINDS)
def test_every_script_is_written_by_every_kind(kind, lower_case):
    for script in TEXTS:
        check_that_it_writes(training.train(kind, sentences(script), 1000, lower_case), [TEXTS[script]])


@pytest.mark.parametrize("kind", training.KINDS)
def test_all_scripts_at_once(kind):
    everything = [text for script in TEXTS for text in sentences(script)]
    check_that_it_writes(training.train(kind, everything, 3000), list(TEXTS.values()))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", training.KINDS)
def test_the_declaration_in_thirty_languages(kind):
    for language in LANGUAGES:
        texts = shared(f"udhr/{language}.txt").read_text("utf-8").split("\n")
        check_that_it_writes(training.train(kind, texts, 4000), [text for text in texts if text.strip()])


def test_a_saved_vocabulary_reads_the_same(tmp_path):
    for kind in training.KINDS:
        for script in ("thai without spaces", "korean, decomposed", "blocks"):
            trained = training.train(kind, sentences(script), 1000)
            trained.save(tmp_path / kind / script)
            loaded = loading.load(tmp_path / kind / script)
            assert list(loaded.encode([TEXTS[script]])[0]) == list(trained.encode([TEXTS[script]])[0])
            assert loaded.digest() == trained.digest()
            ids, _, lengths = loaded.encode_flat([TEXTS[script]])  # the fast path
            assert ids.tolist() == list(loaded.encode([TEXTS[script]])[0]) and lengths.tolist() == [len(ids)]


def test_unknown_characters_count_text_not_tokens():
    tokenizer = training.train("wordpiece", sentences("thai without spaces"), 500, lower_case=False)
    tokens = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    plain = hugging_face.wordpiece(tokens, False, "vocab.txt")  # without cuts in long words, as in a vocab.txt
    text = f"{TEXTS['thai']} {'ก' * 150} ท"
    measured = fit.measure(plain, [text])
    ids = plain.encode([text])[0]
    long = [word for word in text.split() if len(word) > 100]
    assert len(long) == 1 and list(ids).count(plain.unk_id) == 1
    assert measured.unknown_characters == 150 and measured.characters == len(without_spaces(text))
    assert measured.long_words
    measured = fit.measure(plain, ["漢字 ท ท 字"])
    assert measured.unknown_share == 0.6 and not measured.long_words
    assert measured.unknown_examples[0] == "字"


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@pytest.mark.parametrize(
    ("script", "change", "share"),
    [
        ("japanese", "パ to ハ", 0.05),
        ("hindi", "हीं to ही", 0.2),
        ("thai", "ที่ to ท", 0.2),
        ("german", "ü to u", 0.01),
        ("vietnamese", "ấ to a", 0.2),
        ("english", None, 0),
        ("korean", None, 0),
        ("chinese", None, 0),
    ],
)
def test_letters_that_lower_case_takes_away(kind, script, change, share):
    texts = [TEXTS[script], *[change.partition(" ")[0]] * 50] if change else [TEXTS[script]]
    measured = fit.measure(training.train(kind, sentences(script), 1000), texts)
    assert measured.altered_share >= share and (measured.altered_letters > 0) == (change is not None)
    if change and (kind, script) != ("unigram", "hindi"):  # whose long vowels it takes away too
        assert change in measured.altered_examples
    keeping = training.train(kind, sentences(script), 1000, lower_case=True, strip_accents=False)
    assert fit.measure(keeping, texts).altered_letters == 0
    assert keeping.encode([TEXTS[script].upper()])[0] == keeping.encode([TEXTS[script].lower()])[0]


def test_changed_letters_are_named():
    tokenizer = training.train("wordpiece", sentences("japanese"), 1000)
    assert set(fit.measure(tokenizer, ["パンダ とバス パパ"]).altered_examples) == {"パ to ハ", "ダ to タ", "バ to ハ"}
    assert fit.measure(tokenizer, ["नहीं ที่"]).altered_examples == ("हीं to ही", "ที่ to ท")
    assert fit.measure(tokenizer, ["İstanbul STRASSE ß Σίσυφος"]).altered_examples == ("İ to i", "ί to ι")


@pytest.mark.parametrize("text", ["می‌خواهم به خانه برگردم", "क्‍ष ක්‍ෂ", "a 👩‍💻 b"])
def test_lost_joiners_are_counted(text):
    words = text.split()
    joined = sum("\u200c" in word or "\u200d" in word for word in words) / len(words)
    lost = fit.measure(training.train("wordpiece", sentences("english"), 500), [text])
    assert lost.lost_joiner_share == joined >= fit.JOINERS
    kept = fit.measure(training.train("bpe", sentences("english"), 500), [text])
    assert kept.lost_joiner_share == 0
