"""Holds the number of type errors of each module to a baseline that only shrinks.

    python -m tests.type_errors             # make types
    python -m tests.type_errors --update    # after errors were removed, or their modules renamed

The checker is pyrefly, its settings are in pyproject.toml. Modules of CLEAN have no errors. tests/type_errors.txt has
the number that each of the others may have; a module that it does not list has none.
"""

import collections
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
BASELINE = pathlib.Path(__file__).with_suffix(".txt")
CLEAN = ("bert_jax/config/", "bert_jax/inference/", "bert_jax/interop/", "bert_jax/model/", "bert_jax/sharding.py")


def check() -> list[dict]:
    """Returns pyrefly's errors in bert_jax, each with its path, line, name and description."""
    command = [sys.executable, "-m", "pyrefly", "check", "--output-format=json", "--min-severity=error"]
    done = subprocess.run(
        [*command, f"--python-interpreter-path={sys.executable}"], cwd=ROOT, capture_output=True, text=True
    )
    try:
        errors = json.loads(done.stdout)["errors"]
    except (ValueError, KeyError):
        sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout}")
    for error in errors:
        error["path"] = pathlib.Path(ROOT, error["path"]).relative_to(ROOT).as_posix()
    return [error for error in errors if error["severity"] == "error"]


def read() -> dict[str, int]:
    """Returns the number of errors that each module may have."""
    lines = (line.split() for line in BASELINE.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {path: int(count) for count, path in lines}


def write(counts: dict[str, int]) -> None:
    """Writes the baseline."""
    lines = [f"{count:4} {path}\n" for path, count in sorted(counts.items())]
    BASELINE.write_text(
        "# Type errors that each module may have: python -m tests.type_errors\n" + "".join(lines), "utf-8"
    )


def main(arguments: list[str]) -> int:
    errors = check()
    counts = dict(collections.Counter(error["path"] for error in errors))
    allowed = read() if BASELINE.exists() else counts
    unclean = [path for path in counts if path.startswith(CLEAN) and path not in allowed]
    grown = [path for path, count in counts.items() if count > allowed.get(path, 0)]
    if arguments == ["--update"] and not unclean and sum(counts.values()) <= sum(allowed.values()):
        write(counts)
        return 0
    for error in errors:
        if error["path"] in grown:
            print(f"{error['path']}:{error['line']}:{error['column']}: {error['description']} [{error['name']}]")
    for path in grown:
        print(f"{path}: {counts[path]} type errors; at most {allowed.get(path, 0)} expected")
    shrunk = sum(allowed.values()) - sum(counts.values())
    if not grown and shrunk:
        print(f"{shrunk} type errors fewer than recorded: python -m tests.type_errors --update records that")
    print(f"{sum(counts.values())} type errors in {len(counts)} modules; {sum(allowed.values())} recorded")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
