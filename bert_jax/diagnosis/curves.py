"""How noisy a logged curve is, where it stands, and where it leaves its course.

A row of the log is one step's batch, so its loss is noisy, and rows may be many or three. What is said here is said
against that noise.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from bert_jax.diagnosis.reading import Run

Point = tuple[int, float]

# The loss of single tokens is spread about this much, in nats, whatever its mean is: a share of them is certain, and
# rare words cost ten. Tokens of one text go together, which the factor in `noise` allows for.
TOKEN_SPREAD = 2.5
_LEAST_FOR_SPREAD = 8  # points from which the curve's own noise is estimated
_LEVEL_SHARE, _LEVEL_MOST = 0.1, 50  # of the points that a level is the mean of


@dataclasses.dataclass(frozen=True)
class Level:
    """Where a curve stands.

    Attributes:
      value: the mean of some points.
      error: its standard error.
      drift: how much the curve rose (falls are negative) from the first half of these points to the second.
      points: how many.
    """

    value: float
    error: float
    drift: float
    points: int


def curve(rows: Sequence[Mapping[str, float]], key: str) -> list[Point]:
    """(step, value) of the rows that have the key."""
    return [(int(row["step"]), row[key]) for row in rows if key in row]


def loss_key(run: Run) -> str:
    """The loss that is looked at: of pre-training that of predicted tokens, without next-sentence pairs."""
    return "loss" if run.fine_tuning else "mlm_loss"


def noise(run: Run, points: Sequence[Point]) -> float:
    """Standard deviation of a training loss around its course.

    From the second differences, which a course that falls leaves out, by their median, which spikes do not move;
    of a few points, from how many tokens a step predicts.
    """
    if len(points) >= _LEAST_FOR_SPREAD:
        values = [value for _, value in points]
        bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
        return 1.4826 * statistics.median(bends) / math.sqrt(6)
    if run.fine_tuning:
        return 1.0 / math.sqrt(run.config.data.batch_size)
    return 1.5 * TOKEN_SPREAD / math.sqrt(run.predictions)


def level(run: Run, points: Sequence[Point], step: int | None = None) -> Level | None:
    """Where a training loss stands at a step (by default at its end), from points around it; None without any."""
    if not points:
        return None
    step = points[-1][0] if step is None else step
    before = [point for point in points if point[0] <= step]
    after = [point for point in points if point[0] > step]
    count = min(_LEVEL_MOST, max(3, math.ceil(_LEVEL_SHARE * len(points))))
    # As many on both sides as far as there are: a falling curve then has the right mean.
    some = before[-count:] + after[: min(count, max(0, len(before) - 1))]
    values = [value for _, value in some]
    half = len(values) // 2
    drift = statistics.fmean(values[-half:]) - statistics.fmean(values[:half]) if half else 0.0
    return Level(statistics.fmean(values), noise(run, points) / math.sqrt(len(values)), drift, len(values))


def blocks(points: Sequence[Point], most: int = 20) -> tuple[list[Point], int]:
    """The curve in medians of up to `most` stretches of equal length, the last step of each; and that length."""
    size = max(1, -(-len(points) // most))
    first = len(points) % size  # what is left over goes, at the start
    parts = [points[i : i + size] for i in range(first, len(points), size)]
    return [(part[-1][0], statistics.median(value for _, value in part)) for part in parts], size


@dataclasses.dataclass(frozen=True)
class Spike:
    """A rise of a curve over its course.

    Attributes:
      start, stop: the first step over the course, and the first back on it; stop is None where it did not come back.
      peak_step, peak: where it was highest.
      course: what it was before.
    """

    start: int
    stop: int | None
    peak_step: int
    peak: float
    course: float


def spikes(points: Sequence[Point], threshold: float, window: int = 9) -> list[Spike]:
    """Rises of more than `threshold` over the median of the `window` points before; a third of them must be there.

    A rise ends where the curve is back within half the threshold, however long that takes.
    """
    found, calm, rising = [], [], None
    for step, value in points:
        if rising:
            if value > rising.peak:
                rising = dataclasses.replace(rising, peak_step=step, peak=value)
            if value <= rising.course + threshold / 2:
                found.append(dataclasses.replace(rising, stop=step))
                rising, calm = None, [*calm, value]
            continue
        course = statistics.median(calm[-window:]) if len(calm) >= max(3, window // 3) else math.inf
        if value > course + threshold:
            rising = Spike(step, None, step, value, course)
        else:
            calm.append(value)
    return [*found, rising] if rising else found
