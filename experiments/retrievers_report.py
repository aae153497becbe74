"""Writes the tables of experiments/results/retrievers.md from what experiments/retrievers.py measured.

    python -m experiments.retrievers_report [RESULTS.jsonl]

Scores are percentages of the test split: the mean over the seeds and their standard deviation. A gain is the mean's
difference from the model as it was before, with the 95 % interval over the seeds (Student's t), whose rates were chosen
by another seed on other examples.
"""

import json
import math
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence

from scipy import stats

from experiments.pretraining_report import spread

RESULTS = pathlib.Path(__file__).parent / "results" / "retrievers.jsonl"
METRICS = {"stsb": ("spearman_128", "spearman_64", "spearman_32", "spearman_16"),
           "squad": ("mrr@10", "recall@1", "recall@10", "ndcg@10"),
           "others": ("recall@1", "recall@10", "mrr@10", "ndcg@10")}  # fmt: skip
UNTRAINED = "untrained"


def main():
    results = read(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS))
    for part in dict.fromkeys(result["part"] for result in results):
        print(f"{part}\n\n" + "\n".join(table(results, part)) + "\n")


def read(path: pathlib.Path) -> list[dict]:
    """Returns the results of a file, in its order."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def table(results: Sequence[Mapping], part: str) -> Iterator[str]:
    """Yields the Markdown lines of a part: each arm at its rate, its scores, and its gain by the first of them."""
    metrics = METRICS.get(part, METRICS["others"])
    yield f"| arm | rate | {' | '.join(metrics)} | gain in {metrics[0]} |"
    yield "|---" * (len(metrics) + 3) + "|"
    tested = [result for result in results if result["part"] == part and "test" in result]
    before = next((result["test"] for result in tested if result["arm"] == UNTRAINED), None)
    for arm in dict.fromkeys(result["arm"] for result in tested):
        mine = [result for result in tested if result["arm"] == arm]
        scores = [spread([result["test"][metric] for result in mine]) for metric in metrics]
        rate = f"{mine[0]['rate']:g}" if "rate" in mine[0] else "-"
        gain = gain_over([result["test"][metrics[0]] for result in mine], before[metrics[0]]) if before else "-"
        yield f"| {arm} | {rate} | {' | '.join(scores)} | {gain if 'rate' in mine[0] else '-'} |"


def gain_over(scores: Sequence[float], before: float) -> str:
    """Returns the difference of a mean and a score in points, with its interval where there are several scores."""
    gain = statistics.mean(scores) - before
    if len(scores) < 2:
        return f"{100 * gain:+.1f}"
    half = stats.t.ppf(0.975, len(scores) - 1) * statistics.stdev(scores) / math.sqrt(len(scores))
    return f"{100 * gain:+.1f} ({100 * (gain - half):+.1f} to {100 * (gain + half):+.1f})"


if __name__ == "__main__":
    main()
