"""Reads CoNLL files: a word per line, columns in it, and blank lines between sentences.

CoNLL-U is one of them, with config.task.token_column=1 and the label_column of a tag.
"""

import re
from collections.abc import Iterator
from typing import Any

from bert_jax.data.tasks import text_files
from bert_jax.errors import UserError, shortened

# CoNLL-U's numbers of lines that hold no word: several words in one (1-2), a word that is not written (2.1).
_RANGE_OR_EMPTY = re.compile(r"\d+[-.]\d+")
_ENTITY_TAG = re.compile(r"O|[BIES]-[A-Za-z]\S*")
_HEADER = (
    {"word", "words", "token", "tokens", "form"},
    {"tag", "tags", "label", "labels", "ner", "pos", "ner_tag", "ner_tags", "pos_tag"},
)

Sentence = tuple[int, tuple[list[str], list[str] | None]]


def read(path: str, task: Any, wanted: Any, optional: Any, notes: list[str]) -> list[Sentence]:
    """Returns (first line, (words, tags or None)) of each sentence of a file.

    -DOCSTART- lines, comments before a sentence, and CoNLL-U's lines for several words (1-2) or none (2.1) are skipped.

    Args:
      path: the file.
      task: config.task, whose token_column and label_column are read.
      wanted, optional: not used; see data.tasks.records.
      notes: gets a line for each kind of line that is skipped.

    Raises:
      UserError: a line has other columns than the first, or the columns that are read cannot be words and tags.
    """
    del wanted, optional
    skipped: list[int] = []
    sentences = list(_sentences(path, task, skipped))
    if skipped:
        notes.append(
            f"{path}: {len(skipped):,} lines such as CoNLL-U's 1-2 or 2.1, which hold no word of their own, were "
            f"skipped, the first being line {skipped[0]}"
        )
    _check_columns(path, task, sentences)
    return sentences


def _sentences(path, task, skipped) -> Iterator[Sentence]:
    words: list[str] = []
    tags: list[str] = []
    first = number = 0
    shape = (0, 0)  # number of columns, and the first line that has them
    is_numbered = False
    for number, text in text_files.lines(path):
        text = text.rstrip(" \t\r\n")
        if "\r" in text:
            raise UserError(f"{path} line {number}: lines end with CR alone; expected LF or CR LF")
        if not text.strip(" ") or text.startswith("-DOCSTART-"):
            if words:
                yield first, (words, tags or None)
                words, tags = [], []
            continue
        row = text.split("\t") if "\t" in text else re.split(" +", text.lstrip(" "))
        if not words and _is_comment(text, row, shape[0]):
            continue
        if not shape[0]:
            shape = (len(row), number)
            is_numbered = row[0] == "1" or bool(_RANGE_OR_EMPTY.fullmatch(row[0]))
        if len(row) != shape[0]:
            raise UserError(
                f"{path} line {number}: found {len(row)} columns in {shortened(text)!r}; expected {shape[0]} as in "
                f"line {shape[1]}"
            )
        for key, column in (("token_column", task.token_column), ("label_column", task.label_column)):
            if not -len(row) <= column < len(row):
                raise UserError(
                    f"{path} line {number}: found {len(row)} columns; expected one for config.task.{key}={column}"
                )
        if is_numbered and len(row) > 2 and task.token_column % len(row) and _RANGE_OR_EMPTY.fullmatch(row[0]):
            skipped.append(number)
            continue
        if not words:
            first = number
        words.append(row[task.token_column])
        if len(row) > 1:
            tags.append(row[task.label_column])
    if words:
        yield first, (words, tags or None)


def _is_comment(text, row, columns):
    """Returns whether a line before a sentence is a comment.

    A comment is "# key = value", "#begin document", or begins with # and has other columns than a word's line.
    """
    if not text.startswith("#"):
        return False
    if re.match(r"#\s*[\w.:-]+\s*=|#\s*(begin|end) document", text):
        return True
    return len(row) != columns if columns else not re.fullmatch(r"O|[A-Z]-\S+", row[-1])


def _check_columns(path, task, sentences):
    """Raises UserError where the words are line numbers or a header, or the tags are CoNLL-U's last column."""
    if not sentences:
        return
    first, (words, tags) = sentences[0]
    if tags and words[0].lower() in _HEADER[0] and tags[0].lower() in _HEADER[1]:
        raise UserError(f"{path} line {first}: a header ({words[0]}, {tags[0]}); expected a word and its tag")
    numbers = [[word for word in words if not _RANGE_OR_EMPTY.fullmatch(word)] for _, (words, _) in sentences]
    if max(map(len, numbers)) > 1 and all(row == [str(i + 1) for i in range(len(row))] for row in numbers):
        raise UserError(
            f"{path} line {first}: config.task.token_column={task.token_column} numbers the words (1, 2, ...); "
            "expected the column of the words, such as 1, and config.task.label_column of the tags, in CoNLL-U 3"
        )
    if _are_entity_tags(word for _, (words, _) in sentences for word in words) and not _are_entity_tags(
        tag for _, (_, tags) in sentences for tag in tags or ()
    ):
        raise UserError(
            f"{path} line {first}: config.task.token_column={task.token_column} holds tags ({words[0]}); expected the "
            "column of the words, and config.task.label_column of the tags"
        )
    if any("SpaceAfter=No" in tags for _, (_, tags) in sentences if tags):
        raise UserError(
            f"{path} line {first}: config.task.label_column={task.label_column} is CoNLL-U's MISC (SpaceAfter=No); "
            "expected the column of the tags, such as 3 (UPOS)"
        )


def _are_entity_tags(column):
    """Returns whether a column holds O and entity tags alone."""
    different = set(column)
    return bool(different - {"O"}) and all(map(_ENTITY_TAG.fullmatch, different))
