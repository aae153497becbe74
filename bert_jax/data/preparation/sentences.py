"""Splits text into sentences: one per line, or found by a sentence splitter."""

import itertools
import re
import unicodedata

import sentencex

from bert_jax.data.scripts import writes_no_spaces

MODES = ("split", "line")
_splitter = sentencex.segment
# Marks that end a sentence, and nothing else, whether white space follows or not. The full stop, and its like in other
# scripts of Europe, also stands inside words and numbers.
_STOPS = "｡։׃؟؝۔܀܁܂߹।॥။።፧፨។៕᙮᠃᠉᭟᱾᱿꓿꘎꛳꡶꡷꣎꣏꧉꩝꩞꩟꯫"
_BURMESE_COMMAS = ("၊", "၏")  # the second is a genitive, and ends literary sentences before a stop
_SHADS = "།༎༏༐༑༔"  # Tibetan; often several, with spaces between
# Ends of sentences that sentencex does not know: Khmer and Tibetan marks; the space between Thai or Lao words, as these
# write no mark (beside ๆ, ໆ and ฯ a space means nothing); the full stop of half-width kana; Ethiopic's, typed as two
# word separators or colons; the Greek question mark's own character; and Hebrew's sof pasuq.
_UNKNOWN_TO_SPLITTER = re.compile("[\u037e\u05c3\u0e00-\u0fff\u104a\u104f\u1200-\u137f\u1780-\u17ff｡]")
_ETHIOPIC_STOPS = ("፡፡", "::")
_FURTHER_END = re.compile(
    rf"(?<=[។៕])(?![។៕])\s*|(?<=[{_SHADS}])(?!\s*[{_SHADS}])\s*|(?<=[ก-ฮะ-ฺเ-ๅ็-๎ກ-ຽເ-ໄ່-ໍໜ-ໟ])\s+(?=[ก-ฮเ-ไກ-ຮເ-ໄໜ-ໟ])"
    rf"|(?<={_ETHIOPIC_STOPS[0]})(?!፡)\s*|(?<=[\u1200-\u137f]::)(?!:)\s*|(?<=\u05c3)\s*|(?<=\u037e)\s+|(?<=｡)(?![｡｣）])\s*"
)
# sentencex ends no sentence inside a pair of these, however far apart, so that a mark without its partner, or the
# brackets of "(1." and "2)", joins all sentences up to the next one.
_PAIRED = "()[]{}<>（）`'\"«»‘’‚“”‛„‟‹›《》「」"
_PAIRED_MARK = re.compile(rf"\[\d+\]|[{re.escape(_PAIRED)}]")  # [12] is a reference, which belongs to what it follows
_LONGEST_PAIR = 2000  # characters; a paragraph of speech is shorter
_OPENING_MARK = re.compile("[(\\[{（「《„‚]|(?<=[。！？”’」])[“‘]")  # whatever stands before it
# Between two quoted sentences without white space, as in Chinese dialogue: “走吧。”“好。”
_BETWEEN_QUOTES = re.compile("(?<=[。！？｡．…!?][”’」』】）])(?=[“‘「『【（])|(?<=[。！？｡．…!?]’”)(?=“)")
_CLOSING_MARKS = "”’｣」』】）》〉"
_FIRST_UNSPACED = "\u0e00"  # before it: Latin letters, Cyrillic, Arabic, Devanagari, ...


def sentences_of(paragraph: list[str], mode: str, language: str) -> list[str]:
    """Splits a paragraph into sentences; no character but outer white space is lost.

    Args:
      paragraph: its non-blank, stripped lines.
      mode: "line": each line is a sentence. "split": the lines are joined, then sentencex
        (github.com/wikimedia/sentencex) finds the sentences, also those inside brackets and quotes of more than 2,000
        characters.
      language: a code such as "en", for sentencex.
    """
    if mode == "line":
        return paragraph
    text = join_lines(paragraph)
    pieces = _segment(language, text)
    if not text.isascii() and _UNKNOWN_TO_SPLITTER.search(text):
        pieces = _sentences_of_other_scripts(pieces)
    sentences = pieces[:1]
    for piece in pieces[1:]:
        if _inside_a_word(sentences[-1], piece):
            sentences[-1] += piece
            continue
        closing = 0 if sentences[-1][-1].isspace() else len(piece) - len(piece.lstrip(_CLOSING_MARKS))
        sentences[-1] += piece[:closing]
        if piece[closing:]:
            sentences.append(piece[closing:])
    if not text.isascii():
        sentences = [part for sentence in sentences for part in _BETWEEN_QUOTES.split(sentence)]
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _segment(language, text):
    """Returns the sentences that sentencex finds in a text; those with a long pair of marks, without its pairs."""
    pieces = _splitter(language, text)
    if max(map(len, pieces), default=0) <= _LONGEST_PAIR:
        return pieces
    return [part for piece in pieces for part in _without_pairs(language, piece)]


def _without_pairs(language, piece):
    """Yields the parts of a piece of text that are sentences if brackets and quotes, where it is long, are spaces."""
    if len(piece) <= _LONGEST_PAIR:
        yield piece
        return
    parts = _splitter(language, _PAIRED_MARK.sub(lambda mark: mark[0] if len(mark[0]) > 1 else " ", piece))
    if sum(map(len, parts)) != len(piece):  # a splitter that drops white space does not say where it cut
        yield piece
        return
    begin = end = 0
    for part in parts:
        end += len(part)
        cut = begin + _before_opening_marks(piece[begin:end]) if end < len(piece) else end
        if cut > begin:
            yield piece[begin:cut]
            begin = cut


def _before_opening_marks(part):
    """Returns the length of a part of a text without the marks at its end that belong to what follows."""
    text = len(part.rstrip(_PAIRED))
    if part[:text][-1:].isspace():
        return text
    opening = _OPENING_MARK.search(part, text)
    return opening.start() if opening else len(part)


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
        marks = _is_wide_mark(last) and _is_wide_mark(first)
        return marks and _is_of_wide_letters(before) and _is_of_wide_letters(after)
    letter, other = (last, first) if unspaced[0] else (first, last)
    return _is_wide(letter) and _is_wide_mark(other)


def _is_wide(character):
    return unicodedata.east_asian_width(character) in "WFH"


def _is_of_wide_letters(line):
    """Returns whether a line holds Chinese or Japanese letters, and no Korean ones, whose words are spaced."""
    return any(writes_no_spaces(c) and _is_wide(c) for c in line) and not any("가" <= c <= "힣" for c in line)


def _is_wide_mark(character):
    """Returns whether a character is a mark or symbol that is as wide as the Chinese or Japanese letters beside it.

    Quotes, dashes, stars and emoji are; Korean letters, which are wide too, are spaced.
    """
    is_mark = not character.isalpha() and not character.isdecimal()
    return is_mark and unicodedata.east_asian_width(character) in "AWF"


def _sentences_of_other_scripts(pieces):
    """Returns the sentences of text in a script with ends that sentencex does not know, of which it found some."""
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
    if before.endswith(_ETHIOPIC_STOPS) or last in _STOPS or last in _SHADS:
        return False
    return unicodedata.east_asian_width(last) not in "WF"
