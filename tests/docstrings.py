"""Finds docstrings of public functions that miss the style of CONTRIBUTING.md; their number may only become smaller.

    python -m tests.docstrings
    python -m tests.docstrings --update    # after some were mended, or modules with some renamed

Two rules: the first word of a function's docstring is a verb in the third person ("Returns", "Writes"), and a function
whose annotations name an array type states shapes, such as [batch, sequence]. Properties may begin with a noun.
"""

import ast
import pathlib
import re
import sys
from collections.abc import Iterator

from tests import ratchets

ROOT = pathlib.Path(__file__).parents[1]
BASELINE = pathlib.Path(__file__).with_suffix(".txt")
SHAPE = re.compile(r"\[[\w*+/. ,…-]*\w[\w*+/. ,…-]*\]|\b[Ss]calar|\bshape\b")
ARRAY = re.compile(r"\b(Array|ArrayLike|NDArray|ndarray)\b")
VERB = re.compile(r"[A-Z][a-z]+s\b(?!')")
NO_VERBS = {
    "Always", "Arrays", "As", "Batches", "Bits", "Bytes", "Chips", "Figures", "Heads", "Ids", "Its", "Kernels",
    "Keys", "Logits", "Losses", "Modules", "Names", "Nats", "Numbers", "Others", "Pairs", "Paragraphs",
    "Parameters", "Paths", "Positions", "Process", "Programs", "Rows", "Seeds", "Shapes", "Specs", "Steps",
    "This", "Those", "Tokens", "Vectors", "Weights", "Whose", "Windows",
}  # fmt: skip


def public_functions(tree: ast.Module | ast.ClassDef, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yields (qualified name, function) of the functions and methods whose names do not begin with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (node.name == "__call__" or not node.name.startswith("_")):
            yield owner + node.name, node


def names_an_array(function: ast.FunctionDef) -> bool:
    """Tells whether an annotation of an argument or of the result names an array type."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    annotations = [argument.annotation for argument in arguments if argument] + [function.returns]
    return any(ARRAY.search(ast.unparse(annotation)) for annotation in annotations if annotation)


def begins_with_a_verb(docstring: str) -> bool:
    """Tells whether a docstring's first word looks like a verb in the third person."""
    match = VERB.match(docstring)
    return match is not None and match[0] not in NO_VERBS


def flaws() -> Iterator[tuple[str, str]]:
    """Yields (module's path, function and rule) of each docstring in bert_jax that misses a rule."""
    for path in sorted((ROOT / "bert_jax").rglob("*.py")):
        for name, function in public_functions(ast.parse(path.read_text("utf-8"))):
            docstring = ast.get_docstring(function) or ""
            is_property = any("property" in ast.unparse(decorator) for decorator in function.decorator_list)
            relative = path.relative_to(ROOT).as_posix()
            if docstring and not is_property and not begins_with_a_verb(docstring):
                yield relative, f"{function.lineno}: {name}: begins with no verb: {docstring.splitlines()[0]!r}"
            if names_an_array(function) and not SHAPE.search(docstring):
                yield relative, f"{function.lineno}: {name}: arrays without a shape"


if __name__ == "__main__":
    sys.exit(ratchets.main(flaws(), BASELINE, "docstrings to mend (python -m tests.docstrings)", sys.argv[1:]))
