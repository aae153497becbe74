"""Holds the number of known flaws of each file to a baseline that only shrinks.

A baseline is a text file with one line `COUNT FILE` for each file that still has flaws; a file that it does not list
may have none.
"""

import collections
import pathlib
from collections.abc import Iterable


def read(baseline: pathlib.Path) -> dict[str, int]:
    """Returns the number of flaws that each file may have."""
    lines = (line.split() for line in baseline.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {path: int(count) for count, path in lines}


def write(baseline: pathlib.Path, title: str, counts: dict[str, int]) -> None:
    """Writes a baseline, with `title` as its comment."""
    lines = [f"{count:4} {path}\n" for path, count in sorted(counts.items())]
    baseline.write_text(f"# {title}\n" + "".join(lines), "utf-8")


def grown(flaws: Iterable[tuple[str, str]], baseline: pathlib.Path) -> list[str]:
    """Compares flaws with a baseline.

    Args:
      flaws: (file, description) of each.
      baseline: that they are compared with.

    Returns:
      Lines for the files with more flaws than the baseline allows: each flaw, then the count; [] if there are none.
    """
    flaws = list(flaws)
    counts = collections.Counter(path for path, _ in flaws)
    allowed = read(baseline)
    files = [path for path, count in counts.items() if count > allowed.get(path, 0)]
    lines = [f"{path}: {description}" for path, description in flaws if path in files]
    return lines + [f"{path}: {counts[path]} in all, expected at most {allowed.get(path, 0)}" for path in files]


def main(flaws: Iterable[tuple[str, str]], baseline: pathlib.Path, title: str, arguments: list[str]) -> int:
    """Runs a check as a command that prints what has grown, or records what has shrunk. Returns the exit code."""
    flaws = list(flaws)
    total, recorded = len(flaws), sum(read(baseline).values())
    if arguments == ["--update"] and total <= recorded:
        write(baseline, title, collections.Counter(path for path, _ in flaws))
        return 0
    lines = grown(flaws, baseline)
    print(*lines, f"{title}: {total}, recorded {recorded}", sep="\n")
    if not lines and total < recorded:
        print("fewer than recorded: --update records that")
    return 1 if lines else 0
