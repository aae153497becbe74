"""Compares the processes of a run: which one takes the longest for its own part of a step."""

import statistics

from bert_jax.processes import distributed

_LARGEST_RATIO = 100.0


def slowest(step_seconds: tuple[float, float] | None) -> dict[str, float]:
    """Publishes the time of this process, and returns what process 0 logs of all (runs.loggers.HOSTS).

    All processes end a step together, as the fastest waits for the slowest: what differs is the time that each takes by
    itself. No process waits here: a time may be that of the row before.

    Args:
      step_seconds: seconds of a step, and those that this process took by itself (`throughput.Clock.step_seconds`);
        None if unknown.

    Returns:
      slowest_host, the number of the process; slowest_host_seconds, those that it takes of a step by itself;
      slowest_host_ratio, the time of a step relative to what it were if this process were like the median one. {} for
      one process alone, on others than process 0, and until all have published.
    """
    if step_seconds is None:
        return {}
    whole, own = step_seconds
    distributed.post("own_seconds", own)
    if not (distributed.is_multiprocess() and distributed.is_first()):
        return {}
    return compared(whole, distributed.posted("own_seconds"), distributed.number_of_processes())


def compared(whole: float, own: dict[int, float], number: int) -> dict[str, float]:
    """Returns what `slowest` does, from the seconds of a step and each process's own; {} if not all are there."""
    if len(own) < number:
        return {}
    host = max(own, key=lambda process: own[process])
    excess = own[host] - statistics.median_low(own.values())  # over the faster one if there are two
    ratio = min(_LARGEST_RATIO, whole / (whole - excess)) if excess < whole else _LARGEST_RATIO
    return {
        "slowest_host": host,
        "slowest_host_seconds": round(own[host], 6),
        "slowest_host_ratio": round(ratio, 3),
    }
