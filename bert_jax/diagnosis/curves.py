"""Measures logged curves: their noise, their level at a step, and spikes.

A row of the log is the loss of one step's batch, so a curve is noisy, and it may have thousands of rows or three. Every
statement about a curve is made relative to its noise.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from bert_jax import _moved
from bert_jax.diagnosis.reading import Run

Point = tuple[int, float]

# Standard deviation of the loss of single tokens in nats, whatever its mean: some tokens are certain, and rare words
# cost ten nats. Tokens of one text are correlated, which the factor in `noise` allows for.
TOKEN_SPREAD = 2.5
_LEAST_FOR_SPREAD = 8  # the fewest points from which the noise of a curve itself is estimated
_LEVEL_SHARE, _LEVEL_MOST = 0.1, 50  # a level is the mean of this share of the points, and of at most so many


@dataclasses.dataclass(frozen=True)
class Level:
    """Describes the level of a curve around a step.

    Attributes:
      value: mean of the points around the step.
      error: standard error of the mean.
      drift: rise of the curve from the first half of these points to the second; negative for a fall.
      points: number of these points.
    """

    value: float
    error: float
    drift: float
    points: int


def curve(rows: Sequence[Mapping[str, float]], key: str) -> list[Point]:
    """Returns (step, value) of each row that has the key."""
    return [(int(row["step"]), row[key]) for row in rows if key in row]


def score_names(row: Mapping[str, float]) -> list[str]:
    """Returns the names of a row's scores on held-out data, such as "eval/accuracy", without those of single seeds."""
    return [name for name in row if name.startswith("eval/") and "/seed_" not in name and "loss" not in name]


def loss_key(run: Run) -> str:
    """Returns the key of the loss to look at: in pre-training the loss of predicted tokens, without sentence pairs."""
    return "loss" if run.fine_tuning else "mlm_loss"


def noise(run: Run, points: Sequence[Point]) -> float:
    """Returns the standard deviation of a training loss around its trend.

    It is estimated from second differences, which a falling trend does not change, by their median, which spikes do not
    change; for few points, from the number of tokens that a step predicts.
    """
    if len(points) >= _LEAST_FOR_SPREAD:
        values = [value for _, value in points]
        bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
        return 1.4826 * statistics.median(bends) / math.sqrt(6)
    if run.fine_tuning:
        return 1.0 / math.sqrt(run.config.data.batch_size)
    return 1.5 * TOKEN_SPREAD / math.sqrt(run.predictions)


def level(run: Run, points: Sequence[Point], step: int | None = None) -> Level | None:
    """Returns the level of a training loss around a step (default: the last); None if there are no points."""
    if not points:
        return None
    step = points[-1][0] if step is None else step
    before = [point for point in points if point[0] <= step]
    after = [point for point in points if point[0] > step]
    count = min(_LEVEL_MOST, max(3, math.ceil(_LEVEL_SHARE * len(points))))
    # Equally many points on both sides if possible, so that the mean of a falling curve is unbiased.
    window = before[-count:] + after[: min(count, max(0, len(before) - 1))]
    values = [value for _, value in window]
    half = len(values) // 2
    drift = statistics.fmean(values[-half:]) - statistics.fmean(values[:half]) if half else 0.0
    return Level(statistics.fmean(values), noise(run, points) / math.sqrt(len(values)), drift, len(values))


@_moved.renamed_arguments(most="max_blocks")
def block_medians(points: Sequence[Point], max_blocks: int = 20) -> tuple[list[Point], int]:
    """Cuts a curve into at most `max_blocks` blocks of equal length.

    Returns:
      ((last step, median) of each block, number of points in a block).
    """
    size = max(1, -(-len(points) // max_blocks))
    first = len(points) % size  # the remainder is dropped at the start
    parts = [points[i : i + size] for i in range(first, len(points), size)]
    return [(part[-1][0], statistics.median(value for _, value in part)) for part in parts], size


@dataclasses.dataclass(frozen=True)
class Spike:
    """Describes a temporary rise of a curve.

    Attributes:
      start: first step above the usual level.
      stop: first step back at it; None if the curve did not come back.
      peak_step, peak: step and value of the maximum.
      course: level before the rise.
    """

    start: int
    stop: int | None
    peak_step: int
    peak: float
    course: float


def spikes(points: Sequence[Point], threshold: float, window: int = 9) -> list[Spike]:
    """Finds rises of more than `threshold` above the median of the `window` points before.

    At least a third of these points must exist. A rise ends once the curve is within half the threshold of its earlier
    level, however long that takes.
    """
    spikes_so_far, calm, rising = [], [], None
    for step, value in points:
        if rising:
            if value > rising.peak:
                rising = dataclasses.replace(rising, peak_step=step, peak=value)
            if value <= rising.course + threshold / 2:
                spikes_so_far.append(dataclasses.replace(rising, stop=step))
                rising, calm = None, [*calm, value]
            continue
        course = statistics.median(calm[-window:]) if len(calm) >= max(3, window // 3) else math.inf
        if value > course + threshold:
            rising = Spike(step, None, step, value, course)
        else:
            calm.append(value)
    return [*spikes_so_far, rising] if rising else spikes_so_far


def __getattr__(name):
    return _moved.find("diagnosis.curves", name)
