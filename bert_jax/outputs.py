"""Recognises what a local folder or file holds, so that no command writes over a thing of another kind."""

import json
import os
import pathlib
from collections.abc import Collection

from bert_jax import files, storage
from bert_jax.errors import UserError

CORPUS, UNFINISHED_CORPUS = "a prepared corpus", "an unfinished corpus"
PRETRAINING, FINETUNING = "a run of pre-training", "a run of fine-tuning"
MODEL = "a model in the Hugging Face format"
EXPERIMENT, JOB = "an experiment", "a job of an experiment"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack")
_LEFTOVERS = {"lock", ".DS_Store", "lost+found"}


def kind(folder: str | os.PathLike) -> str:
    """Returns what a local folder holds, as one of this module's constants; "" for anything else, or nothing."""
    folder = pathlib.Path(folder)
    if (folder / "experiment.json").is_file():
        return EXPERIMENT
    if (folder / "job.json").is_file():
        return JOB
    if (folder / "run.json").is_file():
        return FINETUNING if "task" in _object(folder / "config.json") else PRETRAINING
    if (folder / "manifest.json").is_file() and (folder / "tokenizer").is_dir():
        return CORPUS
    if (folder / "parts" / "settings.json").is_file():
        return UNFINISHED_CORPUS
    if "model_type" in _object(folder / "config.json") or any(any(folder.glob(name)) for name in _WEIGHTS):
        return MODEL
    return ""


def is_empty(folder: str | os.PathLike) -> bool:
    """Returns whether a folder is missing, or holds nothing but what commands leave behind when they fail or end."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return all(map(is_leftover, names))


def is_leftover(name: str) -> bool:
    """Returns whether a file of this name is what commands leave behind when they fail or end, or of no meaning."""
    return name in _LEFTOVERS or name.endswith(".partial")


def check_folder(flag: str, folder: str | os.PathLike, own: Collection[str]) -> None:
    """Refuses a folder that a command would write into though it is of another kind; URLs are not looked at.

    Args:
      flag: the flag that names the folder, such as "workdir", for messages.
      folder: the folder; it may be missing.
      own: the kinds that the command writes itself, and deals with.

    Raises:
      UserError: it is a file, or holds a thing of another kind.
    """
    if storage.is_remote(folder):
        return
    path = pathlib.Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"--{flag}={folder}: a file; expected a folder")
    try:
        held = kind(path)
        is_empty(path)
    except OSError as error:
        raise UserError(f"--{flag}={folder}: cannot be read: {error.strerror}; expected a folder of yours") from error
    if held and held not in own:
        raise UserError(f"--{flag}={folder}: holds {held}; expected a new or empty folder")


def check_file(flag: str, path: str | os.PathLike, makes_folder: bool = False) -> None:
    """Refuses a file that cannot be written, before anything is computed for it; "-" and devices are taken as they are.

    Args:
      flag: the flag that names the file, such as "output", for messages.
      path: the file; it may be missing.
      makes_folder: whether the command makes the file's folder where that is missing.

    Raises:
      UserError: it is a folder, or its folder is missing or not writable.
    """
    if files.is_stream(path):
        return
    target = pathlib.Path(path)
    if target.is_dir():
        raise UserError(f"--{flag}={path}: a folder; expected a file")
    folder = target.absolute().parent
    if makes_folder:
        folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not folder.is_dir():
        raise UserError(f"--{flag}={path}: no such folder {target.parent}; expected a file in one that exists")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--{flag}={path}: cannot be written: Permission denied; expected a file in a folder of yours")


def _object(path):
    """Returns the JSON object of a file; {} if there is none, or something else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
