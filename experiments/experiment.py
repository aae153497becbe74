"""What an experiment is: a question, arms that differ in what is asked about alone, seeds, and what to compare.

An experiment is a Python file with `get_experiment(scale) -> Experiment`. `load` reads one; `jobs` writes out what it
asks for, one job for each arm and seed: a pre-training run, an evaluation that is the same for all arms, and
fine-tuning runs. What is not in an arm's own changes is equal in all of them, seeds and data order included.
"""

import contextlib
import dataclasses
import importlib.util
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax.errors import UserError

from . import published

_OF_THE_LAUNCHER = {"seed": "Experiment.seeds", "data.corpus": "the launcher (--corpus, --text)"}
MODEL = "the launcher's --model"  # as a value of an override: a model that is not part of the experiment
_TAKEN = ("corpus", "tasks", "compiled", "report", "cloud", "slurm", "lock", "experiment.json")  # in the folder


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure of each job that arms are compared by.

    Attributes:
      key: of result.json: "eval/mlm_loss" (the last evaluation of the run itself, with its arm's own rows and masks),
        "common/mlm_loss" (of the evaluation that is the same for all arms), or "TASK/METRIC" of fine-tuning.
      label: in words, with its unit.
      higher_is_better: or lower.
      only: the arms that it can be compared in; () for all.
    """

    key: str
    label: str
    higher_is_better: bool = False
    only: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A task that every pre-trained model is fine-tuned on.

    Attributes:
      name: in figures and folders.
      recipe: of configs/finetune.
      overrides: of the recipe, by key.
      seeds: fine-tuning runs of each pre-trained model, seeds 0, 1, ...; its figure is their mean.
      made_from_corpus: whether task.train and task.held_out are files that the launcher makes (bigram_shift.py).
    """

    name: str
    recipe: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: int = 1
    made_from_corpus: bool = False


@dataclasses.dataclass(frozen=True)
class Text:
    """What the corpus is prepared from, where the launcher is not given one: settings of bert_jax.prepare."""

    input: str = "python-docs"
    tokenizer: str = "train:wordpiece:4096"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A question and the runs that answer it.

    Attributes:
      question: one sentence.
      recipe: of pre-training, by name or file.
      overrides: of the recipe in every arm, by key, such as {"train.num_steps": 1000}.
      arms: what each arm changes beyond that; the first is the one that the others are compared with.
      seeds: of config.seed, the same in every arm: seed s of one arm is paired with seed s of another.
      measures: what is compared.
      evaluation: data settings of the evaluation that is the same for all arms: arguments of
        bert_jax.training.evaluation.evaluate; None for no such evaluation.
      fine_tuning: tasks.
      published: names of tables in published.TABLES that a report shows beside ours.
      text: of the corpus.
      notes: sentences that a report repeats: what must be known to read its figures.
      equal_tokens: whether data.batch_size is set arm by arm, once the corpus is there, so that a step has as many
        tokens that are no padding as one of the first arm (RoBERTa section 4.2).
      against: the arm that an arm is compared with, where that is not the first.
    """

    question: str
    recipe: str
    overrides: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    measures: Sequence[Measure]
    evaluation: Mapping[str, Any] | None = None
    fine_tuning: Sequence[FineTuning] = ()
    published: Sequence[str] = ()
    text: Text = Text()
    notes: Sequence[str] = ()
    equal_tokens: bool = False
    against: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """One arm with one seed: all that experiments.run_job needs, written as job.json.

    Attributes:
      name: "ARM/seed-SEED", and its folder in the experiment's.
      arm, seed: of the experiment.
      recipe, overrides: of pre-training, seed and corpus included.
      evaluation: as the experiment's.
      fine_tuning: each {"name", "recipe", "overrides"}, seeds and files included.
    """

    name: str
    arm: str
    seed: int
    recipe: str
    overrides: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    fine_tuning: Sequence[Mapping[str, Any]]


def load(path: str | pathlib.Path, scale: str) -> Experiment:
    """The experiment of a file.

    Raises:
      UserError: there is no such file, it has no get_experiment, or what that returns cannot be run.
    """
    path = pathlib.Path(path)
    if not path.suffix and not path.exists():  # by its name, as recipes
        path = pathlib.Path(__file__).parent / f"{path}.py"
    if not path.is_file():
        raise UserError(f"--experiment={path}: no such file; expected one with get_experiment(scale)")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_experiment"):
            raise UserError(f"--experiment={path}: no function get_experiment(scale) in it")
        found = module.get_experiment(scale)
    except UserError:
        raise
    except Exception as error:  # whatever the file does
        raise UserError(f"--experiment={path}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, Experiment):
        raise UserError(f"--experiment={path}: get_experiment returned {type(found).__name__}; expected an Experiment")
    check(found, str(path))
    return found


def check(experiment: Experiment, where: str) -> None:
    """Raises UserError where an experiment cannot be run, naming `where` it is from and the part that is wrong."""

    def wrong(part, found, expected):
        raise UserError(f"{where}: {part}: found {found}; expected {expected}")

    arms = experiment.arms
    if not isinstance(arms, Mapping) or not all(isinstance(changes, Mapping) for changes in arms.values()):
        wrong("arms", f"{arms!r:.80}", "{name: {key: value}}")
    if len(arms) < 2:
        wrong("arms", len(arms), "two or more")
    for arm, changes in arms.items():
        if not isinstance(arm, str) or not re.fullmatch(r"[^./\\\0\n][^/\\\0\n]{0,79}", arm) or arm in _TAKEN:
            wrong("arms", f"{arm!r:.80}", f"names that can be a folder's, and none of {', '.join(_TAKEN)}")
        _refuse(changes, _OF_THE_LAUNCHER, f"arm {arm}", where)
    _refuse(experiment.overrides, _OF_THE_LAUNCHER, "overrides", where)
    for task in experiment.fine_tuning:
        files = ("task.train", "task.held_out") if task.made_from_corpus else ()
        owners = {"seeds": "FineTuning.seeds", "init_from": "the job", **dict.fromkeys(files, "the launcher")}
        _refuse(task.overrides, owners, f"fine_tuning {task.name}", where)
    for arm, other in experiment.against.items():
        if arm not in arms or other not in arms or arm == other:
            wrong("against", f"{arm!r}: {other!r}", f"two of the arms {', '.join(arms)}")
    seeds = list(experiment.seeds)
    if not seeds or len(set(seeds)) < len(seeds) or any(not isinstance(seed, int) or seed < 0 for seed in seeds):
        wrong("seeds", seeds, "different numbers from 0")
    if not experiment.measures:
        wrong("measures", "none", "what to compare")
    for measure in experiment.measures:
        unknown = set(measure.only) - set(experiment.arms)
        if unknown:
            wrong(f"measure {measure.key}", f"arms {sorted(unknown)}", f"some of {list(experiment.arms)}")
    for table in experiment.published:
        if table not in published.TABLES:
            wrong("published", table, f"one of {', '.join(published.TABLES)}")
    names = [task.name for task in experiment.fine_tuning]
    if len(set(names)) < len(names):
        wrong("fine_tuning", names, "different names")
    for arm, changes in experiment.arms.items():
        with _naming(f"{where}: arm {arm}"):
            config_lib.validate(configured(experiment.recipe, {**experiment.overrides, **changes, "data.corpus": "-"}))
    for task in experiment.fine_tuning:
        with _naming(f"{where}: fine_tuning {task.name}"):
            configured(task.recipe, task.overrides)


def _refuse(changes, owners, part, where):
    for key, owner in owners.items():
        if key in changes:
            raise UserError(f"{where}: {part}: found {key}, which {owner} sets; expected other keys")


@contextlib.contextmanager
def _naming(where):
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def configured(recipe: str, overrides: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A recipe's config with some keys changed.

    Raises:
      UserError: no such recipe or key, or a value of another type.
    """
    config = config_lib.load_recipe(recipe)
    for key, value in overrides.items():
        config_lib.check_key(key, config)
        group, _, name = key.rpartition(".")
        part = config[group] if group else config
        try:
            part[name] = tuple(value) if isinstance(value, list) else value
        except TypeError as error:
            raise UserError(f"config.{key}: found {value!r}; expected a {type(part[name]).__name__}") from error
    return config


def jobs(experiment: Experiment, corpus: str, task_files: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """Every run of an experiment, seed by seed, so that all arms have run with one seed before the next begins.

    Args:
      experiment: as `load` gives it.
      corpus: that all runs read.
      task_files: overrides of each fine-tuning task that says where its data lies, by its name.
    """
    found = []
    for seed in experiment.seeds:
        for arm, changes in experiment.arms.items():
            tasks = [
                {
                    "name": task.name,
                    "recipe": task.recipe,
                    "overrides": {**task.overrides, **task_files.get(task.name, {}), "seeds": task.seeds},
                }
                for task in experiment.fine_tuning
            ]
            overrides = {**experiment.overrides, **changes, "seed": seed, "data.corpus": corpus}
            found.append(
                Job(f"{arm}/seed-{seed}", arm, seed, experiment.recipe, overrides, experiment.evaluation, tasks)
            )
    return found
