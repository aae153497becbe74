"""Splits text into sentences: one per line, or found by a sentence splitter."""

import unicodedata

import sentencex

MODES = ("split", "line")


def sentences_of(paragraph: list[str], mode: str, language: str) -> list[str]:
    """Splits a paragraph into sentences; no character but outer white space is lost.

    Args:
      paragraph: its non-blank, stripped lines.
      mode: "line": each line is a sentence. "split": lines are joined with spaces, then sentencex
        (github.com/wikimedia/sentencex) finds the sentences.
      language: a code such as "en", for sentencex.
    """
    if mode == "line":
        return paragraph
    sentences = []
    for piece in sentencex.segment(language, " ".join(paragraph)):
        if sentences and _inside_a_word(sentences[-1], piece):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _inside_a_word(before, after):
    """Returns whether a boundary has no white space, in a script that writes some between sentences."""
    last = before[-1]
    return not last.isspace() and not after[0].isspace() and unicodedata.east_asian_width(last) not in "WF"
