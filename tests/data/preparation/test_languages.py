"""Tags name languages."""

import pytest
import sentencex

from bert_jax.data.preparation.languages import LANGUAGES, find_language, rules_of
from bert_jax.errors import UserError


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("en", "en"), ("DE", "de"), ("de-AT", "de"), ("de_DE", "de"), ("deu", "de"), ("ger", "de"), ("zh-Hant", "zh"),
        ("cmn-Hans-CN", "zh"), ("pt-BR", "pt"), ("sr-Latn-RS", "sr"), ("fre", "fr"), ("hye", "hy"), ("mya", "my"),
        ("khm", "km"), ("tha", "th"), ("bo", "bo"), ("am", "am"), ("swh", "sw"), ("arb_Arab", "ar"), ("yue", "yue"),
        ("ceb", "ceb"), ("ckb", "ckb"), ("es-419", "es"), ("de-1996", "de"), (" fr ", "fr"), ("iw", "he"),
    ],
)  # fmt: skip
def test_tags_of_languages(tag, language):
    assert find_language(tag) == language
    assert language in LANGUAGES


@pytest.mark.parametrize("tag", ["German", "klingon", "tlh", "xx", "", "de-", "d", "english", "zh Hant", "de,en"])
def test_what_names_no_language_is_refused_with_the_list(tag):
    with pytest.raises(UserError, match=f"--language={tag}: .* expected .* aa, .* de, .* zh, ") as error:
        find_language(tag)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("language", "rules"), [("en", "en"), ("de", "de"), ("lb", "de"), ("cs", "sk"), ("sv", "en"), ("zh", "en")]
)
def test_whose_rules_find_the_sentences_of_a_language(language, rules):
    assert rules_of(language) == rules
    abbreviations = ["z.B.", "Mr.", "Sra.", "bzw.", "Dr.", "napr.", "tzv.", "p.ej.", "т.е.", "M.", "Nr.", "atd."]
    text = " ".join(f"aaa {short} Bbb ccc." for short in abbreviations)
    assert sentencex.segment(language, text) == sentencex.segment(rules, text)


def test_every_language_takes_rules_of_one_that_has_its_own():
    assert all(rules_of(rules_of(language)) == rules_of(language) in LANGUAGES for language in LANGUAGES)
