"""Of which code a job is."""

import hashlib
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[2]


def code(folder: pathlib.Path) -> dict[str, str]:
    """The "commit" of this repository, and the name of the "diff" against it, which is written into the folder.

    Both are "" where there is none.
    """
    found = {"commit": _git("rev-parse", "HEAD").strip(), "diff": ""}
    diff = _git("diff", "HEAD")
    if diff:
        found["diff"] = f"diff-{hashlib.sha1(diff.encode()).hexdigest()[:12]}.patch"
        (folder / found["diff"]).write_text(diff, "utf-8")
    return found


def _git(*arguments):
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace")
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
