"""Runs each notebook as a user does, in its own kernel and an empty folder, with settings that take seconds."""

import base64
import io
import json
import os
import pathlib
import random

import matplotlib.font_manager  # builds the font cache once, here: a kernel would print a notice about it
import matplotlib.image
import nbclient
import nbformat
import numpy as np
import pytest

from bert_jax.interop import huggingface
from bert_jax.runs.models import open_model
from experiments.notebooks.tidy import FOLDER
from tests.commands import LONGEST_WAIT

PATHS = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
SUBJECTS = {"river": ("boat", "water", "reed"), "money": ("loan", "cheque", "account")}


class Executed:
    """Holds what a notebook printed and showed when it ran.

    Attributes:
      folder: working directory of the kernel.
      cells: code cells with their outputs.
      stdout, stderr: everything that the cells printed.
      errors: outputs of type "error".
      pictures: the PNGs shown, in order, as arrays [height, width, channels] in [0, 1].
    """

    def __init__(self, notebook, folder):
        self.folder = folder
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        outputs = [output for cell in self.cells for output in cell.outputs]
        self.stdout = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
        self.stderr = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stderr")
        self.errors = [output for output in outputs if output.output_type == "error"]
        encoded = [o.data["image/png"] for o in outputs if o.output_type == "display_data" and "image/png" in o.data]
        self.pictures = [matplotlib.image.imread(io.BytesIO(base64.b64decode(png))) for png in encoded]


def execute(name, folder, /, **settings):
    """Runs a notebook in `folder`; `settings` go into a cell behind the one tagged "parameters", as with papermill."""
    notebook = nbformat.read(PATHS[name], as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    source = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    # One CPU device, as most machines have; the notebook itself sets JAX_PLATFORMS.
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiled quickly
    folder.mkdir(parents=True)
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=LONGEST_WAIT, kernel_name="python3", resources=where).execute(
        env=environment
    )
    return Executed(notebook, folder)


def write_text(path):
    """Writes documents of made-up sentences about the banks of rivers and banks for money."""
    chance = random.Random(0)

    def sentence(subject):
        first, second = chance.sample(SUBJECTS[subject], 2)
        return chance.choice(
            [f"The {first} is near the bank.", f"A {first} and a {second} are at the bank of the {subject}."]
        )

    documents = [chance.choice(list(SUBJECTS)) for _ in range(150)]
    path.write_text("\n\n".join("\n".join(sentence(s) for _ in range(8)) for s in documents) + "\n")


def write_manuals(path):
    """Writes paragraphs whose sentences share the number of a machine, which tells them apart."""
    chance = random.Random(0)
    parts = ("dial", "lever", "handle", "pump", "valve", "wheel")

    def sentence(number):
        first, second = chance.sample(parts, 2)
        return f"The {first} of machine {number} is near the {second}."

    numbers = [chance.sample(range(10), 3) for _ in range(120)]
    path.write_text("\n\n".join(" ".join(sentence("".join(map(str, n))) for _ in range(4)) for n in numbers) + "\n")


def write_task(path, number, seed):
    """Writes texts in which one word decides the label, river or money."""
    chance = random.Random(seed)
    with path.open("w") as file:
        for _ in range(number):
            label = chance.choice(list(SUBJECTS))
            words = [chance.choice(SUBJECTS[label]), *chance.choices(("the", "a", "and", "bank", "is", "near"), k=4)]
            chance.shuffle(words)
            file.write(json.dumps({"sentence": " ".join(words), "label": label}) + "\n")


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> pathlib.Path:
    """Makes a folder with text.txt, manuals.txt, train.jsonl and dev.jsonl."""
    folder = tmp_path_factory.mktemp("material")
    write_text(folder / "text.txt")
    write_manuals(folder / "manuals.txt")
    write_task(folder / "train.jsonl", 120, seed=0)
    write_task(folder / "dev.jsonl", 40, seed=1)
    return folder


@pytest.fixture(scope="session")
def pretrained(material, tmp_path_factory) -> Executed:
    sizes = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "max_positions": 64}
    return execute(
        "pretrain_on_tpu",
        tmp_path_factory.mktemp("notebooks") / "pretrain",
        text=str(material / "text.txt"),
        folder="work",
        num_steps=60,
        vocabulary=120,
        overrides={f"model.{key}": size for key, size in sizes.items()} | {"train.eval_batches": 2},
        sentences=["The [MASK] is near the bank.", "A loan and a [MASK] are at the [MASK]."],
    )


@pytest.fixture(scope="session")
def checkpoint(pretrained) -> str:
    """Writes the pre-trained model as a small Hugging Face directory."""
    path = pretrained.folder / "huggingface"
    huggingface.write(open_model(pretrained.folder / "work" / "run"), path)
    return str(path)


@pytest.fixture(scope="session")
def finetuned(material, checkpoint, tmp_path_factory) -> Executed:
    return execute(
        "finetune_and_export",
        tmp_path_factory.mktemp("notebooks") / "finetune",
        model=checkpoint,
        train=str(material / "train.jsonl"),
        held_out=str(material / "dev.jsonl"),
        folder="work",
        num_steps=40,
        overrides={"optimizer.learning_rate": 5e-3, "data.batch_size": 16, "data.buckets": (32,)},
        texts=["the boat is near", "a loan and a bank", "near is the water"],
    )


@pytest.fixture(scope="session")
def looked(material, checkpoint, tmp_path_factory) -> Executed:
    return execute(
        "look_inside",
        tmp_path_factory.mktemp("notebooks") / "look",
        model=checkpoint,
        text=str(material / "text.txt"),
        folder="work",
        sentence="The boat is near the bank.",
        masked="The [MASK] is near the bank.",
    )


@pytest.fixture(scope="session")
def searched(material, tmp_path_factory) -> Executed:
    sizes = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "max_positions": 128}
    return execute(
        "search_engine",
        tmp_path_factory.mktemp("notebooks") / "search",
        text=str(material / "manuals.txt"),
        folder="work",
        overrides={"pretraining": 30, "vocabulary": 120, "steps": 60, "batch": 16, "rate": 3e-3}
        | {f"model.{key}": size for key, size in sizes.items()},
        questions=["The dial of machine 7 is near the lever."],
    )


def interesting(picture: np.ndarray) -> bool:
    """Tells whether a picture shows more than an empty frame: many colours, on more than a hundredth of its area."""
    colours = np.unique((picture[..., :3].reshape(-1, 3) * 255).round().astype(int), axis=0)
    drawn = (picture[..., :3] < 0.95).any(-1).mean()
    return min(picture.shape[:2]) > 150 and len(colours) > 20 and drawn > 0.01
