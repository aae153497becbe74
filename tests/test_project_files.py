"""The files around the library agree with each other: metadata, licence, citation, changelog, make targets, links."""

import pathlib
import re
import tomllib

import yaml

import bert_jax
from bert_jax import _moved
from experiments.notebooks import tidy

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def test_links_lead_to_the_repository_of_pyproject():
    assert re.fullmatch(r"[\w.-]+/bert_jax", tidy.REPOSITORY)
    pages = tidy.pages()
    assert {"README.md", "CITATION.cff", "pyproject.toml"} <= {path.name for path in pages}
    wrong = [str(path) for path in pages if tidy.linked(path.read_text("utf-8")) != path.read_text("utf-8")]
    assert not wrong, "python -m experiments.notebooks.tidy"


def test_citation_and_licence_agree_with_the_metadata():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == bert_jax.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert citation["authors"] == PROJECT["authors"] == [{"name": "The bert_jax Authors"}]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "Copyright 2026 The bert_jax Authors" in licence


def test_the_changelog_has_this_version_and_the_moved_modules():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert released[0] == bert_jax.__version__
    listed = set(re.findall(r"^  \| `([\w.]+)` \|", changelog, re.MULTILINE))
    assert listed <= set(_moved.MODULES)


def test_every_mark_has_a_make_target_and_ci_runs_the_usual_ones():
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    marks = {line.split(":")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    marks -= {"one_in(n)"}  # what it leaves out has the mark `more`
    assert {f"test-{mark}" for mark in marks} <= targets
    excluded = set(re.findall(r"not (\w+)", PYPROJECT["tool"]["pytest"]["ini_options"]["addopts"]))
    assert excluded == marks
    called = re.findall(r"^make ([\w-]+)$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE)
    assert {"lint", "test", "test-full", "test-parity", "docs"} <= set(called) <= targets


def test_the_workflow_runs_the_ci_script():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
