"""Names the paths of a run's directory, and reads and writes the files that describe the run.

    WORKDIR/run.json        format version; path and fingerprint of each corpus; for distillation, name and digest of
                            the teacher; for a branch, workdir and step of the checkpoint it began with; for fine-tuning
                            ("kind": "finetune"), see finetuning/description.py
    WORKDIR/config.json     every setting; for pre-training with model.vocab_size filled in
    WORKDIR/tokenizer/      the tokenizer, read by vocabularies.loading.load
    WORKDIR/checkpoints/    see checkpoint_files.py
    WORKDIR/metrics.jsonl, WORKDIR/tensorboard/    see loggers.py
    WORKDIR/summary.json, WORKDIR/predictions/    of fine-tuning: see finetuning/results.py
    WORKDIR/emergency.json  the run's id, where it has written a copy of its state elsewhere: see emergency.py
    WORKDIR/lock            held while a process trains here: see claim.py

A workdir is a local directory or gs://BUCKET/FOLDER. In gs:// every object appears whole, but nothing is locked: the
user has to make sure that no two runs train in one workdir; `lock` names the process that began last.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import ml_collections
from etils import epath

from bert_jax import _moved, files, storage
from bert_jax import config as config_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.config.keys import FINETUNING, PRETRAINING
from bert_jax.errors import UserError, command_line

if TYPE_CHECKING:
    from bert_jax.data.corpus import Corpus

FORMAT_VERSION = 1


def to_path(name: str | os.PathLike, flag: str = "") -> pathlib.Path:
    """Returns a workdir's path: a pathlib.Path, or an epath.Path with the same methods for gs://BUCKET/FOLDER.

    Args:
      name: the workdir, or any other local path.
      flag: the flag that it came from, such as "--workdir=", for messages.

    Raises:
      UserError: remote storage that no run can be in, or that needs a package which is not installed.
    """
    if not storage.is_remote(name):
        return pathlib.Path(name)
    if not re.fullmatch(r"gs://[^/]+(/.*)?", str(name)):  # Orbax writes to no other
        raise UserError(f"{flag}{name}: no place for a run; expected a local directory or gs://BUCKET/FOLDER")
    missing = [package for package, module in _PACKAGES.items() if not _installed(module)]
    if missing:
        raise UserError(f"{flag}{name}: not installed: {', '.join(missing)}; expected them for gs://")
    import fsspec

    # What Orbax writes by itself would not be seen in listings that were kept.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return cast(pathlib.Path, epath.Path(str(name).rstrip("/")))


_PACKAGES = {"gcsfs": "gcsfs", "google-cloud-storage": "google.cloud.storage"}


def _installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor its parent package
        return False


def split_step(name: str | os.PathLike) -> tuple[str, int | str | None]:
    """Splits WORKDIR@STEP into the workdir and the step: a number, "best", "mean:K" or "ema:DECAY"; None without one.

    A local path that exists is taken as it is, with its "@".
    """
    match = re.fullmatch(r"(.+)@(\d+|best|mean:\w*|ema:[\w.]*)", str(name))
    if match is None or (not storage.is_remote(name) and pathlib.Path(name).exists()):
        return str(name), None
    return match[1], int(match[2]) if match[2].isdecimal() else match[2]


def name_and_step(name: str, step: str | None) -> tuple[str, int | str | None]:
    """Returns a model's name and its step from a command's flags, either of which may say the step.

    Args:
      name: value of the flag that names the model, perhaps WORKDIR@STEP.
      step: value of --step: a number, "best", "mean:K" or "ema:DECAY"; "" or None without one.

    Raises:
      UserError: --step is none of these, or both say a step.
    """
    name, named = split_step(name)
    if not step:
        return name, named
    if named is not None:
        raise UserError(f"--step={step}: {name}@{named} names a step too; expected one of them")
    if not re.fullmatch(r"\d+|best|mean:\d+|ema:\d*\.\d+", step):
        raise UserError(
            f"--step={step}: expected the number of a step, best, mean:K for the mean of the newest K, or ema:DECAY "
            "for an exponential average, such as ema:0.9"
        )
    return name, int(step) if step.isdecimal() else step


def holds_run(name: str | os.PathLike) -> bool:
    """Returns whether a directory is a run's workdir.

    Raises:
      UserError: it is remote and holds no run, or its run.json is lost.
    """
    path = to_path(name)
    with storage.reporting(str(name)):
        exists = (path / "run.json").exists()
        lost = not exists and (path / "checkpoints").is_dir()
    if lost:
        raise UserError(f"{name}: it has checkpoints/, but no run.json; expected both, as the run wrote them")
    if not exists and storage.is_remote(name):
        raise UserError(f"{name}: no run.json there; expected a run's workdir, or a model on a local disk")
    return exists


def write_pretraining(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    corpora: "list[Corpus]",
    teacher: Mapping[str, str] | None = None,
    branched_from: Mapping[str, Any] | None = None,
    begins: bool = False,
) -> None:
    """Writes tokenizer/, run.json and config.json of a pre-training run, each whole or not at all.

    Args:
      workdir: the run's workdir.
      config: the run's config.
      corpora: the run's corpora.
      teacher: name and digest of the teacher of distillation.
      branched_from: workdir and step of the checkpoint that the run begins with; None keeps what run.json says.
      begins: whether the run has no checkpoint yet, so that the files of another one that had none are replaced.

    Raises:
      UserError: the directory cannot be written.
    """
    tokenizer = pathlib.Path(corpora[0].path) / "tokenizer"
    run = {"corpora": corpus_identities(corpora)} | ({"teacher": dict(teacher)} if teacher else {})
    if branched_from is None and not begins and (workdir / "config.json").exists():
        branched_from = read(workdir)[0].get("branched_from")
    run |= {"branched_from": dict(branched_from)} if branched_from else {}
    write_run(workdir, config, run, lambda directory: shutil.copytree(tokenizer, directory, dirs_exist_ok=True), begins)


@contextlib.contextmanager
def local_tokenizer(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a local directory with a run's tokenizer; a workdir in gs:// is copied for as long as the block runs."""
    if not storage.is_remote(workdir):
        yield workdir / "tokenizer"
        return
    with files.temporary_folder("bert_jax-tokenizer-") as folder:
        storage.download_folder(str(workdir / "tokenizer"), pathlib.Path(folder))
        yield pathlib.Path(folder)


def write_run(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    run: Mapping,
    save_tokenizer: Callable[[pathlib.Path], object],
    begins: bool = False,
) -> None:
    """Writes tokenizer/ if it is not there, run.json and config.json, each whole or not at all.

    Args:
      workdir: the run's workdir.
      config: the run's config.
      run: the content of run.json, without the format version.
      save_tokenizer: writes the tokenizer's files into a directory, which it makes where it is missing.
      begins: as in `write_pretraining`.

    Raises:
      UserError: the directory cannot be written.
    """
    try:
        tokenizer = workdir / "tokenizer"
        if storage.is_remote(workdir):
            if begins or not (workdir / "config.json").exists():  # which is written last
                with files.temporary_folder("bert_jax-tokenizer-") as folder:
                    save_tokenizer(pathlib.Path(folder) / "tokenizer")
                    storage.upload_folder(pathlib.Path(folder) / "tokenizer", str(tokenizer))
        elif begins or not tokenizer.exists():
            if tokenizer.exists():
                shutil.rmtree(tokenizer)
            with files.atomic_folder(tokenizer) as folder:
                save_tokenizer(folder)
        storage.write_json(workdir / "run.json", {"format_version": FORMAT_VERSION, **run})
        storage.write_json(workdir / "config.json", config.to_dict())
    except OSError as error:
        raise not_writable(workdir, error) from error


def read(workdir: pathlib.Path) -> tuple[dict, ml_collections.ConfigDict]:
    """Returns the content of run.json, and the config of config.json. Raises UserError if there is no run."""
    try:
        with storage.reporting(str(workdir)):
            run = json.loads((workdir / "run.json").read_text())
            stored = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError) as error:
        missing = not storage.is_remote(workdir) and not workdir.exists()
        reason = "no such folder" if missing else f"not the workdir of a run: {error}"
        raise UserError(
            f"{workdir}: {reason}; expected a directory that `{command_line('pretrain')}` or "
            f"`{command_line('finetune')}` wrote{files.closest_path(workdir, is_folder=True) if missing else ''}"
        ) from error
    if run.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{workdir}/run.json: format_version {run.get('format_version')}; this version of bert_jax reads "
            f"{FORMAT_VERSION}"
        )
    try:
        return run, config_from_json(stored)
    except UserError as error:
        raise UserError(f"{workdir}/config.json: {error}") from error


def text_columns(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the columns of texts in the data of a fine-tuning config; () of pre-training and question answering."""
    task = config.get("task") or {}
    if not task or task["name"] == "question_answering":  # whose columns are SQuAD's
        return ()
    if task["name"] == "reranking":
        return task["query"], task["document"]
    return tuple(name for name in (task["text"], task["text_pair"]) if name)


def exported_columns(folder: str | os.PathLike) -> tuple[str, ...]:
    """Returns the columns of texts that `convert` wrote in a directory's config.json; () where there are none."""
    try:
        columns = json.loads((pathlib.Path(folder) / "config.json").read_text("utf-8"))["bert_jax"]["columns"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(columns) if isinstance(columns, list) else ()


def corpus_identities(corpora: "Sequence[Corpus]") -> list[dict[str, str]]:
    """Returns what run.json says of each corpus: its path, its fingerprint and, where it is known, its language."""
    return [
        {"path": str(corpus.path), "fingerprint": corpus.fingerprint}
        | ({"language": corpus.language} if corpus.language else {})
        for corpus in corpora
    ]


def config_from_json(stored: dict) -> ml_collections.ConfigDict:
    """Returns the config of config.json's content; keys that a later version added have their `Key.value_before`."""
    config = finetune_config.schema_of(stored)
    config.update_from_flattened_dict(values_before(stored))
    for key, value in config_lib.flat(stored).items():
        config_lib.check_key(key, config)
        group, _, name = key.rpartition(".")
        owner = config[group] if group else config
        owner[name] = tuple(value) if isinstance(owner[name], tuple) else value
    return config


def values_before(stored: Mapping) -> dict[str, Any]:
    """Returns the keys that config.json's content lacks, with the values that say what its run does without them."""
    keys = FINETUNING if "task" in stored else PRETRAINING
    known = config_lib.flat(stored)
    return {name: key.value_before for name, key in keys.items() if name not in known}


def not_writable(workdir: pathlib.Path, error: OSError) -> UserError:
    """Returns the error that says that a workdir cannot be written."""
    reason = error.strerror or error
    return UserError(f"--workdir={workdir}: cannot be written: {reason}; name another, or make room")


def __getattr__(name):
    return _moved.find("runs.workdir", name)
