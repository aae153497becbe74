"""Builds the documentation into site/; a broken link or anchor is an error. `make docs` runs it.

    python docs/build.py [--check]

The pages are copied into build/docs/ first, and completed there:

- A page links to a file outside docs/ as it would on a code host, `[the test](../tests/training/test_resume.py)`. Each
  such file becomes a page below source/, so that the site is complete by itself, and a link to a file that has moved is
  an error.
- The tables of config keys and of recipes are written from the schema and the recipes (reference.py).
"""

import argparse
import os
import pathlib
import posixpath
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS, STAGED = ROOT / "docs", ROOT / "build/docs"
sys.path[:0] = [str(ROOT), str(DOCS)]

_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_COPIED = (".md", ".png", ".svg", ".css")
_PICTURES = (".png", ".svg")
_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".json": "json"}


def staged(tables: bool = True) -> dict[str, bytes]:
    """Returns the files of build/docs/ by name: the pages of docs/, and those made from files and tables.

    Args:
      tables: whether the tables of keys and recipes are filled in, which imports bert_jax.

    Raises:
      SystemExit: a link to a file that is not there.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it counts parameters; no accelerator is looked for
    import reference

    pages, todo, seen = {}, [], set()
    for path in sorted(path for path in DOCS.rglob("*") if path.suffix in _COPIED):
        name = path.relative_to(DOCS).as_posix()
        if path.suffix == ".md":
            text = path.read_text("utf-8")
            todo.append((f"docs/{name}", reference.filled(text) if tables else text))
        else:
            pages[name] = path.read_bytes()
    while todo:
        page, text = todo.pop()
        outside = _outside(page, text)
        for path in sorted(set(outside.values()) - seen):
            seen.add(path)
            if path.endswith(_PICTURES):
                pages[_place(path)] = (ROOT / path).read_bytes()
            elif path.endswith(".md"):
                todo.append((path, (ROOT / path).read_text("utf-8")))
            else:
                pages[_place(path)] = _listing(path, (ROOT / path).read_text("utf-8")).encode()
        pages[_place(page)] = _relinked(page, text, outside).encode()
    return pages


def _outside(page, text):
    """Returns link -> path in the repository, for the links of a page to files outside docs/."""
    outside = {}
    for match in _LINK.finditer(text):
        link = match[1]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
        if re.match(r"[a-z]+:|/|<", link) or path.startswith("docs/"):
            continue
        if not (ROOT / path).is_file():
            raise SystemExit(f"error: {page}: links to {link}; expected a file of the repository, found none at {path}")
        outside[link] = path
    return outside


def _relinked(page, text, outside):
    """Returns a page whose links to files of the repository lead to their pages."""
    here = posixpath.dirname(_place(page))

    def target(match):
        path = outside.get(match[1])
        return match[0] if path is None else posixpath.relpath(_place(path), here or ".") + (match[2] or "")

    return _LINK.sub(target, text)


def _place(path):
    """Returns where a file of the repository lies in the site's sources."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith((".md", *_PICTURES)) else f"source/{path}.md"


def _listing(path, content):
    """Returns a page that shows a file of the repository."""
    language = _LANGUAGES.get(pathlib.PurePosixPath(path).suffix, "text")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", content)), default=0))
    head = "---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n"
    return (
        f"{head}\n# {pathlib.PurePosixPath(path).name}\n\n`{path}`\n\n{fence}{language}\n{content.rstrip()}\n{fence}\n"
    )


def _write(pages):
    """Replaces build/docs/ by these files."""
    shutil.rmtree(STAGED, ignore_errors=True)
    for name, content in pages.items():
        path = STAGED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="follows the links to files, and writes nothing")
    arguments = parser.parse_args()
    pages = staged(tables=not arguments.check)
    if not arguments.check:
        _write(pages)
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
