"""Brings the notebooks beside this file into the state that they are committed in.

    python -m experiments.notebooks.tidy

Outputs and execution counts are taken out, and each notebook's Colab badge and the address that it installs from are
those of REPOSITORY: change it here, then run this.
"""

import json
import pathlib
import re

REPOSITORY = "OWNER/bert_jax"  # on GitHub, OWNER standing for the account that the project is published under

FOLDER = pathlib.Path(__file__).parent
_BADGE = re.compile(r"https://colab\.research\.google\.com/github/[^)]*")
_ADDRESS = re.compile(r"(?<=git\+https://github\.com/)[\w.-]+/[\w.-]+")


def badge(name: str) -> str:
    """Where Colab opens the notebook of that name."""
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/experiments/notebooks/{name}.ipynb"


def tidied(content: str, name: str) -> str:
    """The content of a notebook's file, tidied; `name` is the file's, without its ending."""
    notebook = json.loads(content)
    for cell in notebook["cells"]:
        source = _BADGE.sub(badge(name), "".join(cell["source"]))
        cell["source"] = _ADDRESS.sub(REPOSITORY, source).splitlines(keepends=True)
        cell["metadata"] = {"tags": cell["metadata"]["tags"]} if "tags" in cell["metadata"] else {}
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main():
    for path in sorted(FOLDER.glob("*.ipynb")):
        before = path.read_text("utf-8")
        after = tidied(before, path.stem)
        path.write_text(after, "utf-8")
        print(f"{path}: {'as it was' if after == before else 'tidied'}")


if __name__ == "__main__":
    main()
