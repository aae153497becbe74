"""Tabulates how two libraries' trainings agree that began alike: scores seed by seed, and training losses."""

import statistics
from collections.abc import Iterator, Mapping

import numpy as np

_QUARTERS, _LAST = 4, 20  # parts of the steps; steps whose mean loss stands for the end's


def report(sides: Mapping[str, Mapping], title: str, score: str, dropout: bool) -> Iterator[str]:
    """Yields the Markdown lines of a table: each seed's score, and how far the mean training losses are apart.

    Args:
      sides: name of each library -> {"scores": of each seed, shares; "loss": of each step, mean over the seeds}; the
        differences are those of the second library less the first.
      title: the line above the table.
      score: name of the score, which is shown times 100.
      dropout: whether each side draws its own, so that only means can be compared.
    """
    first, second = (side["scores"] for side in sides.values())
    yield f"\n{title}\n"
    yield f"| {score} | " + " | ".join(f"seed {seed}" for seed in range(len(first))) + " | mean | standard deviation |"
    yield "|---" * (len(first) + 3) + "|"
    for name, side in sides.items():
        cells = " | ".join(f"{100 * value:.2f}" for value in side["scores"])
        mean, deviation = statistics.mean(side["scores"]), statistics.stdev(side["scores"])
        yield f"| {name} | {cells} | {100 * mean:.2f} | {100 * deviation:.2f} |"
    differences = [100 * (b - a) for a, b in zip(first, second, strict=True)]
    cells = " | ".join(f"{points:+.2f}" for points in differences)
    yield f"| difference | {cells} | {statistics.mean(differences):+.2f} | |"
    losses = np.array([side["loss"] for side in sides.values()])
    parts = np.array_split(np.abs(losses[0] - losses[1]), _QUARTERS)
    yield (
        f"\nTraining loss, mean over the seeds, greatest distance between the two sides in each quarter of the steps: "
        f"{', '.join(f'{part.max():.1e}' for part in parts)} (at its end the loss is {losses[:, -_LAST:].mean():.3f})."
    )
    if dropout:
        from scipy import stats

        interval = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
        low, high = (100 * bound for bound in interval)
        yield f"\nWelch's 95 % interval of the difference of the means: {low:+.2f} to {high:+.2f}."
