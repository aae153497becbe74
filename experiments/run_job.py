"""Runs one job of an experiment, or continues it; every executor starts jobs with this command.

    python -m experiments.run_job FOLDER

A job is pre-training, the evaluation that is the same for all arms, and fine-tuning; at its end it writes result.json.
Finished stages are not repeated. Exit codes: 0 done; 1 or 2 failed, with failed.json; 75 stopped by a signal, or run by
another process.
"""

import contextlib
import os
import pathlib
import platform
import socket
import statistics
import sys
import time
import traceback
from importlib import metadata

from absl import flags

from bert_jax import command, files
from bert_jax.errors import UserError
from bert_jax.processes import clusters, signals

from .experiment import TUNING_SPLIT, chosen_rate, configured
from .launching import folders, local, provenance

_RATE = "optimizer.learning_rate"
STOPPED = 75  # EX_TEMPFAIL: the job should be started again
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tokenizers", "ml_collections")


class Stopped(Exception):
    """Says that a signal has ended the job early."""


def main(argv):
    local.end_with_launcher()
    folder = pathlib.Path(argv[1])
    if not folder.is_dir():
        near = files.closest_path(folder, is_folder=True)
        raise UserError(f"{folder}: no such folder; expected one that experiments.launch made{near}")
    _redirect_output(folder)
    job = folders.read_job(folder)
    with signals.exit_on_sigterm(), command.processes():
        from bert_jax.processes import distributed

        with folders.locked(folder) as mine:
            if not mine and not distributed.is_multiprocess():
                print(f"{folder}: another process runs this job", flush=True)
                sys.exit(STOPPED)
            if distributed.is_first():
                _note_start(folder)
                (folder / "failed.json").unlink(missing_ok=True)
            _run(job, folder)


def _run(job, folder):
    from bert_jax.processes import distributed

    stage = "pretrain"
    try:
        metrics = _pretrained(job, folder)
        stage = "evaluate"
        common = _evaluated(job, folder)
        metrics |= {f"common/{name}": value for name, value in common.items()}
        _evaluated_along(job, folder, common)
        scores, tuned = {}, {}
        for task in job.fine_tuning:
            if "rates" in task:
                stage = f"tune-{task['name']}"
                tuned[task["name"]] = _tuned(task, folder)
                task = {**task, "overrides": {**task["overrides"], _RATE: tuned[task["name"]]["chosen"]}}
            stage = f"finetune-{task['name']}"
            summary = _fine_tuned(task, folder)
            key = f"{task['name']}/{summary['metric'].rpartition('/')[2]}"  # with several held-out sets, the first one
            scores[key] = summary["scores"]
            finite = None not in scores[key]  # a seed whose loss was never finite has no score
            metrics[key] = statistics.fmean(scores[key]) if finite else None
        if distributed.is_first():
            result = {"figures": metrics, "each": scores} | ({"tuning": tuned} if tuned else {})
            folders.write_json(folder / "result.json", result | _amount(job, folder))
    except Stopped:
        sys.exit(STOPPED)
    except Exception as error:
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        if distributed.is_first():
            folders.write_failed(folder, stage, 2 if isinstance(error, UserError) else 1)
        if distributed.is_multiprocess():
            raise
        sys.exit(2 if isinstance(error, UserError) else 1)


def _pretrained(job, folder):
    """Pre-trains; returns the metrics of the last evaluation by their names in metrics.jsonl."""
    from bert_jax import config as config_lib
    from bert_jax.runs import checkpoints
    from bert_jax.training import pretraining

    config = configured(job.recipe, job.overrides)
    _share_programs(config, folder)
    workdir = folder / "pretrain"
    pretraining.pretrain(config, workdir, config_lib.load_recipe(job.recipe))
    num_steps = config_lib.num_steps(config)
    if checkpoints.saved_steps(workdir.absolute() / "checkpoints")[-1:] != [num_steps]:
        raise Stopped
    rows = files.whole_objects((workdir / "metrics.jsonl").read_bytes())
    last = rows[-1] if rows and rows[-1]["step"] == num_steps else {}
    return {name: value for name, value in last.items() if name.startswith("eval") and value is not None}


def _evaluated(job, folder):
    """Evaluates in the way that is the same for all arms, and returns the metrics."""
    from bert_jax.processes import distributed
    from bert_jax.runs.models import open_model
    from bert_jax.training import evaluation

    if job.evaluation is None:
        return {}
    path = folder / "common.json"
    if not path.exists():
        model = open_model(folder / "pretrain")
        metrics = evaluation.evaluate(model, job.overrides["data.corpus"], **job.evaluation)
        if distributed.is_first():
            folders.write_json(path, metrics)
        return metrics
    return folders.read_json(path)


def _evaluated_along(job, folder, common):
    """Evaluates each kept checkpoint of the run (train.keep_every) in the way that is the same for all arms.

    `common` holds the metrics of the last one.
    """
    from bert_jax.processes import distributed
    from bert_jax.runs import checkpoints as checkpoint
    from bert_jax.runs.models import open_model
    from bert_jax.training import evaluation

    path, every = folder / "along.jsonl", configured(job.recipe, job.overrides).train.keep_every
    if job.evaluation is None or not every or "skip" in job.evaluation:  # a job that a rate is chosen from
        return
    rows = files.whole_objects(path.read_bytes()) if path.exists() else []
    known = {row["step"] for row in rows}
    steps = checkpoint.saved_steps((folder / "pretrain").absolute() / "checkpoints")
    for step in steps:
        if step in known or (step % every and step != steps[-1]):
            continue
        metrics = common
        if step != steps[-1]:
            model = open_model(folder / "pretrain", step=step)
            metrics = evaluation.evaluate(model, job.overrides["data.corpus"], **job.evaluation)
        rows.append({"step": step} | {f"common/{name}": value for name, value in metrics.items()})
        if distributed.is_first():
            files.atomic_write(path, "".join(f"{files.json_line(row)}\n" for row in rows))


def _tuned(task, folder):
    """Chooses the task's rate on a tenth of its training examples, with one seed for each rate."""
    values = {}
    for rate in task["rates"]:
        overrides = {**task["overrides"], **TUNING_SPLIT, _RATE: rate, "seeds": 1}
        summary = _fine_tuned({**task, "overrides": overrides}, folder, f"tune-{task['name']}-{rate:g}")
        values[rate] = summary["scores"][0]
    chosen = chosen_rate(values, higher_is_better=True)
    return {"values": {f"{rate:g}": value for rate, value in values.items()}, "chosen": chosen, "runs": len(values)}


def _fine_tuned(task, folder, name=""):
    from bert_jax.finetuning.run import finetune

    config = configured(task["recipe"], task["overrides"])
    config.init_from = str(folder / "pretrain")
    _share_programs(config, folder)
    summary = finetune(config, folder / (name or f"finetune-{task['name']}"))
    if not summary:
        raise Stopped
    return summary


def _share_programs(config, folder):
    """Lets all jobs of the experiment share one compilation cache."""
    if config.train.compilation_cache == "auto":
        config.train.compilation_cache = str(folder.absolute().parents[1] / "compiled")


def _amount(job, folder):
    """Returns how much text the run saw: tokens, padding included, and passes over the training instances."""
    from bert_jax import config as config_lib
    from bert_jax.data import loader

    config = configured(job.recipe, job.overrides)
    stream = loader.Stream(config)
    tokens = passes = 0
    for phase in stream.phases:
        rows = (phase.stop - phase.start) * phase.data.batch_size
        tokens += rows * phase.data.sequence_length
        passes += rows / sum(source.counts.mean() for source in stream.sources(phase))
    return {"steps": config_lib.num_steps(config), "tokens": tokens, "epochs": round(passes, 4)}


def _redirect_output(folder):
    """Redirects the output of this process to the folder's log."""
    values = flags.FLAGS
    cluster = clusters.detect(os.environ, values.coordinator_address, values.num_processes, values.process_id)
    index = cluster.process_id if cluster else 0
    log = folder / ("log.txt" if not index else f"log-{index}.txt")
    sys.stdout.flush()
    with contextlib.suppress(OSError):  # a full disk: the job goes on without a log
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)


def _note_start(folder):
    import jax

    code, submitted = provenance.code(folder), folder / "submitted.json"
    if not code["commit"] and submitted.exists():  # the submitting machine's, if this one has no repository
        code = folders.read_json(submitted)
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(sys.orig_argv),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "commit": code["commit"],
        "diff": code["diff"],
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "cores": len(local.allowed_cores()),
    }
    try:
        with open(folder / "starts.jsonl", "a", encoding="utf-8") as file:
            file.write(files.json_line(start) + "\n")
    except OSError as error:
        print(f"warning: {folder / 'starts.jsonl'}: {error.strerror or error}", flush=True)


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    command.define_process_flags()
    command.run(main, positional="FOLDER", outlives_output=True)
