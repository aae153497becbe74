"""A score near chance is reported for every kind of task, and the findings of a run do not contradict each other."""

import dataclasses
import json
import pathlib
import re

import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.diagnosis import embedders, near_chance, reading, report
from bert_jax.diagnosis.finding import Finding
from bert_jax.runs import checkpoint_files

TASKS = {
    "sequence_classification": ["x", "y"],
    "token_classification": ["O", "B-X"],
    "question_answering": ["start", "end"],
}


def make_run(folder, name="sequence_classification", metric="accuracy", score=0.9, baseline=0.5, rows=400, width=768,
             predictions=None, summary=None, nonfinite=(), problem="single_label", unknown=None,
             **changes):  # fmt: skip
    config = finetune_config.base()
    config.task.name, config.task.train, config.init_from = name, "a.csv", "m"
    config.optimizer.learning_rate = 2e-5
    config.update_from_flattened_dict(changes)
    run = {
        "kind": "finetune", "model": {"hidden_size": width}, "labels": TASKS[name], "problem": problem,
        "data": {"train": [5000, ""], "held out": [rows, ""]},
    }  # fmt: skip
    run |= {} if unknown is None else {"unknown_token_share": unknown}
    written = {}
    if predictions is not None:
        (folder / "predictions").mkdir()
        path = folder / "predictions" / "held_out.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in predictions))
        written = {"predictions": {"held_out": {"file": "predictions/held_out.jsonl"}}}
    seeds = [{"seed": 0, "score": score, "last_score": score, "step": 400, "failure": ""}]
    if summary is None:
        summary = {"metric": metric, "median": score, "min": score, "max": score, "scores": [score],
                   "baseline": baseline, "seeds": seeds, **written}  # fmt: skip
    step = finetune_config.num_steps(config, 5000)
    row = {"step": step, "loss": 0.7, f"eval/{metric}": score}
    return reading.Run(pathlib.Path(folder), config, run, [row], nonfinite, False, summary=summary)


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"score": 0.51}, True), ({"score": 0.54}, True), ({"score": 0.7}, False),
        ({"score": 0.575, "baseline": 0.52, "rows": 1500}, True),
        ({"score": 0.66, "baseline": 0.52, "rows": 277}, False),
        ({"score": 0.10, "baseline": 0.01, "rows": 3000}, False),
        ({"score": 0.015, "baseline": 0.01, "rows": 3000}, True),
        ({"metric": "spearman", "score": 0.12, "baseline": None, "problem": "regression", "rows": 5000}, True),
        ({"metric": "spearman", "score": 0.3, "baseline": None, "problem": "regression", "rows": 30}, True),
        ({"metric": "spearman", "score": 0.3, "baseline": None, "problem": "regression", "rows": 1500}, False),
        ({"name": "token_classification", "metric": "accuracy", "score": 0.86, "baseline": 0.85}, True),
        ({"name": "token_classification", "metric": "accuracy", "score": 0.95, "baseline": 0.85}, False),
        ({"score": 0.94, "baseline": 0.93}, True), ({"score": 0.97, "baseline": 0.93, "rows": 2000}, False),
        ({"score": 0.515, "rows": 100_000}, True), ({"score": 0.8, "rows": 8}, True),
        ({"metric": "matched/accuracy", "score": 0.35, "baseline": 0.34}, True),
        ({"metric": "matthews", "score": 0.04, "baseline": 0.0}, True), ({"metric": "matthews", "score": 0.4}, False),
        ({"metric": "pearson", "score": 0.03, "baseline": None, "problem": "regression"}, True),
        ({"metric": "spearman", "score": 0.6, "baseline": None, "problem": "regression"}, False),
        ({"metric": "pearson", "score": -0.2, "baseline": None, "problem": "regression"}, True),
        ({"metric": "micro_f1", "score": 0.01, "baseline": 0.0, "problem": "multi_label"}, True),
        ({"name": "token_classification", "metric": "f1", "score": 0.02, "baseline": 0.0}, True),
        ({"name": "token_classification", "metric": "f1", "score": 0.3, "baseline": 0.0}, False),
        ({"name": "question_answering", "metric": "f1", "score": 4.0, "baseline": None}, True),
        ({"name": "question_answering", "metric": "exact_match", "score": 0.0, "baseline": None}, True),
        ({"name": "question_answering", "metric": "f1", "score": 60.0, "baseline": None}, False),
        ({"name": "question_answering", "metric": "f1", "score": 51.0, "baseline": 50.1}, True),
    ],
)  # fmt: skip
def test_scores_near_chance(tmp_path, options, near):
    run = make_run(tmp_path, **options)
    finding = near_chance.near_chance(run)
    assert (finding is not None) == near
    text = report.format_report(run, report.diagnose(run))
    assert ("nothing wrong found" in text) == (not near)
    if near:
        assert finding.severity == "warning" and finding.causes and "close to chance" in text


def test_chance_of_f1_is_that_of_the_better_constant_answer(tmp_path):
    """Where the negative label is the commonest, always answering it has an F1 of 0, and the positive one does not."""
    rows = [{"gold": "xy"[i % 5 < 2], "label": "xy"[i % 2]} for i in range(300)]
    run = make_run(tmp_path, metric="f1", score=0.58, baseline=0.0, predictions=rows)
    assert "f1 is 0.5800, and always answering 'y' scores 0.5714" in near_chance.near_chance(run).message


def test_the_majority_of_an_unfinished_run_is_that_of_its_checkpoint(tmp_path):
    run = make_run(tmp_path, score=0.91, summary={})
    assert near_chance.near_chance(run) is None
    record = tmp_path / "checkpoints" / "400" / "record"
    record.mkdir(parents=True)
    (record / "metadata").write_text(json.dumps({"baseline": 0.9}))
    checkpoint_files.write_manifest(record.parent, 400)
    assert "always giving the commonest answer scores 0.9000" in near_chance.near_chance(run).message


def test_one_answer_for_all(tmp_path):
    gold = [{"gold": "xy"[i % 3 == 0], "label": "x"} for i in range(300)]
    run = make_run(tmp_path / "a", metric="f1", score=0.54, baseline=0.0, predictions=gold, **made(tmp_path / "a"))
    assert "100.0% of the held-out examples get the answer 'x'" in near_chance.near_chance(run).message
    fair = [row | {"label": "xy"[i % 4 == 0]} for i, row in enumerate(gold)]
    run = make_run(tmp_path / "b", metric="f1", score=0.7, baseline=0.0, predictions=fair, **made(tmp_path / "b"))
    assert near_chance.near_chance(run) is None
    flat = [{"gold": i / 10, "score": 2.5} for i in range(50)]
    run = make_run(tmp_path / "c", metric="pearson", score=0.3, baseline=None, problem="regression", predictions=flat,
                   **made(tmp_path / "c"))  # fmt: skip
    assert "get the answer '2.5'" in near_chance.near_chance(run).message


def test_what_a_finding_asks_for_is_not_undone_by_a_later_one(tmp_path):
    run = make_run(tmp_path, **{"optimizer.learning_rate": 1e-4})
    first = Finding(
        "a", "error", "A.", ["try --config.optimizer.learning_rate=5e-5", "lengthen --config.optimizer.warmup_steps"]
    )
    second = Finding(
        "b", "warning", "B.", ["raise --config.train.num_epochs", "try --config.optimizer.learning_rate=3e-4"]
    )
    third = Finding("c", "note", "C.", ["try --config.optimizer.learning_rate=1e-3"])
    fourth = Finding("d", "note", "D.", ["use more text, fewer steps", "try --config.optimizer.learning_rate=2e-5"])
    kept = report._without_contradictions(run, [first, second, third, fourth])
    assert [finding.name for finding in kept] == ["a", "b", "d"]
    assert (
        kept[0].causes == first.causes and kept[1].causes == second.causes[:1] and kept[2].causes == fourth.causes[1:]
    )


def made(folder):
    folder.mkdir()
    return {}


def test_a_run_that_was_not_finished_is_judged_by_its_last_evaluation(tmp_path):
    assert near_chance.near_chance(make_run(tmp_path, score=0.5, summary={})) is not None
    assert near_chance.near_chance(make_run(tmp_path, score=0.8, summary={})) is None


@pytest.mark.parametrize("rate", [1e-7, 5e-6, 2e-5, 5e-5, 1e-4, 4e-4, 1e-3, 5e-3, 0.1])
@pytest.mark.parametrize("lora_rank", [0, 8])
@pytest.mark.parametrize("width", [128, 768])
@pytest.mark.parametrize("fell", [False, True])
@pytest.mark.parametrize("failed", [0, 1, 2])
def test_findings_do_not_contradict_each_other(tmp_path, rate, lora_rank, width, fell, failed):
    last = 0.4 if fell else 0.505
    seeds = [
        {"seed": i, "score": 0.51, "last_score": last, "step": 10, "failure": "no better" * (i < failed)}
        for i in (0, 1)
    ]
    summary = {"metric": "accuracy", "median": 0.51, "min": 0.5, "max": 0.51, "scores": [0.51] * 2, "baseline": 0.5}
    run = make_run(
        tmp_path, summary=summary | {"seeds": seeds}, width=width,
        **{"optimizer.learning_rate": rate, "tuning.lora_rank": lora_rank, "train.num_steps": 40},
    )  # fmt: skip
    findings = report.diagnose(run)
    text = report.format_report(run, findings)
    assert "nothing wrong found" not in text
    causes = [cause for finding in findings for cause in finding.causes]
    asked = [
        float(value) for cause in causes for value in re.findall(r"try --config.optimizer.learning_rate=(\S+)", cause)
    ]
    assert not (min(asked, default=rate) < rate < max(asked, default=rate)), asked
    epochs = [cause for cause in causes if "num_epochs" in cause or "epochs" in cause]
    assert not (any("fewer" in cause for cause in epochs) and any("raise" in c or "more ep" in c for c in epochs)), (
        epochs
    )
    low, high = finetune_config.rate_range(run.config, width)
    for value in asked:
        assert low * 0.99 <= value <= high * 1.01
    says_low, says_high = (any(word in cause for cause in causes) for word in ("below the", "too high"))
    assert not (says_low and says_high)


WAYS_TO_FAIL = ["near", "failed", "unfinished"]


def run_at_chance(folder, way, rows=(), **options):
    """Returns a run whose score is at chance: near it, below it with every seed failed, or not finished."""
    run = make_run(folder, score=0.51, **options)
    if way == "failed":
        seeds = [
            seed | {"failure": "0.5 is not better than the commonest answer's 0.5"} for seed in run.summary["seeds"]
        ]
        run = dataclasses.replace(run, summary=run.summary | {"seeds": seeds})
    if way == "unfinished":
        run = dataclasses.replace(run, summary={})
    last = run.rows[-1] | {"loss": rows[-1]["loss"] if rows else 0.7}
    return dataclasses.replace(run, rows=[*rows, last])


@pytest.mark.parametrize("way", WAYS_TO_FAIL)
@pytest.mark.parametrize(
    ("lora_rank", "width", "rate", "searched"),
    [
        (8, 384, 4e-4, "0.0001 to 0.001"), (8, 384, 1e-3, "0.0001 to 0.001"), (16, 1024, 1e-4, "0.0001 to 0.001"),
        (8, 128, 1.14e-3, "0.00072 to 0.0018"), (0, 768, 5e-5, "2e-05 to 5e-05"), (0, 128, 1.7e-3, "0.00072 to 0.0018"),
    ],
)  # fmt: skip
def test_a_score_at_chance_alone_does_not_show_a_high_rate(tmp_path, way, lora_rank, width, rate, searched):
    changes = {"optimizer.learning_rate": rate, "tuning.lora_rank": lora_rank, "train.num_steps": 40}
    findings = report.diagnose(run_at_chance(tmp_path, way, width=width, **changes))
    causes = [cause for finding in findings for cause in finding.causes]
    assert not any("high" in cause or "below the" in cause or "try --" in cause for cause in causes), causes
    about_rate = [cause for cause in causes if "learning rate" in cause]
    assert about_rate and all(f"{rate:g}: search {searched}," in cause for cause in about_rate)
    assert ("LoRA adapters of a model" in about_rate[0]) == bool(lora_rank)
    assert "too few steps" in causes[0] and "rate_out_of_range" not in {finding.name for finding in findings}


@pytest.mark.parametrize("way", WAYS_TO_FAIL)
@pytest.mark.parametrize(
    ("lora_rank", "rate", "lower"),
    [(8, 4e-4, "0.0002"), (8, 1.5e-4, "0.0001"), (0, 5e-5, "2.5e-05"), (0, 3e-5, "2e-05"), (0, 2e-5, "1e-05")],
)
def test_a_loss_that_rose_shows_a_high_rate(tmp_path, way, lora_rank, rate, lower):
    changes = {"optimizer.learning_rate": rate, "tuning.lora_rank": lora_rank}
    losses = [0.7, 0.69, 0.6, 0.59, 0.5, 0.51, 0.6, 0.7, 0.9, 1.0, 1.1, 1.2]
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    run = run_at_chance(tmp_path, way, rows, **changes)
    causes = [cause for finding in report.diagnose(run) for cause in finding.causes]
    assert any(f"rate {rate:g} is high for this run: its training loss rose from 0.5" in cause for cause in causes), (
        causes
    )
    asked = re.findall(r"try --config.optimizer.learning_rate=(\S+)", " ".join(causes))
    assert lower in asked and all(float(value) < rate for value in asked)


@pytest.mark.parametrize(("lora_rank", "rate", "lower"), [(8, 4e-4, "0.0001"), (8, 1e-3, "0.0002"), (0, 2e-5, "4e-06")])
def test_an_embedder_whose_vectors_are_alike_is_not_told_a_rate_that_is_low(tmp_path, lora_rank, rate, lower):
    changes = {"optimizer.learning_rate": rate, "tuning.lora_rank": lora_rank}
    run = make_run(tmp_path, **changes)
    rows = [run.rows[0] | {"positive_similarity": 0.99, "negative_similarity": 0.98}]
    causes = embedders.collapsed(dataclasses.replace(run, rows=rows)).causes
    assert causes[0].endswith(f"try --config.optimizer.learning_rate={lower}")
    run.config.optimizer.learning_rate = float(lower)
    assert not finetune_config.rate_warning(run.config, 768)


def test_a_rate_above_the_range_of_adapters_is_too_high_only_where_the_run_shows_it(tmp_path):
    changes = {"optimizer.learning_rate": 3e-3, "tuning.lora_rank": 8}
    run = run_at_chance(tmp_path, "near", width=384, **changes)
    by_name = {finding.name: finding for finding in report.diagnose(run)}
    causes = " ".join(by_name["near_chance"].causes)
    assert "0.003 is above the range 0.0001 to 0.001 for LoRA adapters of a model of width 384" in causes
    assert "too high" not in causes
    assert "outside the range 0.0001 to 0.001 for LoRA adapters" in by_name["rate_out_of_range"].message
    seeds = [seed | {"failure": "not finite at step 12"} for seed in run.summary["seeds"]]
    run = dataclasses.replace(run, summary=run.summary | {"seeds": seeds})
    causes = " ".join(cause for finding in report.diagnose(run) for cause in finding.causes)
    assert "too high: 0.003, those for LoRA adapters of a model of width 384 are 0.0001 to 0.001" in causes


@pytest.mark.parametrize(
    ("unknown", "place"), [(None, None), (0.0, None), (0.005, None), (0.05, 1), (0.4, 0), (1.0, 0)]
)
def test_text_that_the_vocabulary_does_not_know_is_a_cause(tmp_path, unknown, place):
    run = make_run(tmp_path, score=0.51, unknown=unknown, **{"optimizer.learning_rate": 1e-3})
    causes = near_chance.near_chance(run).causes
    places = [i for i, cause in enumerate(causes) if "are unknown to the vocabulary of m" in cause]
    assert places == ([] if place is None else [place])
