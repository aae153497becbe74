"""The experiment on embedders: its report is what its record says, and a small run of it."""

import csv
import json
import pathlib

import numpy as np
import pytest

from experiments import retrievers, retrievers_report, tuned_runs
from tests.training.conftest import corpus, finished  # noqa: F401

RECORD = retrievers_report.RESULTS.with_suffix(".md")


def test_the_record_has_the_tables_of_its_results():
    text, results = RECORD.read_text("utf-8"), retrievers_report.read(retrievers_report.RESULTS)
    for part in dict.fromkeys(result["part"] for result in results):
        assert "\n".join(retrievers_report.table(results, part)) in text, part
    seeds = [result["seed"] for result in results if "rate" in result]
    assert {result["seed"] for result in results if "test" in result and "rate" in result} == set(tuned_runs.SEEDS)
    assert tuned_runs.RATE_SEED in seeds and tuned_runs.RATE_SEED not in tuned_runs.SEEDS


def test_a_gain_has_an_interval_over_the_seeds():
    assert retrievers_report.gain_over([0.5], 0.4) == "+10.0"
    assert retrievers_report.gain_over([0.50, 0.52, 0.54], 0.4) == "+12.0 (+7.0 to +17.0)"


def test_a_result_is_made_once(tmp_path):
    made = []
    for _ in range(2):
        runner = tuned_runs.Runner("model", tmp_path)
        runner.result(lambda: made.append(1) or {"test": {"recall@1": 0.5}}, part="wordnet", arm="BM25", seed=0)
    assert made == [1] and len(retrievers_report.read(tmp_path / "results.jsonl")) == 1


def test_what_is_built_on_an_arm_takes_the_rate_that_was_chosen(tmp_path):
    runner = tuned_runs.Runner("model", tmp_path)
    for rate in retrievers.FEWER[0]:  # the seed that chooses is one of those that are reported
        runner.result(lambda: {"tune": {}}, part="squad", arm="pairs", rate=rate, seed=retrievers.FEWER[1])
    facts = {"part": "squad", "arm": "pairs", "rate": 0.003, "seed": tuned_runs.SEEDS[0]}
    runner.result(lambda: {"test": {}}, "test", **facts)
    assert runner.best("squad", "pairs") == runner.folder("squad", "pairs", 0.003, tuned_runs.SEEDS[0])


@pytest.mark.slow
def test_the_part_on_graded_pairs(finished, tmp_path, monkeypatch):  # noqa: F811
    """Every arm on a few pairs, with one rate and two seeds."""
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(["kan", "mot", "lo", "ri"], size=4)) + f" {i}" for i in range(300)]
    data = pathlib.Path(tmp_path / "data" / "stsb")
    data.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        with open(data / f"stsb-en-{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows((*rng.choice(sentences, 2, replace=False), i % 6) for i in range(80))
    monkeypatch.setattr(tuned_runs, "RATES", (1e-3,))
    monkeypatch.setattr(tuned_runs, "SEEDS", (0, 1))
    monkeypatch.setattr(retrievers, "SENTENCE", 16)
    monkeypatch.setattr(retrievers, "WIDTHS", (16, 8))
    workdir = tmp_path / "work"
    workdir.mkdir()
    retrievers.stsb(tuned_runs.Runner(str(finished), workdir), tmp_path / "data")
    results = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert {result["arm"] for result in results} == {"untrained", "CoSENT", "CoSENT, Matryoshka", "SimCSE"}
    assert len(results) == 1 + 3 * 3 and all("spearman_8" in result["test"] for result in results if "test" in result)
