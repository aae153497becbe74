"""What lies in an experiment's folder, and who may write there.

WORKDIR/experiment.json       what was asked, and the command that asked
WORKDIR/corpus/, tasks/       made by the launcher, unless it was given them
WORKDIR/lock                  held by the launcher
WORKDIR/ARM/seed-SEED/        a job's:
    job.json                  what experiments.run_job runs
    starts.jsonl              each start: when, where, of which code, with which packages
    diff-SHA.patch            of the working tree against the commit at a start, if it had any
    log.txt                   what all starts said
    pretrain/, finetune-TASK/ workdirs
    common.json               figures of the evaluation that is the same for all arms
    result.json               of a job that is done
    failed.json               of one that failed at its last start
    lock                      held by the process that runs it
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bert_jax import files
from bert_jax.errors import UserError

from ..experiment import Experiment, Job

FORMAT_VERSION = 1
HERE = "$WORKDIR"  # the experiment's folder, where job.json names what lies in it: the folder may be moved or mounted
LAST_LINES = 20
_A_LOOK = 0.5  # seconds


def described(
    experiment: Experiment, name: str, scale: str, corpus: str, command: str, changed_by_flags: Sequence[str] = ()
) -> dict[str, Any]:
    """What experiment.json holds; `changed_by_flags` are the flags that changed what the file asks for."""
    found = dataclasses.asdict(experiment)
    del found["text"]
    return {
        "format_version": FORMAT_VERSION, "name": name, "scale": scale, **found, "corpus": corpus, "command": command,
        "changed_by_flags": changed_by_flags,
    }  # fmt: skip


def write_experiment(workdir: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes experiment.json where there is none, or where seeds are added to it.

    Raises:
      UserError: the folder holds another experiment; what differs is named.
    """
    path = workdir / "experiment.json"
    content = json.loads(json.dumps(content))
    if not path.exists():
        write_json(path, content)
        return
    there = read_json(path)
    _check_same(workdir, there, content)
    if there["seeds"] != content["seeds"]:
        write_json(path, there | {key: content[key] for key in ("seeds", "changed_by_flags", "command")})


def _check_same(workdir, there, content):
    path = workdir / "experiment.json"
    if there.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {there.get('format_version')}; expected {FORMAT_VERSION}")
    for key, value in content.items():
        more = key == "seeds" and value[: len(there["seeds"])] == there["seeds"]
        if key not in ("command", "changed_by_flags") and there.get(key) != value and not more:
            part, found, asked = _first_difference(key, there.get(key), value)
            raise UserError(
                f"--workdir={workdir}: holds another experiment: {part} is {found} there, but {asked} was asked for; "
                "expected the same, or a new folder"
            )


def write_job(workdir: pathlib.Path, job: Job) -> pathlib.Path:
    """The job's folder, with its job.json."""
    folder = workdir / job.name
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(json.dumps(dataclasses.asdict(job)))
    path = folder / "job.json"
    if not path.exists():
        write_json(path, content)
    elif read_json(path) != content:
        raise UserError(f"{path}: is of another job than experiment.json asks for; move {folder} away")
    return folder


def read_job(folder: pathlib.Path) -> Job:
    """Raises UserError if there is no job in the folder."""
    path = folder / "job.json"
    if not path.is_file():
        raise UserError(f"{folder}: no job.json in it; expected a folder that experiments.launch made")
    text = path.read_text("utf-8").replace(HERE, json.dumps(str(folder.absolute().parents[1]))[1:-1])
    try:
        return Job(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def state(folder: pathlib.Path) -> str:
    """ "done", "failed" (at its last start), "running", "stopped" (begun, and not ended) or "waiting"."""
    if (folder / "result.json").exists():
        return "done"
    if is_locked(folder):
        return "running"
    if (folder / "failed.json").exists():
        return "failed"
    return "stopped" if (folder / "starts.jsonl").exists() else "waiting"


def last_lines(folder: pathlib.Path) -> list[str]:
    """The end of the job's log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-LAST_LINES:]


def write_failed(folder: pathlib.Path, stage: str, code: int) -> None:
    """Says that a job failed, with the end of its log."""
    write_json(folder / "failed.json", {"stage": stage, "code": code, "lines": last_lines(folder)})


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Raises UserError if the file is none of JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def write_json(path: pathlib.Path, content: Any) -> None:
    """Beside the target, then renamed: never half a file."""
    try:
        files.write_json(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[bool]:
    """Holds the folder's lock; False where another process holds it. Ends with the process, however it ends."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(folder / "lock", seconds=_A_LOOK))  # somebody may only be looking at it
        except BlockingIOError:
            yield False
            return
        except files.NoLocksError:
            pass
        yield True


def is_locked(folder: pathlib.Path) -> bool:
    """Whether another process holds the folder's lock."""
    return bool(files.is_locked(folder / "lock"))


def _first_difference(name, there, asked):
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in [*asked, *there]:
            if there.get(key) != asked.get(key):
                return _first_difference(f"{name}.{key}", there.get(key), asked.get(key))
    if isinstance(there, list) and isinstance(asked, list) and len(there) == len(asked):
        i = next(i for i, pair in enumerate(zip(there, asked, strict=True)) if pair[0] != pair[1])
        label = there[i].get("name", i) if isinstance(there[i], dict) else i
        return _first_difference(f"{name}.{label}", there[i], asked[i])
    return name, json.dumps(there), json.dumps(asked)
