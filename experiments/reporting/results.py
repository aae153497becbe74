"""Reads the folder of an experiment (its layout: launching/folders.py)."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax import files
from bert_jax.errors import UserError

from ..experiment import FineTuning, Measure
from ..launching import folders
from ..published import TABLES

DONE, FAILED, UNFINISHED, NOT_STARTED, DAMAGED = "done", "failed", "unfinished", "not started", "damaged"


@dataclasses.dataclass(frozen=True)
class Start:
    """Describes the code, packages and devices of one start of a job.

    Attributes:
      commit: git commit; "" if unknown.
      diff: name of the file with uncommitted changes; "" without changes.
      software: versions, such as "jax 0.10.2"; Python's comes first.
      devices: number and kind of the devices, such as "8 x tpu:TPU v5e".
    """

    commit: str
    diff: str
    software: tuple[str, ...]
    devices: str


@dataclasses.dataclass(frozen=True)
class Job:
    """Holds state and results of one arm with one seed.

    Attributes:
      arm, seed: the arm and the seed.
      state: "done", "failed", "unfinished" (started; it may be running), "not started" or "damaged".
      metrics: metrics of a finished job by key; nan for a value that is not finite.
      steps, tokens, epochs: length of the training of a finished job; None if unknown.
      stage, code: stage and exit code of a failed job.
      last_line: last line of the log of a job that is not done; "" without one.
      problem: which file of a damaged job cannot be read, and how it is made again.
      starts: the job's starts, in order.
      rows: rows of metrics.jsonl of pre-training, and of along.jsonl.
      bad_seeds: failed fine-tuning seeds by task.
      seed_scores: scores of the fine-tuning seeds of a finished job, by the key of the measure; nan if not finite.
      tuned: fine-tuning rate that was chosen, by task.
    """

    arm: str
    seed: int
    state: str
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    stage: str = ""
    code: int | None = None
    last_line: str = ""
    problem: str = ""
    starts: Sequence[Start] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    bad_seeds: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    seed_scores: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    tuned: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Returns the name of the job, "ARM/seed-SEED"."""
        return f"{self.arm}/seed-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Results:
    """Holds an experiment with the state and results of its jobs.

    Attributes:
      workdir: the experiment's folder.
      jobs: the experiment's jobs by arm and seed.
      others: folders of jobs that are not part of the experiment.
      corpus: size of the corpus from its manifest.json; {} if that cannot be read.
      tuning: the experiment's search of pre-training rates; None without one.
      tuned: content of tuning.json; {} while no rate was chosen.
      Other attributes: the fields of experiment.json.
    """

    workdir: pathlib.Path
    name: str
    scale: str
    question: str
    recipe: str
    overrides: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    measures: Sequence[Measure]
    evaluation: Mapping[str, Any] | None
    fine_tuning: Sequence[FineTuning]
    published: Sequence[str]
    notes: Sequence[str]
    against: Mapping[str, str]
    changed_by_flags: Sequence[str]
    command: str
    jobs: Mapping[tuple[str, int], Job]
    others: Sequence[str]
    corpus: Mapping[str, Any]
    tuning: Mapping[str, Any] | None = None
    tuned: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def done(self, arm: str) -> list[Job]:
        """Returns the finished jobs of an arm, in the order of seeds."""
        return [self.jobs[arm, seed] for seed in self.seeds if self.jobs[arm, seed].state == DONE]

    def missing(self) -> list[Job]:
        """Returns the jobs that are not done."""
        return [job for job in self.jobs.values() if job.state != DONE]


def read(workdir: pathlib.Path) -> Results:
    """Reads an experiment's folder; writes and locks nothing.

    Raises:
      UserError: the folder holds no experiment, none of its jobs has a folder, or a file of the experiment itself is
        damaged. A damaged file of a job costs the job its row.
    """
    path = workdir / "experiment.json"
    if not path.is_file():
        near = files.closest_path(workdir, is_folder=True)
        raise UserError(f"--workdir={workdir}: no experiment.json in it; expected a folder of experiments.launch{near}")
    record = _Record(path)
    version = record.get("format_version", int)
    if version != folders.FORMAT_VERSION:
        raise UserError(f"{path}: format_version: found {version}; expected {folders.FORMAT_VERSION}")
    arms, seeds = record.get("arms", dict), record.get("seeds", list)
    if not arms or not all(isinstance(changes, dict) for changes in arms.values()):
        raise UserError(f"{path}: arms: found {_short(arms)}; expected an object for each arm")
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds: found {_short(seeds)}; expected whole numbers")
    names = [f"{arm}/seed-{seed}" for seed in seeds for arm in arms]
    if not any((workdir / name).is_dir() for name in names):
        raise UserError(f"--workdir={workdir}: found no job's folder, such as {names[0]}; expected one or more")
    return Results(
        workdir=workdir,
        name=record.get("name", str),
        scale=record.get("scale", str),
        changed_by_flags=record.get("changed_by_flags", list, []),
        question=record.get("question", str),
        recipe=record.get("recipe", str),
        overrides=record.get("overrides", dict),
        arms=arms,
        seeds=seeds,
        measures=_measures(record, arms),
        evaluation=record.get("evaluation", dict | None),
        fine_tuning=record.objects("fine_tuning", FineTuning),
        published=_published(record),
        notes=record.strings("notes"),
        against=record.get("against", dict, {}),
        command=record.get("command", str),
        jobs={(arm, seed): _job_or_problem(workdir, arm, seed) for seed in seeds for arm in arms},
        others=_others(workdir, names),
        corpus=_corpus(workdir, record.get("corpus", str)),
        tuning=record.get("tuning", dict, None),
        tuned=_tuned(workdir / "tuning.json"),
    )


class _Record:
    """Reads a file with one JSON object; a damaged one raises UserError, in one line."""

    def __init__(self, path):
        self._path = path
        self._record = folders.read_json(path)
        if not isinstance(self._record, dict):
            raise UserError(f"{path}: found {_short(self._record)}; expected an object")

    def get(self, key, kind, default=dataclasses.MISSING):
        if key not in self._record and default is not dataclasses.MISSING:
            return default
        value = self._record.get(key)
        if key not in self._record or not isinstance(value, kind) or isinstance(value, bool):
            value_text = _short(value) if key in self._record else "nothing"
            raise UserError(f"{self._path}: {key}: found {value_text}; expected {getattr(kind, '__name__', kind)}")
        return value

    def strings(self, key):
        values = self.get(key, list)
        if not all(isinstance(value, str) for value in values):
            raise UserError(f"{self._path}: {key}: found {_short(values)}; expected strings")
        return values

    def objects(self, key, kind):
        try:
            return [kind(**value) for value in self.get(key, list)]
        except TypeError as error:
            raise UserError(f"{self._path}: {key}: {error}; expected what experiments.launch writes") from error

    def numbers(self, key):
        """Returns numbers by name; nan for null."""
        values = self.get(key, dict)
        for name, value in values.items():
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise UserError(f"{self._path}: {key}: {name}: found {_short(value)}; expected a number")
        return {name: _finite(value) for name, value in values.items()}


def _measures(record, arms):
    measures = record.objects("measures", Measure)
    for measure in measures:
        if set(measure.only) - set(arms):
            raise UserError(
                f"experiment.json: measure {measure.key}: only: found {_short(measure.only)}; expected of {list(arms)}"
            )
    return measures


def _published(record):
    names = record.strings("published")
    for name in names:
        if name not in TABLES:
            raise UserError(f"experiment.json: published: found {name}; expected of {', '.join(TABLES)}")
    return names


def _job_or_problem(workdir, arm, seed):
    """Returns a job; one with a damaged file has no results, and says how it is made again."""
    try:
        return _job(workdir, arm, seed)
    except UserError as error:
        folder = workdir / arm / f"seed-{seed}"
        advice = f"move {folder} away, and start the launch command again, which runs the job anew"
        if str(error).startswith(f"{folder / 'result.json'}:"):
            advice = "remove this file, and start the launch command again, which makes it from the runs that are there"
        return Job(arm, seed, DAMAGED, problem=f"{error}; {advice}")


def _job(workdir, arm, seed):
    folder = workdir / arm / f"seed-{seed}"
    if not folder.is_dir():
        return Job(arm, seed, NOT_STARTED)
    job = Job(
        arm,
        seed,
        _state(folder),
        starts=_starts(folder / "starts.jsonl"),
        rows=[*_lines(folder / "pretrain" / "metrics.jsonl"), *_lines(folder / "along.jsonl")],
        bad_seeds=_bad_seeds(folder),
    )
    if job.state == DONE:
        result = _Record(folder / "result.json")
        amounts = {key: result.get(key, int | float, None) for key in ("steps", "tokens", "epochs")}
        tuned = {task: search["chosen"] for task, search in result.get("tuning", dict, {}).items()}
        metrics = result.numbers("figures")
        return dataclasses.replace(job, metrics=metrics, seed_scores=_seed_scores(result), tuned=tuned, **amounts)
    if job.state == FAILED:
        failed = _Record(folder / "failed.json")
        lines = [line for line in failed.strings("lines") if line.strip()]
        stage, code = failed.get("stage", str), failed.get("code", int)
        return dataclasses.replace(job, stage=stage, code=code, last_line=lines[-1] if lines else "")
    return dataclasses.replace(job, last_line="".join(folders.last_lines(folder)[-1:]))


def _seed_scores(result):
    scores = result.get("each", dict, {})
    return {key: [_finite(score) for score in values] for key, values in scores.items()}


def _tuned(path):
    return folders.read_json(path) if path.is_file() else {}


def _state(folder):
    # Not folders.state: a report does not say whether a job is running, and finding out takes its lock for a moment.
    if (folder / "result.json").exists():
        return DONE
    if (folder / "failed.json").exists():
        return FAILED
    return UNFINISHED if (folder / "starts.jsonl").exists() else NOT_STARTED


def _starts(path):
    starts = []
    for row in _lines(path):
        try:
            devices = row.get("devices") or []
            kinds = [f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices)]
            packages = [f"{name} {version}" for name, version in (row.get("packages") or {}).items() if version]
            software = (f"Python {row.get('python') or '?'}", *packages)
            starts.append(Start(row.get("commit") or "", row.get("diff") or "", software, ", ".join(kinds)))
        except (AttributeError, TypeError) as error:
            raise UserError(f"{path}: found {_short(row)}; expected what experiments.run_job writes") from error
    return starts


def _bad_seeds(folder):
    seeds_by_task = {}
    for path in sorted(folder.glob("finetune-*/summary.json")):
        seeds_by_task[path.parent.name.removeprefix("finetune-")] = _Record(path).get("failed", list, [])
    return seeds_by_task


def _others(workdir, names):
    existing = (path.parent.relative_to(workdir).as_posix() for path in workdir.glob("*/seed-*/job.json"))
    return sorted(set(existing) - set(names))


def _corpus(workdir, directory):
    for path in (pathlib.Path(directory) / "manifest.json", workdir / "corpus" / "manifest.json"):
        if path.is_file():
            manifest = _Record(path)
            return {"tokens": manifest.get("tokens", int, None), "documents": manifest.get("documents", int, None)}
    return {}


def _lines(path):
    """Returns the objects of a JSONL file; a torn last line is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = files.parse_object(line)
        except ValueError as error:
            if number == len(lines):
                continue
            raise UserError(f"{path}: line {number}: found {_short(line)}; expected a JSON object") from error
        rows.append(row)
    return rows


def _finite(value):
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _short(value):
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
