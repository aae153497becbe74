"""Reads the English text that ships with CPython: the language reference's topics and the library's docstrings.

Sources are parsed, none is imported. A topic is a document, and so are all docstrings of a module.
"""

import ast
import inspect
import pathlib
import re
import sysconfig
from collections.abc import Iterator

_SKIPPED_FOLDERS = {
    "__pycache__", "config", "distutils", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3",
    "pydoc_data", "site-packages", "dist-packages", "test", "tests", "turtledemo", "_pyrepl",
}  # fmt: skip
_TOPICS = "pydoc_data/topics.py"
_BULLET = re.compile(r"^(?:[*+•-]|\(?(?:\d+|[a-z])[.)])\s+")
_WORD = re.compile(r"[(\"'“‘]?[A-Za-z][a-z]*(?:[-'’/][A-Za-z]+)*[)\"'”’]*[.,;:!?]*[)\"'”’]*")
_MIN_WORDS = 6
_MIN_WORD_SHARE = 0.75
_MARKUP = re.compile(r"(?:``?|:[a-z]+:`|`_?)")


def paths() -> list[str]:
    """Returns the topics' file and the library's modules, in a fixed order."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    modules = [
        path.as_posix()
        for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts)
        if not _SKIPPED_FOLDERS & {part.split("-")[0] if part.startswith("config-") else part
                                   for part in path.relative_to(library).parts[:-1]}
    ]  # fmt: skip
    topics = library / _TOPICS
    return [topics.as_posix()] * topics.is_file() + modules


def read(path: str) -> Iterator[list[str] | None]:
    """Yields the paragraphs of prose in a file, as lists of lines; None ends a document."""
    source = pathlib.Path(path).read_bytes()  # ast detects the encoding
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # it is a template, not a module
    documents = _topics(tree) if path.endswith(_TOPICS) else ["\n\n".join(_docstrings(tree))]
    for document in documents:
        has_prose = False
        for paragraph in _prose(document):
            yield paragraph
            has_prose = True
        if has_prose:
            yield None


def _topics(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            entries = zip(node.value.keys, node.value.values, strict=True)
            yield from (text for _, text in sorted((ast.literal_eval(k), ast.literal_eval(v)) for k, v in entries))


def _docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=True)
            if docstring:
                yield docstring


def _prose(text):
    """Yields the paragraphs that are English sentences, not examples, grammars, signatures, tables or headings."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = [line.strip() for line in block.split("\n")]
        if any(line.startswith((">>>", "...")) for line in lines):
            continue
        items, current = [], []
        for line in lines:
            if _BULLET.match(line) and current:
                items.append(current)
                current = []
            current.append(_MARKUP.sub("", _BULLET.sub("", line)))
        for item in [*items, current]:
            item = [line for line in item if line]
            if _is_prose(" ".join(item)):
                yield item


def _is_prose(text):
    words = text.split()
    plain = sum(bool(_WORD.fullmatch(word)) for word in words)
    if len(words) < _MIN_WORDS or plain < _MIN_WORD_SHARE * len(words):
        return False
    return text.rstrip("\"'”’)").endswith((".", "!", "?", ":", ";")) and "::=" not in text
