"""Reads from a workdir what its model card says of the training."""

import json
import os
import pathlib
from collections.abc import Mapping

from bert_jax import _moved, storage
from bert_jax.interop.model_card import Provenance
from bert_jax.runs import checkpoints, outcomes
from bert_jax.runs import workdir as workdir_lib


@_moved.renamed_arguments(asked="requested")
def read_provenance(name: str | os.PathLike, step: int, requested: int | str | None = None) -> Provenance:
    """Returns what a run's files say of the model of one of its checkpoints.

    Args:
      name: the workdir.
      step: the checkpoint's step.
      requested: what the user gave for the step. For an average of checkpoints, "mean:K" or "ema:DECAY", the averaged
        steps are returned and no metrics, as the average was not evaluated.

    Raises:
      UserError: no such run.
    """
    workdir = workdir_lib.to_path(name)
    run, config = workdir_lib.read(workdir)
    base_model = base_model_name(workdir_lib.split_step(config.init_from)[0])
    if run.get("kind") == "finetune":
        reached = outcomes.Outcomes.from_json(checkpoints.load_record(workdir, step))
        metrics = {key.removeprefix("eval/"): value for key, value in reached.seeds[reached.best()].best.items()}
        task = config.task
        texts = tuple((pathlib.PurePath(task[key]).name, run["data"][split][1])
                      for key, split in (("train", "train"), ("held_out", "held out"))
                      if task.get(key) and split in run.get("data", {}))  # fmt: skip
        share = "" if task.held_out else f"the held-out {task.held_out_share:.0%} of "
        evaluated_on = share + pathlib.PurePath(task.held_out or task.train).name
        return Provenance(step, base_model, texts[:1], metrics, evaluated_on)
    texts = tuple((pathlib.PurePath(corpus["path"]).name, corpus["fingerprint"]) for corpus in run["corpora"])
    known = [corpus.get("language", "") for corpus in run["corpora"]]
    languages = tuple(dict.fromkeys(known)) if all(known) else ()
    evaluated_on = f"held-out documents of {', '.join(name for name, _ in texts)}"
    if checkpoints.is_average(requested):
        averaged = tuple(checkpoints.averaged_steps(workdir, str(requested)))
        return Provenance(step, base_model, texts, averaged_steps=averaged, average=str(requested), languages=languages)
    return Provenance(step, base_model, texts, _held_out_metrics(workdir, step), evaluated_on, languages=languages)


def base_model_name(name):
    """Returns what a card calls a model: a hub name as it is, and the last part of a local path.

    The other parts of a path may say more than is meant.
    """
    path = pathlib.PurePath(name)
    return path.name if path.is_absolute() or len(path.parts) != 2 or pathlib.Path(name).exists() else name


def _held_out_metrics(workdir: pathlib.Path, step: int) -> Mapping[str, float]:
    """Returns the held-out metrics of the last evaluation up to a step; {} where there was none."""
    metrics = {}
    try:
        with storage.reporting(str(workdir)):
            lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        held_out = {key.removeprefix("eval/"): value for key, value in row.items() if key.startswith("eval/")}
        if held_out and row.get("step", 0) <= step:
            metrics = {
                key: value
                for key, value in held_out.items()
                if isinstance(value, int | float) and key != "unigram_loss"
            }  # that is a baseline
    return metrics
