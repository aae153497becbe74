"""Runs an experiment, or continues it: every arm with every seed.

    python -m experiments.launch --experiment=experiments/masking.py --workdir=DIR --scale=cpu
    python -m experiments.launch --workdir=DIR --status
    python -m experiments.report --workdir=DIR

Prepares the corpus, unless --corpus names one, and runs the jobs that are not done. The same command started again
repeats nothing, and continues the jobs that were stopped, killed or have failed.
"""

import ast
import contextlib
import dataclasses
import importlib.util
import pathlib
import shlex
import signal
import sys

from absl import flags

from bert_jax import command, outputs
from bert_jax.errors import UserError
from bert_jax.files import closest_path

from . import experiment as experiment_lib
from . import scales
from .launching import folders, local, provenance

_EXPERIMENT = flags.DEFINE_string("experiment", None, "a file with get_experiment(scale), or a name such as masking")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the experiment; an experiment in it is continued", required=True
)
_SCALE = flags.DEFINE_enum("scale", "smoke", list(scales.SCALES), "size of the runs (experiments/scales.py)")
_EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm", "cloud"], "where jobs run")
_JOBS = flags.DEFINE_integer(
    "jobs", 0, "local: jobs at a time; 0: one a GPU, else one a core, at most 4", lower_bound=0,
    upper_bound=1_024)  # fmt: skip
_SLURM = flags.DEFINE_multi_string("slurm", [], "option KEY=VALUE of launching/slurm.py, such as partition=gpu")
_CLOUD = flags.DEFINE_multi_string(
    "cloud", [], "option KEY=VALUE of launching/cloud.py, such as accelerators=tpu-v5e-8"
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "number of seeds, 0, 1, ..., instead of the experiment's", lower_bound=1, upper_bound=10_000
)
_TEXT = flags.DEFINE_string(
    "text", None, "text to prepare the corpus from (--input of prepare), instead of the experiment's"
)
_CORPUS = flags.DEFINE_string("corpus", None, "a corpus that prepare wrote, instead of one prepared here")
_TASKS = flags.DEFINE_list("tasks", None, "tasks to fine-tune on, instead of the experiment's: bigram_shift, sst2, ...")
_MODEL = flags.DEFINE_string("model", None, "model that the experiment starts from, such as a teacher: see its file")
_SET = flags.DEFINE_multi_string("set", [], "override KEY=VALUE of the pre-training recipe, in every arm")
_SET_TASK = flags.DEFINE_multi_string(
    "set_task", [], "override TASK:KEY=VALUE of a task's recipe, such as sst2:task.train=FILE"
)
_TUNE = flags.DEFINE_list(
    "tune",
    None,
    "pre-training rates to choose from for each arm, such as 5e-4,1e-3,2e-3, on rows that are not reported",
)
_TUNE_TASK = flags.DEFINE_multi_string(
    "tune_task", [], "TASK:RATE,RATE,...: fine-tuning rates to choose from for each model, on examples not reported"
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print what would run, and write nothing")
_FILES = ("task.train", "task.held_out", "task.test")
_STATUS = flags.DEFINE_bool("status", False, "show the state of the jobs; on a terminal, refreshed until they end")


def main(argv):
    del argv
    workdir = pathlib.Path(_WORKDIR.value).absolute()  # jobs run in the repository's root
    if _STATUS.value:
        from .launching import status

        status.watch(workdir)
        return
    if not _EXPERIMENT.value:
        raise UserError("--experiment: missing; expected a file with get_experiment(scale)")
    experiment = _requested()
    name = pathlib.Path(_EXPERIMENT.value).stem
    outputs.check_unused("workdir", workdir, (outputs.EXPERIMENT,), experiment_lib.RESERVED, name)
    folders.check_experiment(workdir, _described(experiment), settled=not experiment.equal_tokens)
    if _DRY_RUN.value:
        _say_what_would_run(experiment, workdir)
        return
    _check_executor(experiment)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written: {error.strerror}; expected a folder") from error
    with folders.locked(workdir) as mine:
        if not mine:
            raise UserError(f"--workdir={workdir}: another launcher is at work in it; expected its end first")
        experiment, corpus, files = _prepared(experiment, workdir)
        rates, ended, job_folders = None, "", []
        if experiment.tuning:
            job_folders = [
                folders.write_job(workdir, job) for job in experiment_lib.tuning_jobs(experiment, corpus, files)
            ]
            ended = _executor().submit(job_folders, say=_say, **_options())
            rates = _chosen_rates(experiment, workdir, job_folders)
        if rates or not experiment.tuning:
            job_folders = [
                folders.write_job(workdir, job) for job in experiment_lib.jobs(experiment, corpus, files, rates)
            ]
            ended = ended or _executor().submit(job_folders, say=_say, **_options())
        else:
            _say("rates are not chosen yet: start the same command again when these jobs are done")
    states = [folders.state(folder) for folder in job_folders]
    begun = "" if _EXECUTOR.value == "local" else f", {len(states) - states.count('done')} submitted or running"
    _say(f"{states.count('done')} of {len(states)} jobs are done, {states.count('failed')} failed{begun}, in {workdir}")
    if ended:
        _say(f"{ended}: stopped; start the same command again to continue")
        sys.exit(128 + signal.Signals[ended])
    if set(states) == {"done"}:
        _say(f"the report: {provenance.command_line('report')} --workdir={shlex.quote(str(workdir))}")
    elif "failed" in states:
        sys.exit(1)


def _requested():
    """Returns the experiment of the file, changed by the flags."""
    experiment = experiment_lib.load(_EXPERIMENT.value, _SCALE.value)
    if _TASKS.value is not None:
        experiment = scales.with_tasks(experiment, [name for name in _TASKS.value if name], _SCALE.value)
    changes = {}
    if _SEEDS.value:
        changes["seeds"] = tuple(range(_SEEDS.value))
    if _TEXT.value and _CORPUS.value:
        raise UserError(f"--text={_TEXT.value}: not read beside --corpus={_CORPUS.value}; expected one of them")
    if _TEXT.value:
        changes["text"] = dataclasses.replace(experiment.text, input=_TEXT.value)
    if _SET.value:
        everywhere = _parsed(_SET.value, "--set")
        for arm, own in experiment.arms.items():
            for key in everywhere.keys() & own.keys():
                raise UserError(f"--set={key}: arm {arm} sets it itself; expected a key that is equal in every arm")
        changes["overrides"] = {**experiment.overrides, **everywhere}
    if _SET_TASK.value:
        changes["fine_tuning"] = _with_settings(experiment.fine_tuning)
    if _TUNE.value:
        measure = experiment.tuning.measure if experiment.tuning else ""
        changes["tuning"] = experiment_lib.Tuning(_rates(_TUNE.value, "--tune"), measure)
    if _TUNE_TASK.value:
        changes["fine_tuning"] = _with_rates(changes.get("fine_tuning", experiment.fine_tuning))
    experiment = _with_model(dataclasses.replace(experiment, **changes))
    experiment_lib.check(experiment, _EXPERIMENT.value)
    return experiment


def _with_model(experiment):
    """Returns the experiment with --model in place of MODEL."""

    def filled(overrides):
        return {key: model if value == experiment_lib.MODEL else value for key, value in overrides.items()}

    places = [experiment.overrides, *experiment.arms.values()]
    asks, model = any(experiment_lib.MODEL in place.values() for place in places), _MODEL.value
    if asks != bool(model):
        given, expected = (f"--model={model}", "no --model") if model else ("no --model", "a model, as its file says")
        raise UserError(f"--experiment={_EXPERIMENT.value}: found {given}; expected {expected}")
    if model and experiment_lib.SEED in model:
        for seed in experiment.seeds:
            if not pathlib.Path(model.replace(experiment_lib.SEED, str(seed))).exists():
                raise UserError(f"--model={model}: nothing there for seed {seed}; expected a model for each seed")
        model = str(pathlib.Path(model).absolute())
    elif model and pathlib.Path(model).exists():
        model = str(pathlib.Path(model).absolute())  # jobs run in another folder
    arms = {arm: filled(changes) for arm, changes in experiment.arms.items()}
    return dataclasses.replace(experiment, overrides=filled(experiment.overrides), arms=arms)


def _with_settings(tasks):
    by_name = {task.name: {} for task in tasks}
    for text in _SET_TASK.value:
        name, colon, setting = text.partition(":")
        if not colon or name not in by_name:
            names = ", ".join(by_name) or "none, as --tasks is empty"
            raise UserError(f"--set_task={text}: expected TASK:KEY=VALUE with TASK one of {names}")
        parsed = _parsed([setting], f"--set_task={name}:")
        by_name[name] |= {key: _file(value, text) if key in _FILES else value for key, value in parsed.items()}
    return tuple(dataclasses.replace(task, overrides={**task.overrides, **by_name[task.name]}) for task in tasks)


def _with_rates(tasks):
    by_name = {}
    for text in _TUNE_TASK.value:
        name, colon, rates = text.partition(":")
        if not colon or name not in {task.name for task in tasks}:
            names = ", ".join(task.name for task in tasks) or "none, as --tasks is empty"
            raise UserError(f"--tune_task={text}: expected TASK:RATE,RATE,... with TASK one of {names}")
        by_name[name] = _rates(rates.split(","), f"--tune_task={name}")
    return tuple(_with_task_rates(task, by_name[task.name]) if task.name in by_name else task for task in tasks)


def _with_task_rates(task, rates):
    rest = {key: value for key, value in task.overrides.items() if key != "optimizer.learning_rate"}
    return dataclasses.replace(task, overrides=rest, rates=rates)


def _rates(words, flag):
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise UserError(f"{flag}: found {','.join(words)}; expected rates such as 5e-4,1e-3") from error


def _file(value, text):
    """Returns a task's file as an absolute path: jobs run in another folder. Raises UserError if it is missing."""
    if value.startswith(("tfds:", "hf:")) or "://" in value or "=" in value:
        return value
    if not pathlib.Path(value).is_file():
        raise UserError(f"--set_task={text}: no such file{closest_path(value, is_folder=False)}")
    return str(pathlib.Path(value).absolute())


def _parsed(settings, flag):
    """Returns {key: value} for KEY=VALUE texts; a value is a Python literal, or else text."""
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"{flag}={setting}: expected KEY=VALUE")
        value = text
        with contextlib.suppress(SyntaxError, ValueError):
            value = ast.literal_eval(text)
        if values.get(key, value) != value:
            raise UserError(f"{flag}={setting}: {key} is {values[key]} before; expected each key once")
        values[key] = value
    return values


def _chosen_rates(experiment, workdir, job_folders):
    """Writes tuning.json and returns {arm: rate}; None while a tuning job is not done."""
    if any(folders.state(folder) != "done" for folder in job_folders):
        return None
    tuning = experiment.tuning
    key = tuning.measure or experiment.measures[0].key
    higher = next(measure.higher_is_better for measure in experiment.measures if measure.key == key)
    results = {folder: folders.read_json(folder / "result.json") for folder in job_folders}
    arms, rates = {}, {}
    for arm in experiment.arms:
        values = {
            rate: results[workdir / arm / f"tune-{rate:g}"]["figures"].get(key) for rate in experiment.tuning.rates
        }
        rates[arm] = experiment_lib.chosen_rate(values, higher)
        arms[arm] = {"values": {f"{rate:g}": value for rate, value in values.items()}, "chosen": rates[arm]}
    budget = {"runs": len(results), "tokens": sum(result["tokens"] for result in results.values())}
    folders.write_json(workdir / "tuning.json", {"measure": key, "arms": arms, **budget})
    _say("pre-training rates: " + ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items()))
    return rates


def _prepared(experiment, workdir):
    """Makes what the jobs need, writes experiment.json, and returns (experiment, corpus, files of the tasks)."""
    from .launching import preparing

    corpus = _corpus_path()
    if not corpus:
        _say(f"the corpus: {experiment.text.input}, in {workdir / 'corpus'}")
        preparing.make_corpus(experiment.text, workdir / "corpus")
    where = corpus or str(workdir / "corpus")
    if "://" not in where:
        preparing.Corpus.open(where)
    if experiment.tuning:
        preparing.check_tuning_rows(experiment, where)
    if experiment.equal_tokens:
        experiment = preparing.with_equal_tokens(experiment, where)
    files = {}
    for task in experiment.fine_tuning:
        if task.made_from_corpus:
            made = preparing.make_bigram_shift(preparing.Corpus.open(where), workdir / "tasks" / task.name)
            files[task.name] = {key: _from_workdir(value, workdir) for key, value in made.items()}
    folders.write_experiment(workdir, _described(experiment))
    return experiment, corpus or f"{folders.HERE}/corpus", files


def _corpus_path():
    """Returns the corpus of --corpus, absolute if it is local; "" where the launcher prepares one."""
    corpus = _CORPUS.value or ""
    return str(pathlib.Path(corpus).absolute()) if corpus and "://" not in corpus else corpus


def _described(experiment):
    """Returns the content of experiment.json."""
    line = shlex.join([*provenance.command_line("launch").split(), *sys.argv[1:]])
    name = pathlib.Path(_EXPERIMENT.value).stem
    changed = [
        flag
        for flag in ("seeds", "text", "corpus", "tasks", "set", "set_task", "tune", "tune_task")
        if flags.FLAGS[flag].present
    ]
    corpus = _corpus_path() or f"{folders.HERE}/corpus"
    return folders.described(experiment, name, _SCALE.value, corpus, line, changed)


def _check_executor(experiment):
    """Raises UserError if jobs could not run where --executor says, before the corpus is prepared for them."""
    _executor().check(**_options())
    if _EXECUTOR.value == "cloud":  # jobs have packages of their own there
        return
    for task in experiment.fine_tuning:
        data = experiment_lib.configured(task.recipe, task.overrides).task
        sources = [] if task.made_from_corpus else [data.train, data.held_out, data.test]
        for prefix, package in _PACKAGES.items():
            read = next((source for source in sources if prefix in source), "")
            if read and importlib.util.find_spec(package) is None:
                raise UserError(
                    f"--tasks: {task.name} reads {read}, and {package} is not installed; expected it, or a file: "
                    f"--set_task={task.name}:task.train=FILE"
                )


_PACKAGES = {"tfds:": "tensorflow_datasets", "hf:": "datasets"}


def _from_workdir(text, workdir):
    return text.replace(str(workdir), folders.HERE, 1) if text.startswith(str(workdir)) else text


def _say_what_would_run(experiment, workdir):
    corpus = _CORPUS.value or f"{folders.HERE}/corpus"
    jobs = experiment_lib.jobs(experiment, corpus, {})
    if experiment.tuning:
        jobs = [*experiment_lib.tuning_jobs(experiment, corpus, {}), *jobs]
    if not _CORPUS.value:
        text = experiment.text
        settings = {"input": text.input, "tokenizer": text.tokenizer, **text.settings, "output": workdir / "corpus"}
        print(shlex.join(["python", "-m", "bert_jax.prepare", *(f"--{k}={value}" for k, value in settings.items())]))
    if experiment.equal_tokens:
        print("# data.batch_size of each arm is set once the corpus is there")
    if experiment.tuning:
        print("# the jobs that choose rates (tune-...) run before the others")
    for line in _executor().commands([workdir / job.name for job in jobs], **_options()):
        print(line)


def _executor():
    if _EXECUTOR.value == "slurm":
        from .launching import slurm

        return slurm
    if _EXECUTOR.value == "cloud":
        from .launching import cloud

        return cloud
    return local


def _options():
    for name in ("slurm", "cloud"):
        if flags.FLAGS[name].value and name != _EXECUTOR.value:
            given = flags.FLAGS[name].value[0]
            raise UserError(f"--{name}={given}: with --executor={_EXECUTOR.value}; expected --executor={name}")
    if _EXECUTOR.value == "local":
        return {"jobs": _JOBS.value}
    given = _SLURM.value if _EXECUTOR.value == "slurm" else _CLOUD.value
    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--{_EXECUTOR.value}={text}: expected KEY=VALUE")
        options[key] = value
    return {"options": options}


def _say(line):
    print(line, flush=True)


if __name__ == "__main__":
    command.run(main, outlives_output=True, likely=("experiment", "workdir"), only_print=("dry_run", "status"))
