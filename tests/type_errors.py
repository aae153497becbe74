"""Counts the type errors of each module, which may only become fewer.

    python -m tests.type_errors             # make types
    python -m tests.type_errors --update    # after errors were removed, or modules with errors renamed

The checker is pyrefly; pyproject.toml has its settings. tests/type_errors.txt has the number of errors that each module
may have. The modules of CLEAN have none.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from tests import ratchets

ROOT = pathlib.Path(__file__).parents[1]
BASELINE = pathlib.Path(__file__).with_suffix(".txt")
CLEAN = ("bert_jax/config/", "bert_jax/inference/", "bert_jax/interop/", "bert_jax/model/", "bert_jax/sharding.py")


def type_errors() -> Iterator[tuple[str, str]]:
    """Yields (module's path, position and description) of each error that pyrefly reports in bert_jax."""
    command = [sys.executable, "-m", "pyrefly", "check", "--output-format=json", "--min-severity=error"]
    command.append(f"--python-interpreter-path={sys.executable}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    try:
        errors = json.loads(done.stdout)["errors"]
    except (ValueError, KeyError):
        sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout}")
    for error in errors:
        if error["severity"] == "error":
            path = pathlib.Path(ROOT, error["path"]).relative_to(ROOT).as_posix()
            yield path, f"{error['line']}:{error['column']}: {error['description']} [{error['name']}]"


if __name__ == "__main__":
    sys.exit(ratchets.main(type_errors(), BASELINE, "type errors (python -m tests.type_errors)", sys.argv[1:]))
