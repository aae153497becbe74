"""Writes folders of experiments as launched ones leave them, with figures that a test chooses."""

import json
import pathlib
from collections.abc import Mapping, Sequence

LOSS = {"key": "eval/mlm_loss", "label": "held-out loss (nats)", "higher_is_better": False, "only": []}
ACCURACY = {"key": "sst2/accuracy", "label": "SST-2 (accuracy)", "higher_is_better": True, "only": []}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_experiment(workdir: pathlib.Path, names: Sequence[str], seeds: Sequence[int], **changes) -> None:
    """experiment.json of a small one; `changes` replaces keys."""
    content = {
        "format_version": 1,
        "name": "masking",
        "scale": "cpu",
        "question": "Does it matter whether an instance is masked anew each time it is seen?",
        "recipe": "quickstart",
        "overrides": {"train.num_steps": 40},
        "arms": {arm: {"data.masking": arm} for arm in names},
        "seeds": list(seeds),
        "measures": [LOSS],
        "evaluation": {"batches": 4},
        "fine_tuning": [],
        "published": ["roberta/1"],
        "notes": [],
        "corpus": str(workdir / "corpus"),
        "command": f"python -m experiments.launch --experiment=experiments/masking.py --workdir={workdir} --scale=cpu",
    }
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "experiment.json").write_text(json.dumps(content | changes))


def write_job(
    workdir: pathlib.Path,
    arm: str,
    seed: int,
    figures: Mapping | None = None,
    failed: Sequence[str] | None = None,
    each: Mapping | None = None,
    **start,
) -> pathlib.Path:
    """A job's folder: done with `figures`, failed with last lines, else begun; `start` replaces keys of its start."""
    folder = workdir / arm / f"seed-{seed}"
    (folder / "pretrain").mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    of_start = {
        "time": "2026-01-02T03:04:05+0000",
        "command": "python -m experiments.run_job x",
        "host": "secret-host",
        "pid": 1,
        "commit": COMMIT,
        "diff": "",
        "python": "3.11.2",
        "packages": {"jax": "0.10.2", "numpy": "2.4.6"},
        "devices": ["cpu:cpu"],
        "cores": 2,
    }
    (folder / "starts.jsonl").write_text(json.dumps(of_start | start) + "\n")
    rows = [{"step": 10 * i, "loss": 6 - i / 2 + seed / 10, "mlm_loss": 6 - i / 2 + seed / 10} for i in range(1, 5)]
    for row in rows[1::2]:
        row["eval/mlm_loss"] = row["loss"] + 0.1
    (folder / "pretrain" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if figures is not None:
        result = {"figures": figures, "each": each or {}, "steps": 40, "tokens": 20480, "epochs": 1.25}
        (folder / "result.json").write_text(json.dumps(result))
    elif failed is not None:
        content = {"stage": "pretrain", "code": 1, "lines": failed}
        (folder / "failed.json").write_text(json.dumps(content))
    else:
        (folder / "log.txt").write_text("step 10/40  loss 5.5\nstep 20/40  loss 5.0\n")
    return folder


def write(workdir: pathlib.Path, figures: Mapping[str, Sequence[float | None]], key="eval/mlm_loss", **changes) -> None:
    """Writes an experiment with one measure: the metrics of each arm by seed; None for a job that has none yet."""
    seeds = range(max(map(len, figures.values())))
    write_experiment(workdir, list(figures), seeds, **changes)
    for arm, values in figures.items():
        for seed, value in enumerate(values):
            write_job(workdir, arm, seed, None if value is None else {key: value})
