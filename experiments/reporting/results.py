"""What an experiment's folder says (the layout is in experiments/launching/folders.py)."""

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

DONE, FAILED, UNFINISHED, NOT_STARTED = "done", "failed", "unfinished", "not started"


@dataclasses.dataclass(frozen=True)
class Start:
    """Of what code and on what a job ran from one start to its end.

    Attributes:
      commit: of git; "" if it is not known.
      diff: name of the file with the changes against it; "" without changes.
      software: versions, such as "jax 0.10.2", Python's first.
      devices: kinds and how many of each, such as "8 x tpu:TPU v5e".
    """

    commit: str
    diff: str
    software: tuple[str, ...]
    devices: str


@dataclasses.dataclass(frozen=True)
class Job:
    """What one arm with one seed has come to.

    Attributes:
      arm, seed: of the experiment.
      state: "done", "failed", "unfinished" (begun; perhaps it runs now) or "not started".
      figures: of a job that is done, by key; nan for one that is not finite.
      steps, tokens, epochs: what a job that is done was trained for; None where it does not say.
      stage, code: of one that failed.
      last_line: of what one that is not done said; "" for nothing.
      starts: in order.
      rows: of the pre-training run's metrics.jsonl.
      bad_seeds: fine-tuning seeds that failed, by task.
    """

    arm: str
    seed: int
    state: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    stage: str = ""
    code: int | None = None
    last_line: str = ""
    starts: Sequence[Start] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    bad_seeds: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.arm}/seed-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Results:
    """An experiment, and what its jobs have come to.

    Attributes:
      workdir: its folder.
      jobs: by arm and seed, all that the experiment asks for.
      others: folders of jobs that it does not ask for.
      corpus: manifest.json of its corpus; {} where that is not at hand.
      The rest: as in experiment.json.
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

    def done(self, arm: str) -> list[Job]:
        """The finished jobs of an arm, in the order of seeds."""
        return [self.jobs[arm, seed] for seed in self.seeds if self.jobs[arm, seed].state == DONE]

    def missing(self) -> list[Job]:
        """The jobs that are not done."""
        return [job for job in self.jobs.values() if job.state != DONE]


def read(workdir: pathlib.Path) -> Results:
    """Reads an experiment's folder; writes and locks nothing.

    Raises:
      UserError: it is none, none of its jobs has a folder, or a file in it is damaged.
    """
    path = workdir / "experiment.json"
    if not path.is_file():
        raise UserError(f"--workdir={workdir}: no experiment.json in it; expected a folder of experiments.launch")
    found = _Record(path)
    version = found.get("format_version", int)
    if version != folders.FORMAT_VERSION:
        raise UserError(f"{path}: format_version: found {version}; expected {folders.FORMAT_VERSION}")
    arms, seeds = found.get("arms", dict), found.get("seeds", list)
    if not arms or not all(isinstance(changes, dict) for changes in arms.values()):
        raise UserError(f"{path}: arms: found {_short(arms)}; expected an object for each arm")
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds: found {_short(seeds)}; expected whole numbers")
    names = [f"{arm}/seed-{seed}" for seed in seeds for arm in arms]
    if not any((workdir / name).is_dir() for name in names):
        raise UserError(f"--workdir={workdir}: found no job's folder, such as {names[0]}; expected one or more")
    return Results(
        workdir=workdir,
        name=found.get("name", str),
        scale=found.get("scale", str),
        changed_by_flags=found.get("changed_by_flags", list, []),
        question=found.get("question", str),
        recipe=found.get("recipe", str),
        overrides=found.get("overrides", dict),
        arms=arms,
        seeds=seeds,
        measures=_measures(found, arms),
        evaluation=found.get("evaluation", dict | None),
        fine_tuning=found.each("fine_tuning", FineTuning),
        published=_published(found),
        notes=found.strings("notes"),
        against=found.get("against", dict, {}),
        command=found.get("command", str),
        jobs={(arm, seed): _job(workdir, arm, seed) for seed in seeds for arm in arms},
        others=_others(workdir, names),
        corpus=_corpus(workdir, found.get("corpus", str)),
    )


class _Record:
    """A file with one JSON object, whose damage is told in one line."""

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
            what = _short(value) if key in self._record else "nothing"
            raise UserError(f"{self._path}: {key}: found {what}; expected {getattr(kind, '__name__', kind)}")
        return value

    def strings(self, key):
        values = self.get(key, list)
        if not all(isinstance(value, str) for value in values):
            raise UserError(f"{self._path}: {key}: found {_short(values)}; expected strings")
        return values

    def each(self, key, kind):
        try:
            return [kind(**value) for value in self.get(key, list)]
        except TypeError as error:
            raise UserError(f"{self._path}: {key}: {error}; expected what experiments.launch writes") from error

    def numbers(self, key):
        """Figures by name; nan for null."""
        values = self.get(key, dict)
        for name, value in values.items():
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise UserError(f"{self._path}: {key}: {name}: found {_short(value)}; expected a number")
        return {name: _finite(value) for name, value in values.items()}


def _measures(found, arms):
    measures = found.each("measures", Measure)
    for measure in measures:
        if set(measure.only) - set(arms):
            raise UserError(
                f"experiment.json: measure {measure.key}: only: found {_short(measure.only)}; expected of {list(arms)}"
            )
    return measures


def _published(found):
    names = found.strings("published")
    for name in names:
        if name not in TABLES:
            raise UserError(f"experiment.json: published: found {name}; expected of {', '.join(TABLES)}")
    return names


def _job(workdir, arm, seed):
    folder = workdir / arm / f"seed-{seed}"
    if not folder.is_dir():
        return Job(arm, seed, NOT_STARTED)
    job = Job(
        arm,
        seed,
        _state(folder),
        starts=_starts(folder / "starts.jsonl"),
        rows=_lines(folder / "pretrain" / "metrics.jsonl"),
        bad_seeds=_bad_seeds(folder),
    )
    if job.state == DONE:
        result = _Record(folder / "result.json")
        amounts = {key: result.get(key, int | float, None) for key in ("steps", "tokens", "epochs")}
        return dataclasses.replace(job, figures=result.numbers("figures"), **amounts)
    if job.state == FAILED:
        failed = _Record(folder / "failed.json")
        lines = [line for line in failed.strings("lines") if line.strip()]
        stage, code = failed.get("stage", str), failed.get("code", int)
        return dataclasses.replace(job, stage=stage, code=code, last_line=lines[-1] if lines else "")
    return dataclasses.replace(job, last_line="".join(folders.last_lines(folder)[-1:]))


def _state(folder):
    # Not folders.state: whether a job runs just now is no part of a report, and asking takes its lock for a moment.
    if (folder / "result.json").exists():
        return DONE
    if (folder / "failed.json").exists():
        return FAILED
    return UNFINISHED if (folder / "starts.jsonl").exists() else NOT_STARTED


def _starts(path):
    found = []
    for row in _lines(path):
        try:
            devices = row.get("devices") or []
            kinds = [f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices)]
            packages = [f"{name} {version}" for name, version in (row.get("packages") or {}).items() if version]
            software = (f"Python {row.get('python') or '?'}", *packages)
            found.append(Start(row.get("commit") or "", row.get("diff") or "", software, ", ".join(kinds)))
        except (AttributeError, TypeError) as error:
            raise UserError(f"{path}: found {_short(row)}; expected what experiments.run_job writes") from error
    return found


def _bad_seeds(folder):
    found = {}
    for path in sorted(folder.glob("finetune-*/summary.json")):
        found[path.parent.name.removeprefix("finetune-")] = _Record(path).get("failed", list, [])
    return found


def _others(workdir, names):
    found = (path.parent.relative_to(workdir).as_posix() for path in workdir.glob("*/seed-*/job.json"))
    return sorted(set(found) - set(names))


def _corpus(workdir, directory):
    for path in (pathlib.Path(directory) / "manifest.json", workdir / "corpus" / "manifest.json"):
        if path.is_file():
            manifest = _Record(path)
            return {"tokens": manifest.get("tokens", int, None), "documents": manifest.get("documents", int, None)}
    return {}


def _lines(path):
    """The objects of a JSONL file; a last line that a kill has torn is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = files.parse_object(line)
        except ValueError as error:
            if number == len(lines):
                continue
            raise UserError(f"{path}: line {number}: found {_short(line)}; expected a JSON object") from error
        found.append(row)
    return found


def _finite(value):
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _short(value):
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
