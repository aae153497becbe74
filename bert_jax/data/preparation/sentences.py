"""Splits text into sentences: one per line, or found by a sentence splitter."""

import itertools
import re
import unicodedata

import sentencex

from bert_jax.data.scripts import writes_no_spaces

MODES = ("split", "line")
# Marks that end a sentence, and nothing else, whether white space follows or not. The full stop, and its like in other
# scripts of Europe, also stands inside words and numbers.
_STOPS = "։؟؝۔܀܁܂߹।॥။።፧፨។៕᙮᠃᠉᭟᱾᱿꓿꘎꛳꡶꡷꣎꣏꧉꩝꩞꩟꯫"
_BURMESE_COMMAS = ("၊", "၏")  # the second is a genitive, and ends literary sentences before a stop
_SHADS = "།༎༏༐༑༔"  # Tibetan; often several, with spaces between
# Ends of sentences that sentencex does not know: Khmer and Tibetan marks; and the space between Thai or Lao words, as
# these write no mark. Beside ๆ, ໆ and ฯ a space means nothing.
_UNKNOWN_TO_SPLITTER = re.compile("[\u0e00-\u0fff\u104a\u104f\u1780-\u17ff]")
_FURTHER_END = re.compile(
    rf"(?<=[។៕])(?![។៕])\s*|(?<=[{_SHADS}])(?!\s*[{_SHADS}])\s*|(?<=[ก-ฮะ-ฺเ-ๅ็-๎ກ-ຽເ-ໄ່-ໍໜ-ໟ])\s+(?=[ก-ฮเ-ไກ-ຮເ-ໄໜ-ໟ])"
)
_FIRST_UNSPACED = "\u0e00"  # before it: Latin letters, Cyrillic, Arabic, Devanagari, ...


def sentences_of(paragraph: list[str], mode: str, language: str) -> list[str]:
    """Splits a paragraph into sentences; no character but outer white space is lost.

    Args:
      paragraph: its non-blank, stripped lines.
      mode: "line": each line is a sentence. "split": the lines are joined, then sentencex
        (github.com/wikimedia/sentencex) finds the sentences.
      language: a code such as "en", for sentencex.
    """
    if mode == "line":
        return paragraph
    text = join_lines(paragraph)
    pieces = sentencex.segment(language, text)
    if not text.isascii() and _UNKNOWN_TO_SPLITTER.search(text):
        pieces = _sentences_of_other_scripts(pieces)
    sentences = pieces[:1]
    for piece in pieces[1:]:
        if _inside_a_word(sentences[-1], piece):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def join_lines(lines: list[str]) -> str:
    """Joins the lines of a paragraph, whose breaks are those of the printed page, with spaces where the script has any.

    Between two characters of scripts without spaces there is none. Thai, Lao, Khmer, Burmese and Tibetan write a space
    where a sentence or phrase ends, so that theirs are joined without one only where a line is full: at least half as
    long as the paragraph's longest one.
    """
    text = " ".join(lines)
    if text.isascii() or not any(a[-1] >= _FIRST_UNSPACED <= b[0] for a, b in itertools.pairwise(lines)):
        return text
    full = max(map(len, lines)) / 2
    parts = [lines[0]]
    for before, after in itertools.pairwise(lines):
        parts += ["" if _continues(before, after, full) else " ", after]
    return "".join(parts)


def _continues(before, after, full):
    """Returns whether no space belongs between two lines."""
    last, first = before[-1], after[0]
    unspaced = writes_no_spaces(last), writes_no_spaces(first)
    if all(unspaced):
        return _is_wide(last) or _is_wide(first) or (last not in _STOPS + _SHADS and len(before) >= full)
    if not any(unspaced):
        return False
    letter, other = (last, first) if unspaced[0] else (first, last)
    return _is_wide(letter) and _is_wide_mark(other)


def _is_wide(character):
    return unicodedata.east_asian_width(character) in "WFH"


def _is_wide_mark(character):
    """Returns whether a character is a mark or symbol that is as wide as the Chinese or Japanese letters beside it.

    Quotes, dashes, stars and emoji are; Korean letters, which are wide too, are spaced.
    """
    is_mark = not character.isalpha() and not character.isdecimal()
    return is_mark and unicodedata.east_asian_width(character) in "AWF"


def _sentences_of_other_scripts(pieces):
    """Returns the sentences of text with Thai, Lao, Tibetan, Burmese or Khmer, of which sentencex found some."""
    sentences = []
    for piece in pieces:
        if sentences and sentences[-1].rstrip().endswith(_BURMESE_COMMAS):
            piece = sentences.pop() + piece
        sentences += _split_further(piece)
    return sentences


def _split_further(piece):
    """Yields the parts of a piece of text between ends of sentences that sentencex does not know."""
    start = 0
    for match in _FURTHER_END.finditer(piece):
        if any(map(str.isalnum, piece[start : match.start()])) and match.end() < len(piece):
            yield piece[start : match.end()]
            start = match.end()
    yield piece[start:]


def _inside_a_word(before, after):
    """Returns whether a boundary has no white space, in a script that writes some between sentences."""
    last = before[-1]
    if last.isspace() or after[0].isspace():
        return False
    return last not in _STOPS and last not in _SHADS and unicodedata.east_asian_width(last) not in "WF"
