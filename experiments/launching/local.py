"""Runs jobs on this machine: a few processes at a time, each with its share of the GPUs or cores."""

import contextlib
import glob
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from bert_jax import interruption
from bert_jax.errors import UserError
from bert_jax.processes import signals

from . import folders
from .provenance import ROOT, module

_MOST_ON_CORES = 4  # jobs at a time by default: each takes about a gigabyte
_LAUNCHER = "BERT_JAX_LAUNCHER"  # environment variable of a job: the process id of its launcher
_WAIT = 0.2  # seconds between looks


def command(folder: pathlib.Path) -> list[str]:
    """Returns the command line that runs a job, on whatever machine it runs."""
    return [sys.executable, "-m", module("run_job"), str(folder)]


def commands(job_folders: Sequence[pathlib.Path], jobs: int = 0) -> list[str]:
    """Returns the command lines, each with its share of the machine, in the order in which they would start."""
    shares = _shares(jobs)
    lines = []
    for i, folder in enumerate(job_folders):
        cores, environment = shares[i % len(shares)]
        before = [f"{name}={value}" for name, value in environment.items()]
        before += ["taskset", "-c", ",".join(map(str, cores))] if cores else []
        lines.append(" ".join([*before, shlex.join(command(folder))]))
    return lines


def check(jobs: int = 0) -> None:
    """Accepts every number of jobs: this machine has what they need."""
    del jobs


def submit(job_folders: Sequence[pathlib.Path], jobs: int, say: Callable[[str], None]) -> str:
    """Runs the jobs that are not done, and returns when all have ended.

    A job that fails is reported with the end of its log and does not stop the others. SIGTERM, SIGINT and SIGHUP are
    passed on: running jobs save a checkpoint, and no new one starts. A second one ends the launcher, and them, at once.

    Args:
      job_folders: the jobs' folders, in the order in which they start.
      jobs: number of jobs at a time; 0: one for each GPU, else one for each core, at most 4.
      say: called with each line for the user.

    Returns:
      The name of the signal that ended it early, or "".
    """
    waiting = [folder for folder in job_folders if folders.state(folder) != "done"]
    free, running = _shares(jobs), {}
    number = len(free)
    with interruption.catch(_say_that_jobs_stop) as caught:
        while waiting or running:
            for folder in [folder for folder, (process, _) in running.items() if process.poll() is not None]:
                process, share = running.pop(folder)
                free.append(share)
                _ended(folder, process.returncode, bool(caught.number), say)
            if caught.number and not running:
                break
            if caught.number:
                waiting.clear()
            elif waiting and len(running) + sum(map(folders.is_locked, waiting)) < number:
                folder = next((folder for folder in waiting if not folders.is_locked(folder)), None)
                if folder is not None:  # else jobs of an earlier launcher have not ended yet
                    waiting.remove(folder)
                    share = free.pop(0)
                    running[folder] = _start(folder, share), share
                    say(f"{_name(folder)}: started ({len(waiting)} waiting)")
                    continue
            if caught.number and not caught.acted:
                _pass_on(running)
                caught.acted = True
            time.sleep(_WAIT)
        caught.acted = True
    return signal.Signals(caught.number).name if caught.number else ""


def _say_that_jobs_stop(number):
    name = signal.Signals(number).name
    interruption.announce(f"{name}: the jobs stop after their steps, with checkpoints; a second one ends them at once")


def _pass_on(running):
    for process, _ in running.values():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)


def _start(folder, share):
    cores, environment = share
    (folder / "failed.json").unlink(missing_ok=True)
    # No preexec_fn: Python code between fork and exec may wait forever for a lock that another thread held.
    process = subprocess.Popen(
        command(folder),
        cwd=ROOT,
        env=os.environ | environment | {_LAUNCHER: str(os.getpid())},
        process_group=0,  # Ctrl-C reaches the launcher alone, which passes it on
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # the job redirects its output to its log
        stderr=subprocess.DEVNULL,
    )
    if cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, cores)  # before it has threads: they inherit it
    return process


def allowed_cores() -> list[int]:
    """Returns the numbers of the cores that this process may use; all cores if the system does not say (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def end_with_launcher() -> None:
    """Makes a job that `submit` started receive SIGTERM as soon as its launcher has ended, however that ended."""
    launcher = os.environ.pop(_LAUNCHER, "")
    if not launcher:
        return
    signals.terminate_with_parent(int(launcher))


def _ended(folder, code, is_stopping, say):
    if folders.state(folder) == "done":
        say(f"{_name(folder)}: done")
        return
    if is_stopping:
        say(f"{_name(folder)}: stopped")
        return
    if not (folder / "failed.json").exists():
        try:
            folders.write_failed(folder, "", code)  # the process ended before it could write it
        except UserError as error:  # a full disk ends no launcher
            say(f"warning: {error}")
    lines = folders.last_lines(folder)
    say(f"{_name(folder)}: failed (exit code {code}); the end of {folder / 'log.txt'}:")
    for line in lines[-5:]:
        say(f"    {line}")


def _name(folder):
    return f"{folder.parent.name}/{folder.name}"


def _shares(jobs):
    """Returns (cores, environment) for each job that runs at a time."""
    cores = allowed_cores()
    gpus = _gpus()
    if gpus:
        number = jobs or len(gpus)
        if number > len(gpus):
            raise UserError(f"--jobs={jobs}: there are {len(gpus)} GPUs; expected at most so many")
        split = _split(gpus, number)
        return [([], {"CUDA_VISIBLE_DEVICES": ",".join(part)}) for part in split]
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):  # TPUs: one process takes them all
        if jobs > 1:
            raise UserError(f"--jobs={jobs}: one process holds all TPU chips of a machine; expected --jobs=1")
        return [([], {})]
    number = jobs or min(len(cores), _MOST_ON_CORES)
    if number > len(cores):
        raise UserError(f"--jobs={jobs}: there are {len(cores)} cores; expected at most so many")
    return [(part, {}) for part in _split(cores, number)]


def _split(things, number):
    """Splits into parts of equal size, so that all jobs get as much; the remainder is not used."""
    size = len(things) // number
    return [things[i * size : (i + 1) * size] for i in range(number)]


def _gpus():
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return []
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
    return [path.removeprefix("/dev/nvidia") for path in sorted(glob.glob("/dev/nvidia[0-9]*"))]
