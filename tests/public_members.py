"""Prints the keyword arguments of public functions and the members of public classes below `bert_jax` of a checkout.

tests/public_members.txt is what `python tests/public_members.py CHECKOUT` printed for the commit before 0.2's layout;
tests/test_moved.py holds that each still works. It reads the code and imports nothing.
"""

import ast
import pathlib
import sys


def is_public(name):
    return not name.startswith("_") or name in ("__init__", "__call__")


def argument_names(function):
    """Returns the arguments that a caller may name, without `self` and `cls`."""
    arguments = function.args
    return [x.arg for x in (*arguments.args, *arguments.kwonlyargs) if x.arg not in ("self", "cls")]


def members(node):
    """Yields the lines, without their module, of a public function or class."""
    if isinstance(node, ast.FunctionDef):
        yield f"{node.name}({', '.join(argument_names(node))})"
    elif isinstance(node, ast.ClassDef):
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and is_public(part.name):
                is_property = any(
                    getattr(x, "id", getattr(x, "attr", "")).endswith("property") for x in part.decorator_list
                )
                arguments = "" if is_property else f"({', '.join(argument_names(part))})"
                yield f"{node.name}.{part.name}{arguments}"
            elif isinstance(part, ast.AnnAssign) and is_public(part.target.id):
                yield f"{node.name}.{part.target.id}"


def listing(checkout):
    """Returns every line, in the order of files and of the code in them."""
    lines = []
    for path in sorted((checkout / "bert_jax").rglob("*.py")):
        module = ".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__")
        nodes = ast.parse(path.read_text("utf-8")).body
        lines += [
            f"{module} {line}" for node in nodes if is_public(getattr(node, "name", "_")) for line in members(node)
        ]
    return lines


if __name__ == "__main__":
    print("\n".join(listing(pathlib.Path(sys.argv[1]))))
