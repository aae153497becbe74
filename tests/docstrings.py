"""Finds docstrings that miss the style of CONTRIBUTING.md; their number may only become smaller.

    python -m tests.docstrings
    python -m tests.docstrings --update    # after some were mended, or modules with some renamed

Five rules: the first word of every docstring is a verb in the third person ("Returns", "Holds"); a function whose
annotations name an array type states shapes, such as [batch, sequence]; modules and public classes, methods and
functions have a docstring, unless they are a command's `main` or a method documented where it is first defined;
sentences, comments and descriptions of arguments do not begin with "of" or "those" (`FRAGMENT`); and descriptions of
arguments and attributes begin in lower case.
"""

import ast
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

from tests import ratchets

ROOT = pathlib.Path(__file__).parents[1]
BASELINE = pathlib.Path(__file__).with_suffix(".txt")
SHAPE = re.compile(r"\[[\w*+/. ,…-]*\w[\w*+/. ,…-]*\]|\b[Ss]calar|\bshape\b")
ARRAY = re.compile(r"\b(Array|ArrayLike|NDArray|ndarray)\b")
VERB = re.compile(r"[A-Z][a-z-]*s\b(?!')")
# Words that are a noun before one of these words, and else a verb: "Names of files", but "Names the files".
NOUN = re.compile(
    r"(Bounds|Clusters|Columns|Counts|Formats|Groups|Labels|Means|Measures|Names|Norms|Numbers|Records|Scores|Sets|Speeds)"
    r"( (and|as|for|in|of|that|with)\b|[,:])"
)
NO_VERBS = {
    "Activations", "Adapters", "Always", "Anchors", "Arrays", "As", "Batches", "Bits", "Bytes", "Cells",
    "Checkpoints", "Chips", "Chunks", "Class", "Classifiers", "Collectives", "Configs", "Cross",
    "Datasets", "Devices", "Documents", "Embedders", "Embeddings", "Entities", "Examples", "Experiments", "Figures",
    "Files", "Flags", "Folders", "Gradients", "Heads", "Ids", "Inputs", "Its", "Jobs", "Kernels",
    "Keys", "Layers", "Lines", "Logits", "Loss", "Losses", "Metrics", "Mistakes", "Mixtures", "Modules", "Moments",
    "Nats", "Neighbours", "Objectives", "Options", "Others", "Pages", "Pairs", "Paragraphs",
    "Parameters", "Paths", "Phases", "Pictures", "Positions", "Process", "Programs", "Queries", "Questions",
    "Rankings", "Rates", "Recipes", "Replacements", "Rerankers", "Rows", "Rules", "Safetensors", "Seeds", "Sentences",
    "Settings", "Shapes", "Shardings", "Specs", "Statistics", "Steps", "Tables", "Tasks", "Texts", "This",
    "Those", "Tokenizers", "Tokens", "Trees", "Vectors", "Vocabularies", "Weights", "Whose", "Windows", "Words",
    "Workdirs",
}  # fmt: skip
FRAGMENT = re.compile(r"# of |\w: (of|those)\b|^\W*(Of|Those)\b|[.:;] (Of|Those)\b|\bof no meaning\b", re.M)
PROPER = {"Adam", "Beam", "English", "False", "Google", "Hugging", "Kullback", "None", "Python", "True"}
FOLDERS = ("bert_jax", "configs", "experiments")


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
    return match is not None and match[0] not in NO_VERBS and not NOUN.match(docstring)


def documented_methods(trees: Iterable[ast.Module]) -> set[str]:
    """Returns the names of the methods that some class documents; where another overrides one, it need not."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {
        node.name
        for owner in classes
        for node in owner.body
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
    }


def capitalised(docstring: str) -> list[str]:
    """Returns the capitalised ordinary words that begin a description below "Args:" or "Attributes:"."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?:  .*\n?|\n)*)", docstring, re.M)
    entries = re.findall(r"^  [\w*, ]+: ([A-Z][a-z]*)\b", "".join(sections), re.M)
    return [word for word in entries if word not in PROPER]


def flaws() -> Iterator[tuple[str, str]]:
    """Yields (file's path, place and rule) of each docstring of library, recipes and experiments that misses one."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}
    documented = documented_methods(trees.values())
    for path, tree in trees.items():
        for node in ast.walk(tree):
            doc = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
            line = getattr(node, "lineno", 1)
            if doc and not begins_with_a_verb(doc):
                yield path, f"{line}: begins with no verb: {doc.splitlines()[0]!r}"
            for entry in capitalised(doc or ""):
                yield path, f"{line}: a description begins with a capital: {entry!r}"
        text = (ROOT / path).read_text("utf-8")
        for match in FRAGMENT.finditer(text):
            yield path, f"{text.count(chr(10), 0, match.start()) + 1}: a fragment: {match[0].strip()!r}"
        if path.startswith("bert_jax/"):
            yield from ((path, flaw) for flaw in (*undocumented(tree, documented), *without_shapes(tree)))


def without_shapes(tree: ast.Module) -> Iterator[str]:
    """Yields the line and name of each public function that has arrays and states no shape."""
    for name, function in public_functions(tree):
        if names_an_array(function) and not SHAPE.search(ast.get_docstring(function) or ""):
            yield f"{function.lineno}: {name}: arrays without a shape"


def undocumented(tree: ast.Module, documented: set[str]) -> Iterator[str]:
    """Yields the line and name of a module, and of its public classes, functions and methods, without a docstring."""
    if not ast.get_docstring(tree):
        yield "1: the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{node.lineno}: {node.name}: no docstring"
    for name, function in public_functions(tree):
        known = "main" if "." not in name else function.name if function.name in documented else "__call__"
        if function.name != known and not ast.get_docstring(function):
            yield f"{function.lineno}: {name}: no docstring"


if __name__ == "__main__":
    sys.exit(ratchets.main(flaws(), BASELINE, "docstrings to mend (python -m tests.docstrings)", sys.argv[1:]))
