"""Text into sentences: one per line, or found by a splitter."""

import sentencex

MODES = ("split", "line")


def sentences_of(paragraph: list[str], mode: str, language: str) -> list[str]:
    """The sentences of a paragraph, given as its non-blank, stripped lines.

    "line": each line is a sentence. "split": printed line breaks become spaces, then sentencex
    (github.com/wikimedia/sentencex) finds the sentences; no character but outer white space is lost.
    """
    if mode == "line":
        return paragraph
    found = sentencex.segment(language, " ".join(paragraph))
    return [sentence for sentence in map(str.strip, found) if sentence]
