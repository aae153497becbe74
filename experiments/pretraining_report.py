"""Writes the tables of experiments/results/pretraining_helps.md from what experiments/pretraining_helps.py measured.

    python -m experiments.pretraining_report [RESULTS.jsonl]

Scores are percentages: the mean over the seeds and their standard deviation. A gain is the difference of the arms'
means, pre-trained less scratch, with Welch's 95 % interval over the seeds: the seeds of the two arms are not paired,
since they draw different weights.
"""

import json
import math
import pathlib
import statistics
import sys

from scipy import stats

RESULTS = pathlib.Path(__file__).parent / "results" / "pretraining_helps.jsonl"
ARMS = ("pre-trained", "scratch")


def main():
    results = read(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS))
    for title, table in tables(results).items():
        print(f"{title}\n\n" + "\n".join(table) + "\n")


def read(path):
    """Returns one result for the seeds of a setting together: `tune` and `dev` are lists of their scores."""
    together = {}
    for line in path.read_text("utf-8").splitlines():
        run = json.loads(line)
        key = tuple(run[name] for name in ("stage", "task", "labels", "variant", "arm", "rate"))
        result = together.setdefault(key, run | {"tune": [], "dev": []})
        for name in ("tune", "dev"):
            result[name] += [run[name]] if name in run else []
    return list(together.values())


def tables(results):
    """Returns the Markdown lines of each table, by its title."""
    made = {}
    for task in dict.fromkeys(result["task"] for result in results):
        stages = {
            stage: [result for result in results if (result["task"], result["stage"]) == (task, stage)]
            for stage in WRITERS
        }
        metric = next(result["metric"] for result in results if result["task"] == task)
        for stage, write in WRITERS.items():
            if stages[stage]:
                made[f"{task}, {stage} ({metric})"] = write(stages[stage])
    return made


def rates(results):
    """Yields the table of each arm at each rate: chosen on the examples set apart, beside the dev set."""
    yield "| rate | " + " | ".join(f"{arm}: set apart | {arm}: dev" for arm in ARMS) + " |"
    yield "|---" * 5 + "|"
    best = {arm: best_of(results, arm) for arm in ARMS}
    for rate in sorted({result["rate"] for result in results}):
        cells = []
        for arm in ARMS:
            mine = [result for result in results if (result["arm"], result["rate"]) == (arm, rate)]
            chosen = "**" * bool(mine and mine[0] is best[arm])
            cells += [f"{chosen}{spread(mine[0][name])}{chosen}" if mine else "-" for name in ("tune", "dev")]
        yield f"| {rate:g} | {' | '.join(cells)} |"


def final(results):
    """Yields the table of each arm at its own rate, with fresh seeds, scored on dev."""
    yield "| start | rate | dev | each seed |"
    yield "|---" * 4 + "|"
    scores = {}
    for result in sorted(results, key=lambda result: ARMS.index(result["arm"])):
        scores[result["arm"]] = result["dev"]
        seed_scores = ", ".join(f"{100 * score:.1f}" for score in result["dev"])
        yield f"| {result['arm']} | {result['rate']:g} | {spread(result['dev'])} | {seed_scores} |"
    if len(scores) == 2:
        yield ""
        yield f"Gain: {in_words(*(scores[arm] for arm in ARMS))}."


def labels(results):
    """Yields the learning curve: each arm at the rate that is best on the examples set apart, for each count."""
    yield "| examples | steps | " + " | ".join(f"{arm} (rate)" for arm in ARMS) + " | gain | 95 % interval |"
    yield "|---" * 6 + "|"
    for count in sorted({result["labels"] for result in results}):
        mine = [result for result in results if result["labels"] == count]
        best = [best_of(mine, arm, seeds=1) for arm in ARMS]  # the other seeds were run at one rate
        if all(best):
            gain, low, high = welch(*(result["dev"] for result in best))
            cells = " | ".join(f"{spread(result['dev'])} ({result['rate']:g})" for result in best)
            interval = f"{low:+.1f} to {high:+.1f}" if math.isfinite(low) else "-"
            yield f"| {count:,} | {best[0]['steps']} | {cells} | {gain:+.1f} | {interval} |"


def variants(results):
    """Yields the table of arms in which one setting is changed at a time."""
    yield "| setting | " + " | ".join(f"{arm} (rate)" for arm in ARMS) + " |"
    yield "|---" * 3 + "|"
    for variant in dict.fromkeys(result["variant"] for result in results):
        cells = []
        for arm in ARMS:
            mine = [result for result in results if (result["variant"], result["arm"]) == (variant, arm)]
            cells.append(", ".join(f"{spread(result['dev'])} ({result['rate']:g})" for result in mine) or "-")
        yield f"| {variant} | {' | '.join(cells)} |"


WRITERS = {
    "rates": rates,
    "final": final,
    "labels": labels,
    "variants": variants,
    "starts": variants,
    "corpora": variants,
}


def best_of(results, arm, seeds=None):
    """Returns the result of an arm that is best on the examples set apart, by the mean of its first seeds; or None."""
    mine = [result for result in results if result["arm"] == arm]
    return max(mine, key=lambda result: statistics.mean(result["tune"][:seeds]), default=None)


def spread(scores):
    """Returns the mean of scores and their standard deviation, as percentages."""
    deviation = f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.1f}{deviation}"


def welch(first, second):
    """Returns the difference of two means in points, and the ends of its 95 % interval for unequal variances."""
    if min(len(first), len(second)) < 2:
        return 100 * (statistics.mean(first) - statistics.mean(second)), math.nan, math.nan
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    gain = statistics.mean(first) - statistics.mean(second)
    return 100 * gain, 100 * float(interval.low), 100 * float(interval.high)


def in_words(first, second):
    """Returns a gain with its interval, and what the interval allows to say."""
    gain, low, high = welch(first, second)
    allowed = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return f"{gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}: {allowed}"


if __name__ == "__main__":
    main()
