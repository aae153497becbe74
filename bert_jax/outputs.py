"""Recognises what a local folder or file holds, so that no command writes over a thing of another kind."""

import fnmatch
import itertools
import json
import os
import pathlib
from collections.abc import Collection

from bert_jax import files, storage
from bert_jax.errors import UserError, quoted, shortened

CORPUS, UNFINISHED_CORPUS = "a prepared corpus", "an unfinished corpus"
PRETRAINING, FINETUNING = "a run of pre-training", "a run of fine-tuning"
MODEL = "a model in the Hugging Face format"
EXPERIMENT, JOB = "an experiment", "a job of an experiment"
INDEX = "the vectors of a corpus"
QUICKSTART = "a quickstart"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack")
_LEFTOVERS = {"lock", ".DS_Store", "lost+found"}
# What a user may have put into the folder of a run that is to begin: its log, its script, a copy of its recipe.
_BESIDE = (".log", ".out", ".err", ".sh", ".sbatch", ".py", ".pid")
# What a run writes: what is lost without its run.json, and what may lie there before it.
_LOST_WITHOUT_RUN = ("config.json", "tokenizer", "checkpoints", "metrics.jsonl", "summary.json")
_BESIDE_RUN = (
    "tensorboard", "predictions", "report.html", "profile", "profile-now", "hang-*.txt", "emergency.json",
    "compiled", "wandb", "mlruns", "phase-*",
)  # fmt: skip
_OF_RUN = (*_LOST_WITHOUT_RUN, "run.json", "lock", "tensorboard", "compiled", "wandb", "mlruns")
_OF_CORPUS = ("manifest.json", "tokenizer", "train", "eval", "index", "parts", "lock")
_OF_MODEL = (
    "config.json", "*.safetensors", "*.index.json", "pytorch_model*.bin", "tf_model.h5", "flax_model*.msgpack",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model", "modules.json", "*_config.json", "config_sentence_transformers.json",
    "[0-9]*_*",
)  # fmt: skip
# What commands wrote into a folder of each kind, as patterns of names, files or folders of it.
_OWN_NAMES = {
    CORPUS: _OF_CORPUS,
    UNFINISHED_CORPUS: _OF_CORPUS,
    PRETRAINING: _OF_RUN,
    FINETUNING: _OF_RUN,
    MODEL: _OF_MODEL,
    EXPERIMENT: ("experiment.json", "lock"),
    JOB: ("job.json", *_OF_RUN),
    INDEX: ("index.json", "vectors.npy", "ids.txt", "int8.npy", "int8_ranges.npy", "binary.npy", "lock"),
}
# Kinds whose folders hold nothing but what commands write there; beside a model or a run people keep results.
_CLOSED = (CORPUS, UNFINISHED_CORPUS, EXPERIMENT, INDEX)
_LOOKED_AT = 20  # folders in a folder, for a thing of some kind
_USES = {
    CORPUS: "--config.data.corpus reads it",
    UNFINISHED_CORPUS: "the same `prepare` continues it",
    PRETRAINING: "--workdir continues it, --model and --config.init_from read it",
    FINETUNING: "--workdir continues it, --model and --config.init_from read it",
    MODEL: "--model and --config.init_from read it",
    EXPERIMENT: "`launch` continues it, `report` reads it",
    JOB: "`launch` continues its experiment",
    INDEX: "`predict search --index` reads it",
    QUICKSTART: "`quickstart` continues it",
}


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
    if (folder / "index.json").is_file() and (folder / "vectors.npy").is_file():
        return INDEX
    if kind_below(folder, "corpus") in (CORPUS, UNFINISHED_CORPUS) and kind_below(folder, "run") == PRETRAINING:
        return QUICKSTART
    if (folder / "parts" / "settings.json").is_file():
        return UNFINISHED_CORPUS
    if "model_type" in _object(folder / "config.json") or any(any(folder.glob(name)) for name in _WEIGHTS):
        return MODEL
    return ""


def kind_below(folder: pathlib.Path, name: str) -> str:
    """Returns what the folder of a name in a folder holds, as `kind` does; "" where there is none."""
    return kind(folder / name) if (folder / name).is_dir() else ""


def is_empty(folder: str | os.PathLike) -> bool:
    """Returns whether a folder is missing, or holds nothing but what commands leave behind when they fail or end."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return all(map(is_leftover, names))


def is_leftover(name: str) -> bool:
    """Returns whether a file of this name is one that commands leave behind, or that operating systems add."""
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
        raise UserError(f"--{flag}={folder}: holds {held}; expected a new or empty folder ({_USES[held]})")


def check_unused(
    flag: str, folder: str | os.PathLike, own: Collection[str], names: Collection[str] = (), new: str = "run"
) -> None:
    """Refuses a folder that holds something else than the command's own: a thing of another kind, or other files.

    Logs, scripts, recipes and hidden files may lie in it beside what the command will write.

    Args:
      flag: the flag that names the folder, such as "workdir", for messages.
      folder: the folder; it may be missing. URLs are not looked at.
      own: the kinds that the command writes itself, and deals with.
      names: patterns of the names that the command itself may have left there before it was of its kind.
      new: name of a folder in it that the message offers.

    Raises:
      UserError: it is a file, or holds a thing of another kind or other files.
    """
    check_folder(flag, folder, own)
    path = pathlib.Path(folder)
    if storage.is_remote(folder) or not path.exists() or kind(path):
        return
    foreign = sorted(
        name
        for name in os.listdir(path)
        if not (is_leftover(name) or _is_beside(name) or any(fnmatch.fnmatchcase(name, own) for own in names))
    )
    if not foreign:
        return
    held = next(filter(None, (kind_below(path, name) for name in foreign[:_LOOKED_AT])), "")
    shown = next(name for name in foreign if not held or kind_below(path, name) == held)
    shown = f"{shown} ({held})" if held else shown
    more = f" and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
    raise UserError(
        f"--{flag}={folder}: holds other files, {shortened(shown, 80)}{more}; expected a new or empty folder, such as "
        f"--{flag}={quoted(str(unused_path(path, new)))}"
    )


def check_workdir(workdir: str | os.PathLike) -> None:
    """Raises UserError for a local workdir whose files no run has written, before anything is written there."""
    check_unused("workdir", workdir, (PRETRAINING, FINETUNING), (*_LOST_WITHOUT_RUN, *_BESIDE_RUN))
    path = pathlib.Path(workdir)
    if storage.is_remote(workdir) or (path / "run.json").exists() or (path / "lock").exists():
        return
    for name in _LOST_WITHOUT_RUN:
        if (path / name).exists():
            raise UserError(f"--workdir={workdir}: holds {name}, but no run; expected a new or empty folder")


def _is_beside(name):
    return name.startswith(".") or name.endswith(_BESIDE)


def unused_path(folder: str | os.PathLike, name: str) -> pathlib.Path:
    """Returns the path of something new in a folder: the name given, with a number behind it if it is taken."""
    numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in (pathlib.Path(folder) / free for free in numbered) if not path.exists())


def free_folder(path: str) -> str:
    """Returns the path of a folder that is missing or empty: the one given, else one with a number behind it."""
    numbered = itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2)))
    return next(free for free in numbered if not os.path.isfile(free) and is_empty(free))


def check_file(flag: str, path: str | os.PathLike, makes_folder: bool = False) -> None:
    """Refuses a file that cannot be written, before anything is computed for it; "-" and devices are taken as they are.

    Args:
      flag: the flag that names the file, such as "output", for messages.
      path: the file; it may be missing.
      makes_folder: whether the command makes the file's folder where that is missing.

    Raises:
      UserError: it is a folder, belongs to a run, corpus, model or index that lies there, would lie in the folder of a
        corpus, an index or an experiment, or its folder is missing or not writable.
    """
    if files.is_stream(path):
        return
    target = pathlib.Path(path)
    if target.is_dir():
        raise UserError(f"--{flag}={path}: a folder; expected a file")
    if owner := _owner(target):
        holder, name = owner
        raise UserError(f"--{flag}={path}: {name} of {kind(holder)} ({holder}); expected another name, or a new file")
    if holders := _closed_holders(target):
        inner, outer = (folder if target.is_absolute() else os.path.relpath(folder) for folder in holders)
        free = quoted(os.path.normpath(unused_path(os.path.dirname(outer), target.name)))
        raise UserError(
            f"--{flag}={path}: inside {kind(inner)} ({inner}); expected a file elsewhere, such as --{flag}={free}"
        )
    folder = target.absolute().parent
    if makes_folder:
        folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not folder.is_dir():
        near = files.closest_path(target.parent, is_folder=True)
        raise UserError(f"--{flag}={path}: no such folder {target.parent}; expected a file in one that exists{near}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--{flag}={path}: cannot be written: Permission denied; expected a file in a folder of yours")


def _closed_holders(target):
    """Returns the innermost and the outermost folder around a file that hold what commands write and nothing else.

    None where there is no such folder, or a run or a model in it is nearer.
    """
    folders = [folder for folder in (target.parent.resolve() / target.name).parents if kind(folder)]
    closed = [folder for folder in folders if kind(folder) in _CLOSED]
    return (closed[0], closed[-1]) if closed and closed[0] == folders[0] else None


def _owner(target):
    """Returns (a folder of some kind, name below it) where an existing file is one that the kind consists of."""
    if not target.exists():
        return None
    target = pathlib.Path(os.path.realpath(target))  # which is what is written over
    for folder in target.parents:
        below = target.relative_to(folder)
        if any(fnmatch.fnmatchcase(below.parts[0], name) for name in _OWN_NAMES.get(kind(folder), ())):
            return folder, below
    return None


def _object(path):
    """Returns the JSON object of a file; {} if there is none, or something else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
