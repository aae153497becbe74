"""Tests windows of words, each labelled where it has the most context, and the cutting of text into words."""

import json
import re
import types

import numpy as np
import pytest

from bert_jax.data.tasks import conll, words
from tests.data.awkward import shared


def test_windows_hold_every_word_once_with_context():
    rng = np.random.default_rng(0)
    for _ in range(300):
        room = int(rng.integers(1, 20))
        counts = rng.integers(0, max(1, room // 4) + 1, int(rng.integers(0, 60))).tolist()
        windows = words.windows(counts, room)
        assert all(sum(counts[window.start : window.stop]) <= room for window in windows)
        assert all(w.start <= w.own_start <= w.own_stop <= w.stop for w in windows)
        assert [i for w in windows for i in range(w.own_start, w.own_stop)] == list(range(len(counts)))
    assert words.windows([1] * 20, 8) == [(0, 8, 0, 7), (6, 14, 7, 13), (12, 20, 13, 20)]
    assert words.merge(words.windows([1] * 20, 8), [range(0, 8), range(6, 14), range(12, 20)]) == list(range(20))


ENGLISH = [
    *(["Ada", "lived", "in", "London", "."], ["It", "'s", "U.S.", "Inc.", "news", ",", "he", "did", "n't", "say", "."]),
    *(["(", "born", "1815", ")"], ['"', "No", "!", '"'], ["3.5", "%", "of", "C$", "5"], ["no", ".", "Mr.", "X", "."]),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada (of London) lived.", "Ada|(|of|London|)|lived|."),
        ("\"It's Ada's,\" he didn't say.", "\"|It|'s|Ada|'s|,|\"|he|did|n't|say|."),
        ("The U.S. and J.R.R. of Acme Inc. grew 4%.", "The|U.S.|and|J.R.R.|of|Acme|Inc.|grew|4|%|."),
        ("well-known New-York, $5.4 and/or ...", "well-known|New-York|,|$5.4|and/or|..."),
        ("Mr. Paris. said , Rome. and . all", "Mr.|Paris.|said|,|Rome.|and|.|all"),  # cut already
        ("ends?!  -----  x", "ends?|!|-----|x"),
        ("  \n", ""),
        ("\u4e2d\u6587 abc\u4e2d.", "\u4e2d|\u6587|abc|\u4e2d|."),
    ],
)
def test_text_is_cut_as_the_words_of_training_are(text, expected):
    how = words.cutting(ENGLISH)
    assert json.loads(json.dumps(how)) == how
    assert [text[start:end] for start, end in words.cut(text, how)] == [word for word in expected.split("|") if word]
    for sentence in ENGLISH:
        joined = " ".join(sentence)
        assert [joined[start:end] for start, end in words.cut(joined, how)] == sentence


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("L'homme qu'il a vu aujourd'hui, c'est l'ami.", "L'|homme|qu'|il|a|vu|aujourd'hui|,|c'|est|l'|ami|."),
        ("L\u2019anno dell\u2019Italia.", "L\u2019|anno|dell\u2019|Italia|."),
        ("Er sagte: \u201eJa\u201c, \u00bbnein\u00ab.", "Er|sagte|:|\u201e|Ja|\u201c|,|\u00bb|nein|\u00ab|."),
        ("\u00bfQu\u00e9? \u00a1Hola!", "\u00bf|Qu\u00e9|?|\u00a1|Hola|!"),
        ("It cost $5 or \u20ac6.", "It|cost|$|5|or|\u20ac|6|."),
        ("\u1204\u12f0\u1363 \u12a8\u12da\u12eb\u1362", "\u1204\u12f0|\u1363|\u12a8\u12da\u12eb|\u1362"),
        ("\u101e\u1030 \u101e\u103d\u102c\u1038\u104b", "\u101e\u1030|\u101e\u103d\u102c\u1038|\u104b"),
        ("\u0938\u0903 \u0917\u0924\u0903\u0965", "\u0938\u0903|\u0917\u0924\u0903|\u0965"),
    ],
)
def test_marks_of_other_languages_are_cut_as_in_training(text, cut):
    how = words.cutting([cut.split("|")])
    assert [text[start:end] for start, end in words.cut(text, how)] == cut.split("|")
    assert words.cut(text, words.cutting([text.split()])) == [match.span() for match in re.finditer(r"\S+", text)]


def test_words_that_keep_their_marks_and_characters_as_words():
    spaces = words.cutting([["London.", "Paris,"], ["Rome."]])  # cut at spaces alone
    text = "In London, (it rained)."
    assert [text[start:end] for start, end in words.cut(text, spaces)] == text.split()
    characters = words.cutting([list("\u6211\u5728\u5317\u4eac\u3002")])
    text = "\u6211\u5728IBM\u3002"
    assert [text[start:end] for start, end in words.cut(text, characters)] == ["\u6211", "\u5728", "IBM", "\u3002"]
    segmented = words.cutting([["\u6211", "\u5728", "\u5317\u4eac"]])
    text = "\u6211 \u5728 \u5317\u4eac"
    assert [text[start:end] for start, end in words.cut(text, segmented)] == text.split()


def test_conll_2003_is_cut_as_it_is():
    config = types.SimpleNamespace(token_column=0, label_column=-1)
    splits = [
        [words_of for _, (words_of, _) in conll.read(str(shared(f"conll2003/eng.{name}")), config, (), (), [])]
        for name in ("train", "testa", "testb")
    ]
    how = words.cutting(splits[0])
    for sentences, most in zip(splits, (0, 2, 5), strict=True):
        joined = [" ".join(sentence) for sentence in sentences]
        again = [[text[start:end] for start, end in words.cut(text, how)] for text in joined]
        assert sum(one != other for one, other in zip(sentences, again, strict=True)) <= most


# Sentences in three conventions: each is the words, and the raw text as it was before it was cut.
CONVENTIONS = {
    "white space": [
        ("He and/or she said, twice: I cannot.", "He|and/or|she|said,|twice:|I|cannot."),
        ("The well-known (old) firm - new - didn't.", "The|well-known|(old)|firm|-|new|-|didn't."),
        ("From 1990-1995 and then.", "From|1990-1995|and|then."),
        ("I can not see, can you?", "I|can|not|see,|can|you?"),
    ],
    "Penn Treebank": [
        ("He and/or she cannot say.", "He|and/or|she|can|not|say|."),
        ("The well-known firm didn't, from 1990-1995.", "The|well-known|firm|did|n't|,|from|1990-1995|."),
        ("I'm gonna try a part-time job.", "I|'m|gon|na|try|a|part-time|job|."),
    ],
    "Universal Dependencies": [
        ("He and/or she cannot say.", "He|and|/|or|she|can|not|say|."),
        ("The well-known firm didn't, from 1990-1995.", "The|well|-|known|firm|did|n't|,|from|1990|-|1995|."),
        ("In 2001-2003 and/or later.", "In|2001|-|2003|and|/|or|later|."),
        ("Her part-time e-mail job.", "Her|part|-|time|e-mail|job|."),
        *[("It is a part-time, full-time job.", "It|is|a|part|-|time|,|full|-|time|job|.")] * 5,
    ],
}  # fmt: skip
UNSEEN = {
    "white space": [("She cannot come either/or; 2004-2006.", "She|cannot|come|either/or;|2004-2006.")],
    "Penn Treebank": [("Cannot you, either/or, in 2004-2006?", "Can|not|you|,|either/or|,|in|2004-2006|?")],
    "Universal Dependencies": [
        ("Cannot you, either/or, in 2004-2006?", "Can|not|you|,|either|/|or|,|in|2004|-|2006|?"),
        ("A long-term e-mail to a-b@c.org.", "A|long|-|term|e-mail|to|a-b@c.org|."),
        ("See http://x.org/a-b, too.", "See|http://x.org/a-b|,|too|."),
    ],
}  # fmt: skip


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_raw_text_is_cut_inside_words_as_the_training_data_was(convention):
    seen = [(text, cut.split("|")) for text, cut in CONVENTIONS[convention]]
    marks = [["?", ";"]] if convention != "white space" else []
    how = json.loads(json.dumps(words.cutting([*(cut for _, cut in seen), *marks])))
    assert words.is_cutting(how)
    for text, cut in [*seen, *((text, cut.split("|")) for text, cut in UNSEEN[convention])]:
        assert [text[start:end] for start, end in words.cut(text, how)] == cut
    del how["inner"], how["divided"]  # a checkpoint of an earlier version
    assert words.is_cutting(how) and words.cut("and/or cannot", how) == [(0, 6), (7, 13)]


def test_where_words_are_single_characters_each_character_is_one():
    """As the residues of a protein are, whose marks are gaps; fewer than 100 of them prove nothing."""
    proteins = [list("MKTAYIAK-.QRQISFVKL")] * 6
    rules = words.cutting(proteins)
    assert rules["letters"] and words.is_cutting(rules) and not words.is_cutting(rules | {"letters": "yes"})
    assert words.cut("MK-. l\n", rules) == [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6)]
    for other in (proteins[:5], [*proteins, ["MK"]]):
        rules = words.cutting(other)
        assert "letters" not in rules and words.cut("MKT A", rules) == [(0, 3), (4, 5)]
