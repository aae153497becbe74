"""Records the evaluations of each seed of a fine-tuning run, and summarises them over seeds."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from bert_jax import _moved


@dataclasses.dataclass
class Seed:
    """Records one seed's best and last evaluation, and whether it still learns.

    Attributes:
      seed: the seed.
      best_step, best: steps done at the best evaluation, and its metrics; 0 and {} before any.
      last_step, last: the same for the last evaluation.
      waited: number of evaluations since the best one.
      stopped_at: steps done when it stopped early; -1 if it did not.
      bad_step: the first step whose loss, gradient or parameters were not finite; -1 if none was.
    """

    seed: int
    best_step: int = 0
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    last_step: int = 0
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    waited: int = 0
    stopped_at: int = -1
    bad_step: int = -1

    @property
    def learns(self) -> bool:
        """Returns whether the seed went on until the last step."""
        return self.stopped_at < 0 and self.bad_step < 0


@dataclasses.dataclass
class Outcomes:
    """Records the evaluations of a run's seeds.

    Attributes:
      metric: name of the metric that chooses the best checkpoint, such as "eval/accuracy"; larger is better.
      baseline: the metric of always giving the commonest answer; nan where there is none.
      failed_below: a seed whose last metric is below this has failed; -1: one that is not better than the baseline.
      seeds: the record of each seed.
    """

    metric: str
    baseline: float
    failed_below: float
    seeds: list[Seed]

    @classmethod
    def from_json(cls, record: Mapping) -> "Outcomes":
        """Returns the outcomes that `to_json` wrote."""
        seeds = [Seed(**seed) for seed in record["seeds"]]
        return cls(record["metric"], record["baseline"], record["failed_below"], seeds)

    def to_json(self) -> dict:
        """Returns the outcomes as values that JSON can hold."""
        return dataclasses.asdict(self)

    @_moved.renamed_arguments(figures="metrics")
    def record_evaluation(self, done: int, metrics: Sequence[Mapping[str, float]], patience: int) -> np.ndarray:
        """Records an evaluation of every seed. Returns which are better than before, bool [seeds].

        Args:
          done: number of steps done.
          metrics: the metrics of each seed.
          patience: a seed stops after this many evaluations in a row that were not better; 0: never.
        """
        better = np.zeros(len(self.seeds), bool)
        for i, (seed, values) in enumerate(zip(self.seeds, metrics, strict=True)):
            if seed.stopped_at >= 0:
                continue
            seed.last_step, seed.last = done, dict(values)
            score = values[self.metric]
            if score > seed.best.get(self.metric, -math.inf):  # never true for nan
                seed.best_step, seed.best, seed.waited, better[i] = done, dict(values), 0, True
                continue
            seed.waited += 1
            if patience and seed.waited >= patience:
                seed.stopped_at = done
        return better

    note = record_evaluation  # the method's name in earlier versions

    def score(self, seed: Seed) -> float:
        """Returns the metric at the seed's best evaluation; nan if it had none."""
        return seed.best.get(self.metric, math.nan)

    def failure(self, seed: Seed) -> str:
        """Returns in words why a seed failed; "" if it did not."""
        last = seed.last.get(self.metric, math.nan)
        if seed.bad_step >= 0:
            return f"not finite at step {seed.bad_step + 1}"
        if math.isnan(last):
            return "no score"
        if self.failed_below != -1:
            return f"{last:.4f} is below {self.failed_below:g}" if last < self.failed_below else ""
        if last <= self.baseline:
            return f"{last:.4f} is not better than the commonest answer's {self.baseline:.4f}"
        return ""

    def best(self) -> int:
        """Returns the index of the best seed: the highest score among those that did not fail, if any did not."""
        ranks = [
            (not self.failure(seed), -math.inf if math.isnan(self.score(seed)) else self.score(seed))
            for seed in self.seeds
        ]
        return max(range(len(ranks)), key=ranks.__getitem__)

    def summary(self) -> dict:
        """Returns JSON values: each seed's scores, and their median, spread and failures."""
        return {
            "metric": self.metric.removeprefix("eval/"),
            "baseline": _finite(self.baseline),
            "scores": [_finite(self.score(seed)) for seed in self.seeds],
            **_spread([self.score(seed) for seed in self.seeds]),
            "last": _spread([seed.last.get(self.metric, math.nan) for seed in self.seeds]),
            "failed": [seed.seed for seed in self.seeds if self.failure(seed)],
            "best_seed": self.seeds[self.best()].seed,
            "seeds": [
                {
                    "seed": seed.seed,
                    "score": _finite(self.score(seed)),
                    "step": seed.best_step,
                    "last_score": _finite(seed.last.get(self.metric, math.nan)),
                    "last_step": seed.last_step,
                    "stopped_early": seed.stopped_at >= 0,
                    "failure": self.failure(seed),
                    "scores": {name.removeprefix("eval/"): _finite(value) for name, value in seed.best.items()},
                }
                for seed in self.seeds
            ],
        }


@_moved.renamed_arguments(figures="metrics")
def metrics_row(outcomes: Outcomes, metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns an evaluation as a row: the median of each metric over seeds and, if there are several, METRIC/seed_N."""
    row = {}
    for name in dict.fromkeys(name for values in metrics for name in values):
        over_seeds = [values.get(name, math.nan) for values in metrics]
        row[name] = _spread(over_seeds)["median"]
        if len(metrics) > 1:
            row |= {f"{name}/seed_{seed.seed}": v for seed, v in zip(outcomes.seeds, over_seeds, strict=True)}
    return row


def format_table(summary: Mapping) -> list[str]:
    """Returns a summary as lines of text: one for each seed, and one for all."""
    lines = [f"{'seed':>10}  {summary['metric']:>10}  {'at step':>9}  {'last':>8}"]
    for seed in summary["seeds"]:
        note = f"  failed: {seed['failure']}" if seed["failure"] else "  stopped early" * seed["stopped_early"]
        score, last = _shown(seed["score"]), _shown(seed["last_score"])
        lines.append(f"{seed['seed']:>10}  {score:>10}  {seed['step']:>9,}  {last:>8}{note}")
    number = len(summary["seeds"])
    if number > 1:
        lines.append(
            f"{summary['metric']} of {number} seeds: median {_shown(summary['median'])}, {_shown(summary['min'])} to "
            f"{_shown(summary['max'])}, standard deviation {_shown(summary['standard_deviation'])}; "
            + (f"failed: {', '.join(map(str, summary['failed']))}" if summary["failed"] else "none failed")
        )
    return lines


def _spread(values):
    """Returns median, minimum, maximum and sample standard deviation of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return dict.fromkeys(("median", "min", "max", "standard_deviation"))
    deviation = statistics.stdev(finite) if len(finite) > 1 else 0.0
    return {
        "median": statistics.median(finite),
        "min": min(finite),
        "max": max(finite),
        "standard_deviation": deviation,
    }


def _finite(value):
    return value if math.isfinite(value) else None


def _shown(value):
    return "-" if value is None else f"{value:.4f}"


def __getattr__(name):
    return _moved.find("runs.outcomes", name)
