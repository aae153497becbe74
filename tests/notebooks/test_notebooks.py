"""Tests the committed notebooks: their form, what they install, and what they show when they run."""

import builtins
import importlib.util
import json
import os
import re
import sys

import IPython.core.inputtransformer2
import nbformat
import numpy as np
import pytest

import bert_jax
from bert_jax.inference import multi_vector
from experiments.notebooks import tidy
from tests.notebooks.conftest import PATHS, interesting

SETUP = 2  # the cell that installs


def read(name):
    return nbformat.read(PATHS[name], as_version=4)


def test_the_notebooks_exist():
    assert set(PATHS) == {"pretrain_on_tpu", "finetune_and_export", "look_inside", "search_engine"}


@pytest.mark.parametrize("name", PATHS)
def test_committed_notebooks_are_valid_and_have_no_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3" and notebook.metadata.accelerator in ("TPU", "GPU")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in code) == 1
    content = PATHS[name].read_text("utf-8")
    assert tidy.tidied(content, name) == content
    headings = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(headings) >= len(code)  # each step is explained


@pytest.mark.parametrize("name", PATHS)
def test_a_notebook_opens_with_its_own_badge(name):
    first = read(name).cells[0]
    link = f"https://colab.research.google.com/github/{tidy.REPOSITORY}/blob/main/experiments/notebooks/{name}.ipynb"
    assert first.cell_type == "markdown"
    assert first.source.startswith(
        f"[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})\n\n# "
    )
    content = PATHS[name].read_text("utf-8")
    assert content.count("colab.research.google.com/github") == 1
    assert set(re.findall(r"github\.com/([\w.-]+/[\w.-]+)", content)) == {tidy.REPOSITORY}


def test_tidying_removes_outputs_and_rewrites_links(monkeypatch):
    path = PATHS["look_inside"]
    before = path.read_text("utf-8")
    ran = json.loads(before)
    for cell in ran["cells"]:
        cell["metadata"] |= {"collapsed": False, "id": "x"}
        if cell["cell_type"] == "code":
            cell |= {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1"]}]}
    assert tidy.tidied(json.dumps(ran), "look_inside") == before
    monkeypatch.setattr(tidy, "REPOSITORY", "ada/fork")
    moved = tidy.tidied(before, "look_inside")
    assert "github/ada/fork/blob/main/experiments/notebooks/look_inside.ipynb" in moved
    assert "git+https://github.com/ada/fork" in moved and moved.count("ada/fork") == 2


def set_up(monkeypatch, devices, installed, loaded):
    """Runs the setup cell as on a given machine: returns its magics, JAX_PLATFORMS afterwards, and what it prints."""
    source = {read(name).cells[SETUP].source for name in PATHS}
    assert len(source) == 1  # the same in each
    magics, printed = [], []

    class Shell:
        def run_line_magic(self, magic, line, *_, **__):
            magics.append((magic, line.format(**namespace) if "{" in line else line))

    monkeypatch.setattr("glob.glob", lambda pattern: [d for d in devices if re.match(pattern.replace("*", ".*"), d)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(builtins, "get_ipython", Shell, raising=False)
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if loaded or k not in ("jax", "numpy")})
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(builtins, "print", lambda *words, **_: printed.append(" ".join(words)))
    namespace = {}
    manager = IPython.core.inputtransformer2.TransformerManager()
    exec(manager.transform_cell(source.pop()), namespace)
    return magics, os.environ.get("JAX_PLATFORMS"), "\n".join(printed)


@pytest.mark.parametrize(
    ("devices", "jax_here", "platforms"),
    [
        (["/dev/accel0"], "jax[tpu]", None),
        (["/dev/vfio/0"], "jax[tpu]", None),
        (["/dev/nvidia0"], "jax[cuda12]", None),
        (["/dev/nvidiactl", "/dev/vfio/vfio"], "jax", "cpu"),
    ],
)
def test_setup_installs_the_jax_of_the_machine(monkeypatch, devices, jax_here, platforms):
    magics, platform, printed = set_up(monkeypatch, devices, installed=False, loaded=True)
    ((magic, line),) = magics
    assert magic == "pip"
    assert f'"bert_jax @ git+https://github.com/{tidy.REPOSITORY}" "{jax_here}" matplotlib' in line
    assert platform == platforms
    assert "Restart session" in printed


def test_setup_installs_nothing_where_bert_jax_is(monkeypatch):
    assert set_up(monkeypatch, [], installed=True, loaded=True) == ([], "cpu", "")


def test_setup_asks_for_no_restart_in_a_fresh_session(monkeypatch):
    assert set_up(monkeypatch, [], installed=False, loaded=False)[2] == ""


def check(executed, pictures):
    assert not executed.errors and executed.stderr == ""
    assert all(cell.execution_count for cell in executed.cells)
    assert len(executed.pictures) == pictures and all(map(interesting, executed.pictures))
    assert "1 x cpu" in executed.stdout


@pytest.mark.notebooks
def test_pretraining(pretrained):
    check(pretrained, pictures=1)
    assert "150 documents, 1,200 sentences" in pretrained.stdout
    assert "{[MASK]=" in pretrained.stdout and "done: step 60" in pretrained.stdout
    match = re.search(r"step 60: held-out loss ([\d.]+), ([+-][\d.]+) nats", pretrained.stdout)
    loss, gain = map(float, match.groups())
    assert 0 < loss < 4 and gain > 0.1
    guesses = re.findall(r"^    (\S+ [01]\.\d\d(?:  \S+ [01]\.\d\d){4})$", pretrained.stdout, re.MULTILINE)
    assert len(guesses) == 3  # one of the first sentence, two of the second
    fill_mask = bert_jax.FillMask.from_pretrained(pretrained.folder / "work" / "run")
    ((first, *_),) = fill_mask("The [MASK] is near the bank.")["masks"]
    assert guesses[0].startswith(f"{first['token']} {first['score']:.2f}")


@pytest.mark.notebooks
def test_finetuning_and_export(finetuned, checkpoint):
    check(finetuned, pictures=2)
    assert f"{checkpoint}: 2 layers of 32, 2 heads" in finetuned.stdout
    assert "labels money, river; 120 texts to learn from" in finetuned.stdout
    score, baseline = map(
        float, re.search(r"held-out accuracy ([\d.]+), most frequent label ([\d.]+)", finetuned.stdout).groups()
    )
    assert score > 0.9 > baseline
    assert re.search(r"\d+ of 40 wrong", finetuned.stdout)
    exported = finetuned.folder / "work" / "huggingface"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in exported.iterdir()}
    answers = bert_jax.Classifier.from_pretrained(exported)(["the boat is near", "a loan and a bank"])
    assert [answer["label"] for answer in answers] == ["river", "money"]
    assert re.search(r"^river 0\.\d+  the boat is near$", finetuned.stdout, re.MULTILINE)
    differences = dict(re.findall(r"run and (\w+): largest difference of a probability (\S+)", finetuned.stdout))
    assert float(differences.pop("export")) == 0
    assert all(float(difference) < 1e-5 for difference in differences.values())  # transformers, where it is


@pytest.mark.notebooks
def test_looking_inside(looked):
    check(looked, pictures=5)
    assert "2 layers of 32, 2 heads" in looked.stdout
    assert re.search(r"^  A  \[CLS\] .*\[SEP\]$", looked.stdout, re.MULTILINE)
    assert re.search(r"^  B  .*\[SEP\]$", looked.stdout, re.MULTILINE)
    counts = dict(re.findall(r"(padding|segment A|segment B|\[MASK\]|random token|unchanged) (\d+)", looked.stdout))
    assert len(counts) == 6 and all(int(count) > 0 for count in counts.values())
    assert sum(map(int, counts.values())) < 16 * 64
    assert float(re.search(r"predicted: ([\d.]+)% of", looked.stdout)[1]) == pytest.approx(15, abs=2)
    assert "[CLS] the boat is near the bank . [SEP]" in looked.stdout
    assert len(re.findall(r": layer [12], head [12] attends to it with \d+%$", looked.stdout, re.MULTILINE)) == 5
    bits = [float(bits) for bits in re.findall(r"(?:embeddings|layer \d) +([\d.]+) bits", looked.stdout)]
    assert len(bits) == 3 and all(0 < value <= np.log2(120) for value in bits)
    same, other = map(float, re.search(r"mean cosine ([\d.-]+) in the same sense, ([\d.-]+)", looked.stdout).groups())
    assert -1 <= other <= 1 and -1 <= same <= 1


@pytest.mark.notebooks
def test_a_search_engine(searched):
    check(searched, pictures=1)
    assert "108 pairs to learn from; 12 questions and paragraphs held out" in searched.stdout
    names = ("encoder", "TSDAE", "pairs", "reranker")
    found = {name: re.search(rf"^{name}: ndcg@10 ([\d.]+), recall@1 ", searched.stdout, re.MULTILINE) for name in names}
    assert all(0 <= float(match[1]) <= 1 for match in found.values())
    assert float(found["pairs"][1]) > 0.3 and "mined.jsonl" in {
        p.name for p in (searched.folder / "work/data").iterdir()
    }
    assert searched.stdout.rstrip().splitlines()[-3] == "The dial of machine 7 is near the lever."
    reranker = multi_vector.MultiVectorReranker(searched.folder / "work" / "colbert")
    assert len(reranker.rank("The dial", ["The lever of machine 1.", "The pump of machine 2."])) == 2
