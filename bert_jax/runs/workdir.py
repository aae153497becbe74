"""A run's directory, and what makes it that run's: its config, its corpora, its tokenizer.

    WORKDIR/run.json        format version; path and fingerprint of each corpus; of distillation, name and digest of
                            the teacher; of fine-tuning ("kind": "finetune") the model, its head, labels and what else
                            opening it needs
    WORKDIR/config.json     every setting; of pre-training, model.vocab_size filled in
    WORKDIR/tokenizer/      the tokenizer, read by vocabularies.loading.load
    WORKDIR/checkpoints/    see checkpoint.py
    WORKDIR/metrics.jsonl, WORKDIR/tensorboard/    see metrics.py
    WORKDIR/summary.json, WORKDIR/predictions/    of fine-tuning: see finetuning.py
    WORKDIR/lock            held while a process trains here

A workdir is a local directory or gs://BUCKET/FOLDER. There, what is written appears whole by itself, but nothing is
locked: that no two runs train in one is the user's to see to; `lock` names who began last.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import pathlib
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import ml_collections
from etils import epath

from bert_jax import _moved, files, storage
from bert_jax import config as config_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.config.keys import PATHS, RESUMABLE
from bert_jax.errors import UserError

if TYPE_CHECKING:
    from bert_jax.data.corpus import Corpus

FORMAT_VERSION = 1


def to_path(name: str | os.PathLike, flag: str = "") -> pathlib.Path:
    """A workdir's path: of pathlib, or of epath, which knows the same verbs, for gs://BUCKET/FOLDER.

    Args:
      name: the workdir, or any other local path.
      flag: what gave it, such as "--workdir=", for messages.

    Raises:
      UserError: remote storage that no run can be in, or that lacks a package.
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
    return epath.Path(str(name).rstrip("/"))


_PACKAGES = {"gcsfs": "gcsfs", "google-cloud-storage": "google.cloud.storage"}


def _installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor what it would be in
        return False


def holds_run(name: str | os.PathLike) -> bool:
    """Whether this is a run's workdir. Raises UserError for remote storage that is none, and where run.json is lost."""
    path = to_path(name)
    with storage.reporting(str(name)):
        found = (path / "run.json").exists()
        lost = not found and (path / "checkpoints").is_dir()
    if lost:
        raise UserError(f"{name}: it has checkpoints/, but no run.json; expected both, as the run wrote them")
    if not found and storage.is_remote(name):
        raise UserError(f"{name}: no run.json there; expected a run's workdir, or a model on a local disk")
    return found


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the directory and holds its lock meanwhile, or until this process ends; of several processes, one does.

    gs:// knows no locks: there, only whether it can be written is found out.

    Raises:
      UserError: the directory cannot be written, another run trains in it, or not all processes see the same one.
    """
    from bert_jax.processes import distributed  # here, because it imports jax, which reading a run needs none of

    with contextlib.ExitStack() as stack:
        mark = distributed.broadcast(lambda: _lock(workdir, stack))
        try:
            with storage.reporting(str(workdir)):
                seen = (workdir / "lock").read_text()
        except OSError:
            seen = ""
        label = distributed.process_label()
        other = f"{label}--workdir={workdir}: not the directory that process 0 sees; expected one for all"
        distributed.raise_on_all("" if seen == mark else other)
        yield


def _lock(workdir, stack):
    """Locks the directory until the stack is left; what the lock's file holds, which no other lock's does."""
    if storage.is_remote(workdir):
        mark = f"{os.getpid()} on {socket.gethostname()}\n{uuid.uuid4()}\n"
        try:
            storage.write_text(workdir / "lock", mark)
        except OSError as error:
            raise _not_writable(workdir, error) from error
        return mark
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(open(workdir / "lock", "a+b", buffering=0))  # noqa: SIM115
    except OSError as error:
        raise _not_writable(workdir, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.readline().decode().strip()
        raise UserError(
            f"--workdir={workdir}: process {holder} is training there; wait for it, or name another"
        ) from error
    mark = f"{os.getpid()}\n{uuid.uuid4()}\n"
    try:
        lock.truncate(0)
        lock.write(mark.encode())
        os.fsync(lock.fileno())  # a full disk may accept an empty file
    except OSError as error:
        raise _not_writable(workdir, error) from error
    return mark


def check_same_run(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    corpora: "Sequence[Corpus]" = (),
    teacher: Mapping[str, str] | None = None,
) -> None:
    """Raises UserError if not every process of the run was given this workdir, this config, corpora and teacher."""
    from bert_jax.processes import distributed

    values = {f"config.{key}": value for key, value in _flat(config.to_dict()) if key not in PATHS}
    fingerprints = [corpus.fingerprint for corpus in corpora]
    held = {"config.data.corpus (fingerprint)": fingerprints}
    if teacher:
        held["config.distillation.teacher (digest)"] = teacher["digest"]
    distributed.check_same({"--workdir": str(workdir)} | held | values)


def check_run(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    corpora: "list[Corpus]",
    teacher: Mapping[str, str] | None = None,
) -> None:
    """Raises UserError if the directory holds the run of another config, corpus or teacher; it may hold none."""
    run = check_config(workdir, config)
    if run is None:
        return
    old, new = run["corpora"], _identities(corpora)
    if [corpus["fingerprint"] for corpus in old] != [corpus["fingerprint"] for corpus in new]:
        raise UserError(
            f"--workdir={workdir}: its run began with corpus {_named(old)}, but config.data.corpus is "
            f"{_named(new)}; give the old corpus, or another --workdir"
        )
    if teacher and run["teacher"]["digest"] != teacher["digest"]:
        old = run["teacher"]
        raise UserError(
            f"--workdir={workdir}: its run began with the teacher {old['name']} (digest {old['digest'][:12]}), but "
            f"config.distillation.teacher={teacher['name']} has other parameters ({teacher['digest'][:12]}); give the "
            "old teacher, or another --workdir"
        )


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict | None:
    """What run.json holds; None if there is no run yet. Raises UserError for the run of another config."""
    if not (workdir / "config.json").exists():
        if (workdir / "manifest.json").exists():
            raise UserError(f"--workdir={workdir}: holds a prepared corpus (manifest.json); expected another folder")
        return None
    run, before = read(workdir)
    if ("task" in before) != ("task" in config):
        kind = "fine-tuning" if "task" in before else "pre-training"
        raise UserError(f"--workdir={workdir}: holds a run of {kind}; name another")
    changed = [
        f"config.{key}={old!r}, found {new!r}"
        for key, (old, new) in _differences(before, _plain(config)).items()
        if key not in RESUMABLE
    ]
    if changed:
        raise UserError(
            f"--workdir={workdir}: its run began with {'; '.join(changed)}; give the old value, or another --workdir"
        )
    return run


def write_pretraining(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    corpora: "list[Corpus]",
    teacher: Mapping[str, str] | None = None,
) -> None:
    """Writes tokenizer/, run.json and config.json of pre-training, each whole or not at all. Raises UserError."""
    tokenizer = pathlib.Path(corpora[0].path) / "tokenizer"
    run = {"corpora": _identities(corpora)} | ({"teacher": dict(teacher)} if teacher else {})
    write_run(workdir, config, run, lambda directory: shutil.copytree(tokenizer, directory, dirs_exist_ok=True))


@contextlib.contextmanager
def local_tokenizer(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """The local directory with a run's tokenizer, for as long as it takes to read it."""
    if not storage.is_remote(workdir):
        yield workdir / "tokenizer"
        return
    with tempfile.TemporaryDirectory(prefix="bert_jax-tokenizer-") as folder:
        storage.download_folder(str(workdir / "tokenizer"), pathlib.Path(folder))
        yield pathlib.Path(folder)


def write_run(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    run: Mapping,
    save_tokenizer: Callable[[pathlib.Path], object],
) -> None:
    """Writes tokenizer/ if it is not there, run.json and config.json, each whole or not at all.

    Args:
      workdir: the run's.
      config: the run's.
      run: what run.json holds beside the format version.
      save_tokenizer: writes the tokenizer's files into a directory, which it makes where it is missing.

    Raises:
      UserError: the directory cannot be written.
    """
    try:
        tokenizer = workdir / "tokenizer"
        if storage.is_remote(workdir):
            if not (workdir / "config.json").exists():  # which is written last
                with tempfile.TemporaryDirectory(prefix="bert_jax-tokenizer-") as folder:
                    save_tokenizer(pathlib.Path(folder) / "tokenizer")
                    storage.upload_folder(pathlib.Path(folder) / "tokenizer", str(tokenizer))
        elif not tokenizer.exists():
            with files.atomic_folder(tokenizer) as folder:
                save_tokenizer(folder)
        storage.write_json(workdir / "run.json", {"format_version": FORMAT_VERSION, **run})
        storage.write_json(workdir / "config.json", config.to_dict())
    except OSError as error:
        raise _not_writable(workdir, error) from error


def read(workdir: pathlib.Path) -> tuple[dict, ml_collections.ConfigDict]:
    """What run.json and config.json hold. Raises UserError if this is no run's directory."""
    try:
        with storage.reporting(str(workdir)):
            run = json.loads((workdir / "run.json").read_text())
            stored = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{workdir}: not the workdir of a run: {error}; "
            "expected a directory that `python -m bert_jax.pretrain` or `finetune` wrote"
        ) from error
    if run.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{workdir}/run.json: format_version {run.get('format_version')}; this version of bert_jax reads "
            f"{FORMAT_VERSION}"
        )
    return run, _from_plain(stored)


def _from_plain(stored):
    """A config with the stored values; keys that a later version added keep their defaults."""
    config = finetune_config.schema_of(stored)
    for key, value in _flat(stored):
        config_lib.check_key(key, config)
        group, _, name = key.rpartition(".")
        owner = config[group] if group else config
        owner[name] = tuple(value) if isinstance(owner[name], tuple) else value
    return config


def _plain(config):
    return _from_plain(json.loads(json.dumps(config.to_dict())))


def _differences(before, after):
    after = dict(_flat(after.to_dict()))
    return {key: (old, after[key]) for key, old in _flat(before.to_dict()) if old != after[key]}


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _identities(corpora):
    return [{"path": str(corpus.path), "fingerprint": corpus.fingerprint} for corpus in corpora]


def _named(identities):
    return ", ".join(f"{corpus['path']} (fingerprint {corpus['fingerprint'][:12]})" for corpus in identities)


def _not_writable(workdir, error):
    reason = error.strerror or error
    return UserError(f"--workdir={workdir}: cannot be written: {reason}; name another, or make room")


def __getattr__(name):
    return _moved.find("runs.workdir", name)
