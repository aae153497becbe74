"""Reads and writes the folder of an experiment.

WORKDIR/experiment.json       the experiment, and the command that launched it
WORKDIR/corpus/, tasks/       made by the launcher, unless it was given them
WORKDIR/lock                  held by the launcher
WORKDIR/tuning.json           the pre-training rate of each arm, and what it was chosen from, if rates are tuned
WORKDIR/ARM/tune-RATE/        folders of the jobs that rates are chosen from
WORKDIR/ARM/seed-SEED/        the folder of a job:
    job.json                  the job that run_job runs
    starts.jsonl              each start: time, machine, code, packages
    diff-SHA.patch            uncommitted changes of the working tree at a start, if any
    log.txt                   output of all starts
    pretrain/, finetune-TASK/ workdirs of the runs
    common.json               metrics of the evaluation that is the same for all arms
    along.jsonl               the same for each kept checkpoint of pre-training, in the order of steps
    tune-TASK-RATE/           workdirs of the runs that a fine-tuning rate is chosen from
    result.json               results of a finished job
    failed.json               why the job failed at its last start
    lock                      held by the process that runs the job
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bert_jax import files
from bert_jax.config.keys import PRETRAINING, with_role
from bert_jax.errors import UserError, shortened

from ..experiment import Experiment, Job

FORMAT_VERSION = 1
HERE = "$WORKDIR"  # stands for the experiment's folder in job.json, so that the folder may be moved or mounted
LAST_LINES = 20
_KEPT = with_role(PRETRAINING, "checkpoints")
_LOCK_WAIT = 0.5  # seconds


def described(
    experiment: Experiment, name: str, scale: str, corpus: str, command: str, changed_by_flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the content of experiment.json; `changed_by_flags` are the flags that changed the experiment's file."""
    fields = dataclasses.asdict(experiment)
    del fields["text"]
    if fields["tuning"] is None:  # as experiments were written before there was tuning
        del fields["tuning"]
    for task in fields["fine_tuning"]:
        if task["rates"] is None:
            del task["rates"]
    return {
        "format_version": FORMAT_VERSION, "name": name, "scale": scale, **fields, "corpus": corpus, "command": command,
        "changed_by_flags": changed_by_flags,
    }  # fmt: skip


def check_experiment(workdir: pathlib.Path, content: Mapping[str, Any], settled: bool = True) -> None:
    """Raises UserError if the folder holds another experiment; the message names the difference.

    Args:
      workdir: the experiment's folder.
      content: what `described` returns.
      settled: whether the arms are as jobs get them; batches of equally many tokens are not before the corpus is there.
    """
    path = workdir / "experiment.json"
    if path.exists():
        content = json.loads(json.dumps(content))
        _check_same(workdir, read_json(path), {key: content[key] for key in content if settled or key != "arms"})


def write_experiment(workdir: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes experiment.json if there is none, or if seeds are added to it.

    Raises:
      UserError: the folder holds another experiment; the message names the difference.
    """
    path = workdir / "experiment.json"
    content = json.loads(json.dumps(content))
    if not path.exists():
        write_json(path, content)
        return
    existing = read_json(path)
    _check_same(workdir, existing, content)
    if existing["seeds"] != content["seeds"]:
        write_json(path, existing | {key: content[key] for key in ("seeds", "changed_by_flags", "command")})


def _check_same(workdir, existing, content):
    path = workdir / "experiment.json"
    if existing.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {existing.get('format_version')}; expected {FORMAT_VERSION}")
    existing, content = _without_kept_checkpoints(existing), _without_kept_checkpoints(content)
    for key, value in content.items():
        adds_seeds = key == "seeds" and value[: len(existing["seeds"])] == existing["seeds"]
        if key not in ("command", "changed_by_flags") and existing.get(key) != value and not adds_seeds:
            part, old, new = _first_difference(key, existing.get(key), value)
            raise UserError(
                f"--workdir={workdir}: holds another experiment: {part} is {old} there, but {new} was asked for; "
                "expected the same, or a new folder"
            )


def write_job(workdir: pathlib.Path, job: Job) -> pathlib.Path:
    """Writes job.json into the job's folder, and returns the folder."""
    folder = workdir / job.name
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(json.dumps(dataclasses.asdict(job)))
    path = folder / "job.json"
    if not path.exists():
        write_json(path, content)
    elif _without_kept_checkpoints(read_json(path)) != _without_kept_checkpoints(content):
        raise UserError(f"{path}: holds another job than experiment.json asks for; move {folder} away")
    return folder


def _without_kept_checkpoints(content):
    """Returns the content of experiment.json or job.json without what decides which checkpoints a run keeps.

    It changes no run: an experiment that began with other checkpoints, before scales kept any, goes on with them.
    """
    overrides = {key: value for key, value in content["overrides"].items() if key not in _KEPT}
    return {**content, "overrides": overrides}


def read_job(folder: pathlib.Path) -> Job:
    """Returns the job of a folder. Raises UserError if there is none."""
    path = folder / "job.json"
    if not path.is_file():
        near = files.closest_path(folder, is_folder=True)
        raise UserError(f"{folder}: no job.json in it; expected a folder that experiments.launch made{near}")
    text = path.read_text("utf-8").replace(HERE, json.dumps(str(folder.absolute().parents[1]))[1:-1])
    try:
        return Job(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def state(folder: pathlib.Path) -> str:
    """Returns the state of a job: "done", "failed" (at its last start), "running", "stopped" or "waiting"."""
    if _has_result(folder):
        return "done"
    if is_locked(folder):
        return "running"
    if (folder / "failed.json").exists():
        return "failed"
    return "stopped" if (folder / "starts.jsonl").exists() else "waiting"


def _has_result(folder):
    """Returns whether the job's result can be read. One that was cut is made again at the job's next start."""
    try:
        return isinstance(json.loads((folder / "result.json").read_text("utf-8")), dict)
    except (OSError, ValueError):
        return False


def last_lines(folder: pathlib.Path) -> list[str]:
    """Returns the last lines of the job's log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-LAST_LINES:]


def write_failed(folder: pathlib.Path, stage: str, code: int) -> None:
    """Writes failed.json: the stage in which the job failed, its exit code, and the end of its log."""
    write_json(folder / "failed.json", {"stage": stage, "code": code, "lines": last_lines(folder)})


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of a JSON file. Raises UserError if it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file beside the target, then renames it, so that there is never half a file."""
    try:
        files.write_json(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[bool]:
    """Holds the folder's lock and yields True, or False if another process holds it. A lock ends with its process."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(folder / "lock", seconds=_LOCK_WAIT))  # somebody may only be looking at it
        except BlockingIOError:
            yield False
            return
        except files.NoLocksError:
            pass
        yield True


def is_locked(folder: pathlib.Path) -> bool:
    """Returns whether another process holds the folder's lock."""
    return bool(files.is_locked(folder / "lock"))


def _first_difference(name, old, new):
    """Returns (dotted name, old value, new value) of the first difference, both as JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *old]:
            if old.get(key) != new.get(key):
                return _first_difference(f"{name}.{key}", old.get(key), new.get(key))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        i = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        label = old[i].get("name", i) if isinstance(old[i], dict) else i
        return _first_difference(f"{name}.{label}", old[i], new[i])
    return name, shortened(json.dumps(old)), shortened(json.dumps(new))
