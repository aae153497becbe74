"""Tidies the notebooks beside this file, and writes the repository's address wherever it is named.

    python -m experiments.notebooks.tidy

Outputs and execution counts are removed from the notebooks. Their Colab badges, the address that they install from, and
the links in README.md, docs/ and the other PAGES take the repository of pyproject.toml's [project.urls]: change it
there, then run this.
"""

import json
import pathlib
import re
import tomllib

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
# Files that may link to the repository, as globs.
PAGES = ("*.md", "CITATION.cff", "mkdocs.yml", "pyproject.toml", "docs/**/*.md", "docs/**/*.py", "docs/**/*.yml")

_LINK = re.compile(r"(?<=github\.com/)[\w.-]+/bert_jax\b")
_BADGE = re.compile(r"https://colab\.research\.google\.com/github/[^)]*")


def repository() -> str:
    """Returns "account/name" of the GitHub repository that pyproject.toml names."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    return urls["Repository"].removeprefix("https://github.com/")


REPOSITORY = repository()


def badge(name: str) -> str:
    """Returns the address at which Colab opens the notebook called `name`."""
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/experiments/notebooks/{name}.ipynb"


def tidied(content: str, name: str) -> str:
    """Returns the tidied content of a notebook's file; `name` is the file's name without its ending."""
    notebook = json.loads(content)
    for cell in notebook["cells"]:
        source = _BADGE.sub(badge(name), "".join(cell["source"]))
        cell["source"] = linked(source).splitlines(keepends=True)
        cell["metadata"] = {"tags": cell["metadata"]["tags"]} if "tags" in cell["metadata"] else {}
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def linked(content: str) -> str:
    """Returns the text with every link to this project's GitHub repository leading to REPOSITORY."""
    return _LINK.sub(REPOSITORY, content)


def pages() -> list[pathlib.Path]:
    """Returns the files of PAGES that exist, sorted."""
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def main():
    notebooks = {path: lambda content, name=path.stem: tidied(content, name) for path in FOLDER.glob("*.ipynb")}
    for path, change in sorted(notebooks.items()) + [(path, linked) for path in pages()]:
        before = path.read_text("utf-8")
        after = change(before)
        if after != before:
            path.write_text(after, "utf-8")
        print(f"{path.relative_to(ROOT)}: {'unchanged' if after == before else 'tidied'}")


if __name__ == "__main__":
    main()
