"""Tests the records of seeds: best and last evaluation, early stops and failures."""

import json
import math

from bert_jax.runs import outcomes


def reached(failed_below=-1.0, baseline=0.5, number=3):
    return outcomes.Outcomes(
        "eval/accuracy", baseline, failed_below, [outcomes.Seed(seed) for seed in range(5, 5 + number)]
    )


def evaluate(record, done, scores, patience=0):
    return record.record_evaluation(
        done, [{"eval/accuracy": score, "eval/f1": 0.1} for score in scores], patience
    ).tolist()


def test_best_and_patience():
    record = reached()
    assert evaluate(record, 10, [0.6, 0.7, math.nan], 2) == [True, True, False]
    assert evaluate(record, 20, [0.6, 0.8, 0.5], 2) == [False, True, True]
    assert evaluate(record, 30, [0.6, 0.7, 0.4], 2) == [False, False, False]
    assert [seed.stopped_at for seed in record.seeds] == [30, -1, -1]
    assert evaluate(record, 40, [0.9, 0.7, 0.9], 2) == [False, False, True]  # the first has stopped
    assert [seed.stopped_at for seed in record.seeds] == [30, 40, -1]
    assert [(seed.best_step, record.score(seed)) for seed in record.seeds] == [(10, 0.6), (20, 0.8), (40, 0.9)]
    assert [seed.last_step for seed in record.seeds] == [30, 40, 40]
    again = outcomes.Outcomes.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record


def test_failed_runs_and_the_spread():
    record = reached()
    evaluate(record, 10, [0.6, 0.9, 0.8])
    evaluate(record, 20, [0.5, 0.7, 0.75])
    record.seeds[1].bad_step = 24
    summary = record.summary()
    assert (summary["metric"], summary["scores"], summary["failed"]) == ("accuracy", [0.6, 0.9, 0.8], [5, 6])
    assert (summary["median"], summary["min"], summary["max"]) == (0.8, 0.6, 0.9)
    assert math.isclose(summary["standard_deviation"], math.sqrt((0.0278 + 0.0178 + 0.0011) / 2), rel_tol=1e-2)
    assert summary["last"]["median"] == 0.7
    assert summary["best_seed"] == 7  # the best of those that did not fail
    assert summary["seeds"][2]["scores"] == {"accuracy": 0.8, "f1": 0.1}
    lines = outcomes.format_table(summary)
    assert lines[1].endswith("failed: 0.5000 is not better than the commonest answer's 0.5000")
    assert lines[2].endswith("failed: not finite at step 25") and "failed" not in lines[3]
    assert lines[4] == ("accuracy of 3 seeds: median 0.8000, 0.6000 to 0.9000, standard deviation 0.1528; failed: 5, 6")
    json.dumps(summary, allow_nan=False)


def test_failed_below_and_no_baseline():
    record = reached(failed_below=0.7, baseline=0.9)
    evaluate(record, 10, [0.6, 0.7, math.nan])
    assert [record.failure(seed) for seed in record.seeds] == ["0.6000 is below 0.7", "", "no score"]
    assert record.best() == 1
    assert not any(map(reached(baseline=math.nan).failure, record.seeds[:2]))


def test_rows_hold_the_median_and_each_seed():
    metrics = [{"eval/accuracy": 0.5}, {"eval/accuracy": math.nan}, {"eval/accuracy": 0.7}]
    row = outcomes.metrics_row(reached(), metrics)
    assert row["eval/accuracy"] == 0.6 and row["eval/accuracy/seed_7"] == 0.7
    assert list(row) == ["eval/accuracy", *(f"eval/accuracy/seed_{seed}" for seed in (5, 6, 7))]
    assert outcomes.metrics_row(reached(number=1), metrics[:1]) == {"eval/accuracy": 0.5}
