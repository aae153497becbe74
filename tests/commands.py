"""Runs the commands as processes of their own, waits for them, and reads the metrics that they log."""

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from bert_jax.runs.loggers import HOSTS, TIMINGS

ROOT = pathlib.Path(__file__).parents[1]
LONGEST_WAIT = 1800  # seconds; bounds a wait that would never end, whatever the speed of the machine


def start(module: str, *options: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Starts `python -m module`, whose standard output and error are read as one text; see `finish`."""
    command = [sys.executable, "-m", module, *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Waits for a process, asserts its exit code and returns its output."""
    output = process.communicate(timeout=LONGEST_WAIT)[0]
    assert process.returncode == code, output
    return output


def wait_until(condition: Callable[[], object], *processes: subprocess.Popen) -> None:
    """Waits until the condition holds; fails as soon as one of the processes has ended and it does not hold."""
    latest = time.monotonic() + LONGEST_WAIT  # a test that hangs would end nothing
    while True:
        ended = [process for process in processes if process.poll() is not None]
        if condition():
            return
        assert not ended, ended[0].communicate()
        if time.monotonic() > latest:
            raise TimeoutError(f"still waiting after {LONGEST_WAIT} seconds")
        time.sleep(0.002)


def is_running(pid: int) -> bool:
    """Returns whether a process has not ended; one that has ended and that its parent has not waited for has."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shared_programs(folder: pathlib.Path) -> dict[str, str]:
    """Returns the environment variables with which processes share compiled programs, kept in `folder`."""
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def number_of_rows(workdir: pathlib.Path) -> int:
    """Returns the number of rows in a run's metrics.jsonl; 0 if there is no such file yet."""
    try:
        return (workdir / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def logged_rows(workdir: pathlib.Path) -> list[dict]:
    """Returns the rows of a run's metrics.jsonl without timings, in which two runs may differ."""
    return rows_of((workdir / "metrics.jsonl").read_text())


def rows_of(text: str) -> list[dict]:
    """Returns the rows of the text of a metrics.jsonl without timings, in which two runs may differ."""
    rows = map(json.loads, text.splitlines())
    return [{key: value for key, value in row.items() if key not in (*TIMINGS, *HOSTS)} for row in rows]


# Flags keep their values between calls, unless they are taken back.
_LINES = """
import json, sys
from absl import flags
from bert_jax import command
import bert_jax.{module} as module
for arguments in json.load(sys.stdin):
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    print("=====", flush=True)
    print("=====", file=sys.stderr, flush=True)
    try:
        sys.argv = ["{module}", *arguments]
        {call}
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(f"\\n-----{{code}}", flush=True)
"""


def run_lines(module: str, lines: Mapping[str, Sequence[str]], call: str = "") -> dict[str, tuple[int, str, str]]:
    """Runs command lines of a command in one process, as starting it takes longer than what they do.

    Args:
      module: the command, such as "mine".
      lines: its arguments, by a name of each call.
      call: what runs the command; "" for that of its main function.

    Returns:
      (exit code, standard output, standard error) of each call.
    """
    driver = _LINES.format(module=module, call=call or "command.run(module.main)")
    process = subprocess.run(
        [sys.executable, "-c", driver], input=json.dumps(list(lines.values())), cwd=ROOT, capture_output=True,
        text=True, timeout=LONGEST_WAIT,
    )  # fmt: skip
    outs, errors = (stream.split("=====\n")[1:] for stream in (process.stdout, process.stderr))
    assert len(outs) == len(lines), process.stderr
    parts = [out.rpartition("\n-----") for out in outs]
    return {name: (int(code), out, said) for name, (out, _, code), said in zip(lines, parts, errors, strict=True)}
