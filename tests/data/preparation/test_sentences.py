"""Sentences: where they end, and that no text is lost."""

import re

import pytest

from bert_jax.data.preparation.sentences import sentences_of
from tests.data.awkward import random_texts, shared


def split(*lines, language="en"):
    return sentences_of(list(lines), "split", language)


def test_printed_line_breaks_are_spaces():
    assert split("It was late. The cat", "had left. Who knew?") == ["It was late.", "The cat had left.", "Who knew?"]


def test_one_sentence_a_line():
    assert sentences_of(["One. Two.", "three"], "line", "en") == ["One. Two.", "three"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Mr. Smith met Dr. J. K. Brown on Jan. 5 at 3.5 p.m. They talked.", 2),
        ("“Go away. Now!” he said. She went.", 2),
        ("It grew by 3.14 percent, e.g. in the U.S. economy. See fig. 2.", 2),
        ("Really?! Yes... No.", 3),
    ],
)
def test_full_stops_that_end_nothing(text, count):
    assert len(split(text)) == count


def test_only_scripts_without_spaces_end_a_sentence_inside_a_run_of_characters():
    assert split("‘It is late.’You said so. See www.example.org/a.Html now.") == [
        "‘It is late.’You said so.", "See www.example.org/a.Html now.",
    ]  # fmt: skip
    assert split("今天很好。明天见！", language="zh") == ["今天很好。", "明天见！"]


def test_other_languages():
    assert split("Das ist z.B. gut. Am 3. Mai kam er.", language="de") == ["Das ist z.B. gut.", "Am 3. Mai kam er."]
    assert split("One. Two.", language="xx") == ["One.", "Two."]  # unknown: the splitter's own rules for any


def test_no_character_but_white_space_is_lost():
    for text in random_texts(2000, seed=4):
        lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
        if lines:
            kept = "".join("".join(split(*lines)).split())
            assert kept == "".join("".join(lines).split())


def test_a_whole_book_is_kept():
    text = shared("books/00035_the-time-machine.txt").read_text("utf-8")
    count = 0
    for paragraph in re.split(r"\n\n+", text):
        lines = [line.strip() for line in paragraph.split("\n") if line.strip()]
        sentences = split(*lines)
        assert " ".join(sentences).split() == " ".join(lines).split()
        count += len(sentences)
    assert 1500 < count < 3000
