"""Defines experiments: a question, arms that differ in the one thing asked about, seeds, and measures to compare.

An experiment is a Python file with `get_experiment(scale) -> Experiment`. `load` reads it, and `jobs` expands it to one
job for each arm and seed: a pre-training run, an evaluation that is the same for all arms, and fine-tuning runs.
Everything that an arm does not change is equal in all arms, seeds and data order included.
"""

import contextlib
import dataclasses
import importlib.util
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax import files, listing
from bert_jax.config import finetuning as finetune_config
from bert_jax.errors import UserError

from . import published

_SET_BY_LAUNCHER = {"seed": "Experiment.seeds", "data.corpus": "the launcher (--corpus, --text)"}
SEED = "{seed}"  # in the name of a model: stands for the seed of the run
MODEL = "the launcher's --model"  # value of an override that stands for the model that --model names
RESERVED = (
    "corpus",
    "tasks",
    "compiled",
    "report",
    "cloud",
    "slurm",
    "lock",
    "experiment.json",
)  # names in the folder that no arm may have


@dataclasses.dataclass(frozen=True)
class Measure:
    """Describes a metric by which arms are compared.

    Attributes:
      key: key in result.json: "eval/mlm_loss" (the last evaluation of the run, on its arm's own rows and masks),
        "common/mlm_loss" (the evaluation that is the same for all arms), or "TASK/METRIC" (fine-tuning).
      label: name in words, with its unit.
      higher_is_better: whether higher values are better.
      only: the arms in which it is comparable; () for all.
    """

    key: str
    label: str
    higher_is_better: bool = False
    only: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Describes a task that every pre-trained model is fine-tuned on.

    Attributes:
      name: name of the task in metrics and folders.
      recipe: name of a fine-tuning recipe.
      overrides: overrides of the recipe, by key.
      seeds: number of fine-tuning runs for each pre-trained model (seeds 0, 1, ...); the result is their mean.
      made_from_corpus: whether the launcher makes task.train and task.held_out from the corpus (bigram shift).
      rates: values of optimizer.learning_rate, the best of which is chosen for each pre-trained model on a tenth of the
        training examples, held out for that alone; None for the recipe's rate.
    """

    name: str
    recipe: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: int = 1
    made_from_corpus: bool = False
    rates: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class Text:
    """Names the text from which the launcher prepares a corpus if it is not given one.

    Attributes:
      input, tokenizer: --input and --tokenizer of bert_jax.prepare.
      settings: other settings of bert_jax.prepare, by name.
    """

    input: str = "python-docs"
    tokenizer: str = "train:wordpiece:4096"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Describes a search of the pre-training rate, for each arm by itself, before the runs that are reported.

    Every arm has as many tuning runs, one for each rate, all with a seed that no reported run has. A rate is chosen on
    what no measure is reported on: held-out rows behind those of Experiment.evaluation, or a tenth of a task's training
    examples.

    Attributes:
      rates: values of optimizer.learning_rate.
      measure: key of the measure that chooses; "" for the experiment's first.
    """

    rates: Sequence[float]
    measure: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Describes a question and the runs that answer it.

    Attributes:
      question: the question, in one sentence.
      recipe: recipe of pre-training, by name or file.
      overrides: overrides of the recipe in every arm, by key, such as {"train.num_steps": 1000}.
      arms: what each arm changes in addition; the first arm is the one that the others are compared with.
      seeds: values of config.seed, the same in every arm: seed s of one arm is paired with seed s of another.
      measures: the metrics to compare.
      evaluation: data settings of the evaluation that is the same for all arms (arguments of
        bert_jax.training.evaluation.evaluate); None for no such evaluation.
      fine_tuning: tasks that every pre-trained model is fine-tuned on.
      published: names of tables in published.TABLES that the report shows beside the results.
      text: text of the corpus.
      notes: sentences that the report repeats: what a reader must know to read its numbers.
      equal_tokens: whether data.batch_size is set for each arm, once the corpus is prepared, so that a step has as many
        non-padding tokens as a step of the first arm (RoBERTa section 4.2).
      against: {arm: the arm that it is compared with}, where that is not the first.
      tuning: search of each arm's pre-training rate; None for the rates of recipe and arms.
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
    tuning: Tuning | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """Describes one arm with one seed: everything that run_job needs, written as job.json.

    Attributes:
      name: "ARM/seed-SEED", which is also its folder within the experiment's.
      arm, seed: the arm and the seed.
      recipe, overrides: recipe of pre-training and its overrides, seed and corpus included.
      evaluation: the experiment's `evaluation`.
      fine_tuning: {"name", "recipe", "overrides"} of each task, seeds and files included.
    """

    name: str
    arm: str
    seed: int
    recipe: str
    overrides: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    fine_tuning: Sequence[Mapping[str, Any]]


def load(path: str | pathlib.Path, scale: str) -> Experiment:
    """Reads the experiment of a file, or of this package by its name, such as "masking".

    Raises:
      UserError: there is no such file, it has no get_experiment, or its experiment cannot be run.
    """
    path = pathlib.Path(path)
    if not path.exists() and path.parent.as_posix() in (".", "experiments"):  # by its name, like a recipe
        named = pathlib.Path(__file__).parent / f"{path.stem}.py"
        path = named if named.is_file() else path
    if not path.is_file():
        names = listing.experiment_names()
        near = files.closest_path(path, is_folder=False) or config_lib.closest(path.stem, names)
        near = near or f", or one of {', '.join(names)}"
        raise UserError(f"--experiment={path}: no such file; expected one with get_experiment(scale){near}")
    if path.suffix != ".py":
        raise UserError(f"--experiment={path}: not an experiment; expected a Python file with get_experiment(scale)")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_experiment"):
            raise UserError(f"--experiment={path}: no function get_experiment(scale) in it")
        experiment = module.get_experiment(scale)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file is a program: anything may go wrong in it
        raise UserError(f"--experiment={path}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(experiment, Experiment):
        kind = type(experiment).__name__
        raise UserError(f"--experiment={path}: get_experiment returned {kind}; expected an Experiment")
    check(experiment, str(path))
    return experiment


def check(experiment: Experiment, where: str) -> None:
    """Raises UserError if an experiment cannot be run; the message names `where` it is from and the part at fault."""

    def wrong(part, found, expected):
        raise UserError(f"{where}: {part}: found {found}; expected {expected}")

    arms = experiment.arms
    if not isinstance(arms, Mapping) or not all(isinstance(changes, Mapping) for changes in arms.values()):
        wrong("arms", f"{arms!r:.80}", "{name: {key: value}}")
    if len(arms) < 2:
        wrong("arms", len(arms), "two or more")
    for arm, changes in arms.items():
        if not isinstance(arm, str) or not re.fullmatch(r"[^./\\\0\n][^/\\\0\n]{0,79}", arm) or arm in RESERVED:
            wrong("arms", f"{arm!r:.80}", f"names that can be a folder's, and none of {', '.join(RESERVED)}")
        _refuse(changes, _SET_BY_LAUNCHER, f"arm {arm}", where)
    _refuse(experiment.overrides, _SET_BY_LAUNCHER, "overrides", where)
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
    for task in experiment.fine_tuning:
        if task.rates is not None:
            _check_rates(task.rates, f"fine_tuning {task.name}: rates", wrong)
            _refuse(task.overrides, {"optimizer.learning_rate": "FineTuning.rates"}, f"fine_tuning {task.name}", where)
    if experiment.tuning is not None:
        _check_tuning(experiment, wrong, where)
    names = [task.name for task in experiment.fine_tuning]
    if len(set(names)) < len(names):
        wrong("fine_tuning", names, "different names")
    for arm, changes in experiment.arms.items():
        with _naming(f"{where}: arm {arm}"):
            config_lib.validate(configured(experiment.recipe, {**experiment.overrides, **changes, "data.corpus": "-"}))
    for task in experiment.fine_tuning:
        with _naming(f"{where}: fine_tuning {task.name}"):
            configured(task.recipe, task.overrides)


def _check_tuning(experiment, wrong, where):
    tuning = experiment.tuning
    _check_rates(tuning.rates, "tuning: rates", wrong)
    for arm, changes in experiment.arms.items():
        _refuse(changes, {"optimizer.learning_rate": "Experiment.tuning"}, f"arm {arm}", where)
    measures = {measure.key: measure for measure in experiment.measures}
    key = tuning.measure or next(iter(measures))
    if key not in measures:
        wrong("tuning: measure", key, f"one of {', '.join(measures)}")
    if key.startswith("eval/"):
        wrong(
            "tuning: measure", key, "common/... or a task's, since a run's own evaluation is on rows that are reported"
        )
    if key.startswith("common/") and not (experiment.evaluation or {}).get("batches"):
        wrong("tuning: measure", key, "Experiment.evaluation with batches, behind which the rows to choose on begin")


def _check_rates(rates, part, wrong):
    good = isinstance(rates, list | tuple) and len(set(rates)) == len(rates) > 1
    if not good or not all(isinstance(rate, float) and 0 < rate < 1 for rate in rates):
        wrong(part, f"{rates!r:.80}", "two or more different rates between 0 and 1")


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
    """Returns the config of a recipe with overrides applied.

    Raises:
      UserError: there is no such recipe or key, or a value has another type.
    """
    config = config_lib.load_recipe(recipe)
    for key, value in overrides.items():
        config_lib.check_key(key, config)
        group, _, name = key.rpartition(".")
        part = config[group] if group else config
        value = config_lib.value_of_word(key, value)
        try:
            part[name] = tuple(value) if isinstance(value, list) else value
        except TypeError as error:
            raise UserError(f"config.{key}: found {value!r}; expected a {type(part[name]).__name__}") from error
    unchanged = config_lib.load_recipe(recipe)
    finetune_config.follow_train(config, unchanged, overrides)
    finetune_config.follow_adapters(config, unchanged, overrides)
    return config


def jobs(
    experiment: Experiment,
    corpus: str,
    task_files: Mapping[str, Mapping[str, Any]],
    rates: Mapping[str, float] | None = None,
) -> list[Job]:
    """Returns the jobs of an experiment, seed by seed, so that all arms have run with one seed before the next.

    Args:
      experiment: the experiment (`load`).
      corpus: the corpus that all runs read.
      task_files: {task name: overrides that name its data files}.
      rates: {arm: pre-training rate that tuning chose}; None without tuning.
    """
    all_jobs = []
    for seed in experiment.seeds:
        for arm, changes in experiment.arms.items():
            rate = {"optimizer.learning_rate": rates[arm]} if rates else {}
            overrides = _with_seed(
                {**experiment.overrides, **changes, **rate, "seed": seed, "data.corpus": corpus}, seed
            )
            tasks = _job_tasks(experiment.fine_tuning, task_files)
            all_jobs.append(
                Job(f"{arm}/seed-{seed}", arm, seed, experiment.recipe, overrides, experiment.evaluation, tasks)
            )
    return all_jobs


def tuning_jobs(experiment: Experiment, corpus: str, task_files: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """Returns the jobs that choose each arm's pre-training rate, one for each arm and rate; arguments as of `jobs`.

    Their seed is the one after the largest of the reported runs, their rows and examples are those of `Tuning`.
    """
    tuning, seed = experiment.tuning, max(experiment.seeds) + 1
    key = tuning.measure or experiment.measures[0].key
    evaluation, tasks = None, []
    if key.startswith("common/"):
        evaluation = {**experiment.evaluation, "skip": experiment.evaluation["batches"]}
    else:
        tasks = _job_tasks([task for task in experiment.fine_tuning if task.name == key.partition("/")[0]], task_files)
        tasks = [{**task, "overrides": {**task["overrides"], **TUNING_SPLIT}} for task in tasks]
    all_jobs = []
    for rate in tuning.rates:
        for arm, changes in experiment.arms.items():
            own = {"optimizer.learning_rate": rate, "seed": seed, "data.corpus": corpus}
            overrides = _with_seed({**experiment.overrides, **changes, **own}, seed)
            all_jobs.append(Job(f"{arm}/tune-{rate:g}", arm, seed, experiment.recipe, overrides, evaluation, tasks))
    return all_jobs


# Overrides of a fine-tuning run that chooses a rate: a tenth of its training examples stands for those reported.
TUNING_SPLIT = {"task.held_out": "", "task.test": ""}


def chosen_rate(values: Mapping[float, float], higher_is_better: bool) -> float:
    """Returns the rate with the best value, of equal ones the smallest; values that are not finite are worst."""
    sign = -1 if higher_is_better else 1
    finite = {rate: sign * value for rate, value in values.items() if value is not None and math.isfinite(value)}
    return min(finite, key=lambda rate: (finite[rate], rate)) if finite else min(values)


def _job_tasks(tasks, task_files):
    return [
        {
            "name": task.name,
            "recipe": task.recipe,
            "overrides": {**task.overrides, **task_files.get(task.name, {}), "seeds": task.seeds},
        }
        | ({"rates": list(task.rates)} if task.rates else {})
        for task in tasks
    ]


def _with_seed(overrides, seed):
    """Puts the seed into the names of models, as in --model=TEACHER-{seed}."""
    models = ("init_from", "distillation.teacher")
    return {
        key: value.replace(SEED, str(seed)) if key in models and isinstance(value, str) else value
        for key, value in overrides.items()
    }
