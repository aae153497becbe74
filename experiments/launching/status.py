"""Shows the state of an experiment's jobs, a line for each; on a terminal the table is refreshed."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax import files, interruption
from bert_jax.errors import UserError

from . import folders

_COLUMNS = ("arm", "seed", "state", "stage", "step", "loss", "held-out", "tokens/s", "left", "changed", "job")
_STATES = ("done", "running", "stopped", "waiting", "failed")
_TAIL = 64 * 1024  # bytes read from the end of metrics.jsonl: some hundred rows
_ROWS = 20  # rows from which the seconds of a step are computed


def watch(folder: pathlib.Path, seconds: float = 2.0) -> None:
    """Prints the table; on a terminal, refreshes it until every job has ended or Ctrl-C is pressed.

    Args:
      folder: the experiment's folder.
      seconds: time between two refreshes.

    Raises:
      UserError: there is no experiment in the folder.
    """
    if not sys.stdout.isatty():
        print(table(folder), flush=True)
        return
    ended = threading.Event()
    with interruption.catch(lambda number: ended.set()) as caught:
        caught.acted = True  # a table that is refreshed has no other end
        while True:
            lines = table(folder).splitlines()
            width, height = shutil.get_terminal_size()
            shown = "".join(f"{line[: width - 1]}\x1b[K\n" for line in lines[-(height - 1) :])
            sys.stdout.write(f"\x1b[H{shown}\x1b[J")
            sys.stdout.flush()
            if {folders.state(job) for _, _, job in _jobs(folder)} <= {"done", "failed"} or ended.wait(seconds):
                return


def table(folder: pathlib.Path) -> str:
    """Returns a table of the jobs, the number of jobs in each state, and the last line of each failed job.

    Args:
      folder: the experiment's folder.

    Raises:
      UserError: there is no experiment in the folder.
    """
    rows, states, failures = [], [], []
    for arm, seed, job in _jobs(folder):
        states.append(folders.state(job))
        rows.append([arm, str(seed), states[-1], *_line(job, states[-1])])
        if states[-1] == "failed":
            failures.append(_failure(job))
    counts = ", ".join(f"{states.count(state)} {state}" for state in _STATES if state in states)
    return "\n".join([*_aligned([_COLUMNS, *rows]), f"{len(rows)} jobs: {counts}", *failures])


def _jobs(folder):
    """Returns (arm, seed, folder) of each job, in the order in which they start."""
    path = folder / "experiment.json"
    if not path.exists():
        raise UserError(f"--workdir={folder}: no experiment.json in it; expected a folder that experiments.launch made")
    content = folders.read_json(path)
    try:
        pairs = [(arm, seed) for seed in content["seeds"] for arm in content["arms"]]
        rates = [f"tune-{rate:g}" for rate in (content.get("tuning") or {"rates": ()})["rates"]]
        tuning = [(arm, name, folder / arm / name) for name in rates for arm in content["arms"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: no arms or seeds in it; expected what experiments.launch wrote") from error
    return [*tuning, *((arm, seed, folder / arm / f"seed-{seed}") for arm, seed in pairs)]


def _line(job, state):
    """Returns the cells of a job after its state."""
    stage, workdir = _stage(job, state)
    rows = _rows(workdir / "metrics.jsonl")
    step, total = rows[-1]["step"] if rows else 0, _num_steps(stage, workdir)
    left = _seconds_left(rows, total) if state == "running" and stage != "evaluate" else None
    speed = _last(rows, "tokens_per_second")
    return [
        stage,
        "" if not rows else f"{step:,}/{total:,}" if total else f"{step:,}",
        _number(_last(rows, "loss")),
        _held_out(rows),
        "" if speed is None or state != "running" else f"{speed:,.0f}",
        "" if left is None else _clock(left),
        _age(job, workdir),
        _submitted(job),
    ]


def _stage(job, state):
    """Returns the current or last stage of a job and that stage's workdir; of a finished job, of pre-training."""
    pretraining = job / "pretrain"
    if state == "done":
        return "", pretraining
    if state == "failed":
        stage = _read(job / "failed.json").get("stage") or ""
        return stage, job / stage if stage.startswith("finetune-") else pretraining
    begun = [job / f"finetune-{task['name']}" for task in _read(job / "job.json").get("fine_tuning", ())]
    begun = [workdir for workdir in begun if workdir.exists()]
    if begun:
        return begun[-1].name, begun[-1]
    if not pretraining.exists():
        return "", pretraining
    rows, total = _rows(pretraining / "metrics.jsonl"), _num_steps("pretrain", pretraining)
    return "evaluate" if rows and rows[-1]["step"] == total else "pretrain", pretraining


def _num_steps(stage, workdir):
    """Returns the number of steps of a stage; 0 if it depends on data."""
    content = _read(workdir / "config.json")
    if stage.startswith("finetune-") or not content:
        return content.get("train", {}).get("num_steps", 0)
    with contextlib.suppress(AttributeError, KeyError, TypeError, UserError):  # written by another version
        return config_lib.num_steps(ml_collections.ConfigDict(content))
    return 0


def _rows(path) -> list[dict[str, Any]]:
    """Returns the last rows of a metrics.jsonl without torn lines; [] without a file."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL)
            file.seek(start)
            content = file.read()
    except OSError:
        return []
    return [row for row in files.whole_objects(content) if isinstance(row.get("step"), int)]


def _seconds_left(rows: Sequence[Mapping[str, Any]], total: int) -> float | None:
    """Estimates the remaining time from the last steps, evaluation and saving included; None if there are too few."""
    timed = [row for row in rows if "time/step" in row][-_ROWS:]
    steps = timed[-1]["step"] - timed[0]["step"] if timed else 0
    if not total or steps <= 0:
        return None
    seconds = sum(
        value
        for row in timed[1:]
        for name, value in row.items()
        if name.startswith("time/") and name != "time/compilation" and value is not None
    )
    return seconds / steps * (total - rows[-1]["step"])


def _held_out(rows):
    """Returns the result of the last evaluation: the held-out loss, or a task's metric with its name."""
    loss = _last(rows, "eval/mlm_loss")
    if loss is not None:
        return _number(loss)
    for row in reversed(rows):
        for name, value in row.items():
            if name.startswith("eval/") and isinstance(value, (int, float)):
                return f"{name.removeprefix('eval/')} {value:.4f}"
    return ""


def _last(rows, name):
    return next((row[name] for row in reversed(rows) if row.get(name) is not None), None)


def _age(job, workdir):
    """Returns how long ago the job last wrote something."""
    times = []
    for path in (workdir / "metrics.jsonl", job / "log.txt", job / "starts.jsonl", job / "result.json"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return f"{_clock(max(0, time.time() - max(times)))} ago" if times else ""


def _submitted(job):
    slurm, cloud = _read(job / "slurm.json"), _read(job / "cloud.json")
    return f"slurm {slurm['job']}" if "job" in slurm else cloud.get("name", "")


def _failure(job):
    content = _read(job / "failed.json")
    lines = [line for line in content.get("lines", ()) if line.strip()]
    where = content.get("stage") or "its start"
    last_line = f": {lines[-1].strip()}" if lines else ""
    return f"{job.parent.name}/{job.name}: failed in {where} (exit code {content.get('code', 'unknown')}){last_line}"


def _read(path):
    """Returns the content of a JSON file; {} if it is missing or torn."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _aligned(rows):
    """Returns aligned lines; columns that are empty for every job are left out."""
    kept = [i for i, column in enumerate(zip(*rows, strict=True)) if i < 3 or any(column[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in kept}
    return ["  ".join(row[i].ljust(widths[i]) for i in kept).rstrip() for row in rows]


def _number(value):
    return "" if value is None else f"{value:.4f}"


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
