"""Records which code a job runs: the package, its repository, the commit and the uncommitted changes."""

import hashlib
import itertools
import pathlib
import subprocess
import sys

from bert_jax import errors

PACKAGE = __package__.rpartition(".")[0]  # "experiments", or "bert_jax.experiments" of an installed wheel
_FOLDER = pathlib.Path(__file__).resolve().parents[2]
IS_CHECKOUT = (_FOLDER / "pyproject.toml").is_file()
# The folder that jobs start in. An installed package has no repository: jobs start where the launcher was started.
ROOT = _FOLDER if IS_CHECKOUT else pathlib.Path.cwd()


def module(name: str) -> str:
    """Returns the full name of a module of this package for `python -m`, such as "experiments.report"."""
    return f"{PACKAGE}.{name}"


def command_line(name: str) -> str:
    """Returns how to run the "launch" or "report" command, in the form in which this program itself was run.

    It is "python -m experiments.launch" in a program that was started so, which runs in a checkout alone; else as
    `errors.command_line` says.
    """
    is_module = any(pair == ("-m", module("launch")) for pair in itertools.pairwise(sys.orig_argv))
    return f"python -m {module(name)}" if is_module else errors.command_line(name)


def code(folder: pathlib.Path) -> dict[str, str]:
    """Returns the "commit" of the repository and the file name of the "diff" against it, written into `folder`.

    Both are "" outside a repository and for an installed package.
    """
    if not IS_CHECKOUT:
        return {"commit": "", "diff": ""}
    record = {"commit": _git("rev-parse", "HEAD").strip(), "diff": ""}
    diff = _git("diff", "HEAD")
    if diff:
        record["diff"] = f"diff-{hashlib.sha1(diff.encode()).hexdigest()[:12]}.patch"
        (folder / record["diff"]).write_text(diff, "utf-8")
    return record


def _git(*arguments):
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace")
    except OSError:
        return ""
    return result.stdout if result.returncode == 0 else ""
