"""Fine-tunes the arms of an experiment: chooses a rate by one seed, trains the others at it, and keeps each result."""

import concurrent.futures
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SEEDS = (0, 1, 2)
RATE_SEED = 100  # trains at every rate
RATES = (3e-4, 1e-3, 3e-3)


class Runner:
    """Makes results that a file of results lacks.

    Args:
      model: the pre-training run that everything starts from.
      workdir: folder of the data, the runs and the results.
      workers: how many runs of an arm train at the same time.
    """

    def __init__(self, model: str, workdir: pathlib.Path, workers: int = 1):
        self.model, self.workdir, self.workers = model, workdir, workers
        self.path = workdir / "results.jsonl"
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        self.results = [json.loads(line) for line in lines]

    def result(self, make, scored: str = "", **facts) -> dict:
        """Returns the result of these facts: the one of the file, or what `make()` returns, which is added to it.

        With `scored`, a result counts that has the scores of this split.
        """
        for result in self.results:
            if all(result.get(name) == value for name, value in facts.items()) and (not scored or scored in result):
                return result
        result = facts | make()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        self.results.append(result)
        print(json.dumps(result), flush=True)
        return result

    def tuned(
        self, part: str, arm: str, config: Sequence[str], metric: str, score, rates=None, rate_seed: int = RATE_SEED
    ) -> None:
        """Chooses the rate of an arm on the examples set apart, and scores the seeds of the report at it.

        Args:
          part, arm: names of the results.
          config: recipe and flags of `bert_jax.finetune`.
          metric: score of the examples set apart that chooses.
          score: function of a run's folder; returns the scores that are reported.
          rates: the rates that are tried; RATES by default.
          rate_seed: the seed that trains at each of them.
        """
        chosen = {}
        self.train_missing(part, arm, config, [(rate, rate_seed) for rate in rates or RATES])
        for rate in rates or RATES:
            tune = self.result(lambda rate=rate: self.train(part, arm, config, rate, rate_seed),
                               part=part, arm=arm, rate=rate, seed=rate_seed)  # fmt: skip
            chosen[rate] = tune["tune"][metric]
        rate = max(chosen, key=chosen.__getitem__)
        self.train_missing(part, arm, config, [(rate, seed) for seed in SEEDS])
        for seed in SEEDS:

            def make(seed=seed):
                tune = self.train(part, arm, config, rate, seed)
                return tune | {"test": score(self.folder(part, arm, rate, seed))}

            self.result(make, "test", part=part, arm=arm, rate=rate, seed=seed)

    def train_missing(self, part: str, arm: str, config: Sequence[str], runs: Sequence[tuple[float, int]]) -> None:
        """Trains those of an arm's runs, each a rate and a seed, that have no result; several at the same time."""
        known = {(result.get("rate"), result["seed"]) for result in self.results
                 if (result["part"], result["arm"]) == (part, arm)}  # fmt: skip
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(lambda run: self.train(part, arm, config, *run), [run for run in runs if run not in known]))

    def folder(self, part: str, arm: str, rate: float, seed: int) -> pathlib.Path:
        """Returns the workdir of a run."""
        return self.workdir / "runs" / f"{part}-{arm.replace(' ', '_')}-{rate:g}-{seed}"

    def best(self, part: str, arm: str) -> pathlib.Path:
        """Returns the workdir of the arm's first reported seed, at the rate that was chosen."""
        rate = next(result["rate"] for result in self.results if "test" in result
                    and (result["part"], result["arm"], result["seed"]) == (part, arm, SEEDS[0]))  # fmt: skip
        return self.folder(part, arm, rate, SEEDS[0])

    def train(self, part, arm, config, rate, seed) -> dict:
        """Fine-tunes once; returns the scores of the examples set apart after the last step, and the seconds."""
        folder = self.folder(part, arm, rate, seed)
        command = [sys.executable, "-m", "bert_jax.finetune", *config, f"--workdir={folder}", f"--config.seed={seed}",
                   f"--config.optimizer.learning_rate={rate:g}", "--config.train.report=False",
                   "--config.train.checkpoint_minutes=5"]  # fmt: skip
        if not any(word.startswith("--config.init_from") for word in config):
            command.append(f"--config.init_from={self.model}")
        folder.parent.mkdir(exist_ok=True)
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        scores = {name.removeprefix("eval/"): value for row in rows for name, value in row.items() if "eval/" in name}
        return {"tune": scores, "steps": rows[-1]["step"]}


def write_records(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records as JSON Lines, unless the file is there."""
    if not path.exists():
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
