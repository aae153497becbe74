"""Runs jobs on a Slurm cluster through submitit: each job of an experiment is a job of Slurm.

A job that is preempted, or that reaches its time limit, saves a checkpoint and is queued again with the same command.
FOLDER/slurm.json holds the id under which a job was submitted; FOLDER/slurm/ holds submitit's files and logs. Jobs that
are still queued are not submitted again, and finished ones never are.
"""

import contextlib
import getpass
import hashlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bert_jax.config.schema import closest
from bert_jax.errors import UserError

from . import folders, local

_SAVING_SECONDS = 60  # seconds between the signal and the end that are not used for the last checkpoint
_UNDECIDED_SECONDS = 600  # after a SIGTERM: the time in which Slurm queues the job again or ends it
_QUEUE_SECONDS = 60  # timeout of squeue
_DEFAULTS = {
    "cluster": "slurm",
    "time": 24 * 60,
    "nodes": 1,
    "tasks_per_node": 1,
    "signal_delay_s": 120,
    "max_timeouts": 100,
}
_NUMBERS = ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "signal_delay_s", "max_timeouts")
_TEXTS = ("partition", "account", "qos", "constraint", "gres", "reservation", "nodelist", "exclude", "setup")
KEYS = ("cluster", "time", "mem_gb", *_NUMBERS, *_TEXTS)


class RunJob:
    """Runs in each task of submitit: a command, which a preempted or timed-out job starts again.

    Attributes:
      command: the command line, as a list.
      seconds: time to save a checkpoint after the signal that announces the job's end.
    """

    def __init__(self, command: Sequence[str], seconds: float):
        self.command, self.seconds = list(command), seconds
        self._pid = None

    def __call__(self) -> int:
        """Runs the command, and returns the exit code 0.

        Raises:
          RuntimeError: the command had another exit code; submitit records it.
        """
        # Slurm sends the signal, which kills by default, to every process of a job: the command must not receive it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {_preemption_signal()})
        process = subprocess.Popen(self.command, cwd=local.ROOT)
        self._pid = process.pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_preemption_signal()})
        code = process.wait()
        self._pid = None
        if code in (75, 128 + signal.SIGTERM, -signal.SIGTERM):
            # Slurm sent SIGTERM to the whole job: a task that ends now would not be queued again.
            time.sleep(_UNDECIDED_SECONDS)
        if code:
            raise RuntimeError(f"exit code {code}: {' '.join(self.command)}")
        return code

    def checkpoint(self):
        """Returns what submitit queues in place of a job that is about to end; submitit calls it."""
        import submitit

        until = time.monotonic() + self.seconds
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if self._pid is not None:
                os.kill(self._pid, signal.SIGTERM)
            # Not reaped here: __call__, which this interrupts, waits for the process.
            while self._pid is not None and time.monotonic() < until:
                if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    break
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(RunJob(self.command, self.seconds))


def check(options: Mapping[str, str]) -> None:
    """Raises UserError if no job could be submitted: submitit or Slurm is missing, or Slurm refuses the options.

    Slurm judges partition, account, time and resources itself: `sbatch --test-only` submits nothing.
    """
    values = _checked(options)
    submitit = _submitit()
    if values["cluster"] == "local":
        return
    _queue()
    with tempfile.TemporaryDirectory() as scratch:
        script = pathlib.Path(scratch) / "job.sh"
        executor = _described(submitit, pathlib.Path(scratch) / "arm" / "seed-0", values)
        script.write_text(executor._make_submission_file_text("true", "check"), "utf-8")
        try:
            done = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True)
        except FileNotFoundError as error:
            raise UserError("--executor=slurm: no sbatch here; expected a machine that submits to Slurm") from error
    if done.returncode:
        raise UserError(f"--slurm: {_one_line(done.stderr)}; expected options that Slurm takes")


def submit(
    job_folders: Sequence[pathlib.Path],
    options: Mapping[str, str],
    say: Callable[[str], None],
    command: Callable[[pathlib.Path], list[str]] = local.command,
) -> None:
    """Submits the jobs that are neither done nor queued.

    Args:
      job_folders: the jobs' folders, on storage that all nodes see.
      options: values of KEYS.
      say: called with each line for the user.
      command: returns the command line that runs the job of a folder.

    Raises:
      UserError: an option is unknown or invalid; submitit or Slurm is missing, or Slurm refuses a job.
    """
    values = _checked(options)
    submitit = _submitit()
    queue = None if values["cluster"] == "local" else _queue()
    for folder in map(pathlib.Path.absolute, job_folders):
        name = f"{folder.parent.name}/{folder.name}"
        state = folders.state(folder)
        if state == "done":
            continue
        queued = _state_in(folder, _submitted(folder), queue)
        if queued or state == "running":
            say(f"{name}: job {queued[0]} of Slurm, {queued[1].lower()}" if queued else f"{name}: running")
            continue
        executor = _executor(submitit, folder, values)
        try:
            with contextlib.chdir(local.ROOT):  # the job starts here, and imports this module
                job = executor.submit(RunJob(command(folder), _saving_seconds(values)))
        except (RuntimeError, OSError) as error:
            raise UserError(f"{name}: cannot be submitted: {_one_line(error)}") from error
        submitted = {"job": job.job_id, "cluster": values["cluster"], "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        folders.write_json(folder / "slurm.json", submitted)
        (folder / "failed.json").unlink(missing_ok=True)
        say(f"{name}: submitted, job {job.job_id} of Slurm")


def commands(
    job_folders: Sequence[pathlib.Path],
    options: Mapping[str, str],
    command: Callable[[pathlib.Path], list[str]] = local.command,
) -> list[str]:
    """Returns the files that sbatch would be given, each after a line with the command that it runs.

    Raises:
      UserError: as for `submit`; Slurm itself need not be installed.
    """
    values = _checked(options)
    submitit = _submitit()
    lines = []
    for folder in map(pathlib.Path.absolute, job_folders):
        lines.append(f"# {shlex.join(command(folder))}")
        if values["cluster"] == "slurm":
            executor = _described(submitit, folder, values)
            lines.append(executor._make_submission_file_text(executor._submitit_command_str, "dry_run"))
    return lines


def _executor(submitit, folder, values):
    """Returns submitit's AutoExecutor for one job."""
    parameters = _parameters(folder, values)
    slurm_values = {f"slurm_{key}": value for key, value in _slurm_parameters(values).items()}
    try:
        executor = submitit.AutoExecutor(
            folder / "slurm", values["cluster"], slurm_max_num_timeout=values["max_timeouts"],
            local_max_num_timeout=values["max_timeouts"])  # fmt: skip
        if values["cluster"] == "local":
            slurm_values = {"local_setup": [values["setup"]]} if "setup" in values else {}
        executor.update_parameters(**parameters, **slurm_values)
    except (RuntimeError, ValueError, AssertionError, NameError) as error:
        raise UserError(f"--executor=slurm: {_one_line(error)}; expected a machine that submits to Slurm") from error
    if values["cluster"] == "local":
        executor._executor.parameters["signal_delay_s"] = values["signal_delay_s"]
    return executor


def _described(submitit, folder, values):
    """Returns an executor for a machine without Slurm: it makes the file and submits nothing."""

    class Described(submitit.SlurmExecutor):
        """Holds what submitit needs to know of a job."""

        @classmethod
        def affinity(cls):
            return 1

    executor = Described(folder / "slurm")
    parameters = executor._convert_parameters(_parameters(folder, values))
    executor._internal_update_parameters(**parameters, **_slurm_parameters(values))
    return executor


def _parameters(folder, values):
    """Returns the parameters that all of submitit's executors share."""
    given = {key: values[key] for key in ("gpus_per_node", "cpus_per_task", "mem_gb") if key in values}
    return {
        "name": job_name(folder), "timeout_min": values["time"], "nodes": values["nodes"],
        "tasks_per_node": values["tasks_per_node"], "stderr_to_stdout": True, **given,
    }  # fmt: skip


def _slurm_parameters(values):
    given = {key: values[key] for key in ("partition", "account", "qos", "constraint", "gres") if key in values}
    given |= {key: values[key] for key in ("nodelist", "exclude") if key in values}
    additional = {"requeue": True, "chdir": str(local.ROOT)}
    if "reservation" in values:
        additional["reservation"] = values["reservation"]
    if "setup" in values:
        given["setup"] = [values["setup"]]
    if "cpus_per_task" in values:  # since Slurm 22.05 srun does not inherit it from sbatch
        given["srun_args"] = [f"--cpus-per-task={values['cpus_per_task']}"]
    return {**given, "signal_delay_s": values["signal_delay_s"], "additional_parameters": additional}


def job_name(folder: pathlib.Path) -> str:
    """Returns the job's name in Slurm's queue, unique to its folder."""
    folder = folder.absolute()
    return f"{folder.parent.name}-{folder.name}-{hashlib.sha1(str(folder).encode()).hexdigest()[:8]}"


def _queue():
    """Returns {id or name: (id, state)} of the user's jobs that are queued or running.

    Raises:
      UserError: squeue gives no answer; a job might be submitted twice.
    """
    line = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%T|%j"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_QUEUE_SECONDS)
    except FileNotFoundError as error:
        raise UserError("--executor=slurm: no squeue here; expected a machine that submits to Slurm") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"squeue: no answer in {_QUEUE_SECONDS} seconds; expected Slurm's queue") from error
    if done.returncode:
        raise UserError(f"squeue: exit code {done.returncode}: {_one_line(done.stderr)}; expected Slurm's queue")
    queue = {}
    for row in done.stdout.splitlines():
        number, state, name = row.strip().split("|", 2)
        queue[number] = queue[name] = (number, state)
    return queue


def _state_in(folder, known, queue):
    """Returns (id, state) of a job that has not ended, else None. Without a queue, of submitit's local executor."""
    if queue is not None:
        # By name too: a launcher may have been killed before it wrote the id.
        return queue.get(known.get("job")) or queue.get(job_name(folder))
    if known.get("cluster") != "local" or not _is_alive(known["job"], folder):
        return None
    return known["job"], "RUNNING"


def _is_alive(pid, folder):
    """Returns whether the process `pid` is the one that submitit's local executor runs for this folder."""
    done = subprocess.run(["ps", "-ww", "-o", "stat=", "-o", "args=", "-p", pid], capture_output=True, text=True)
    line = done.stdout.strip()
    return str(folder / "slurm") in line and not line.startswith("Z")


def _submitted(folder) -> Mapping[str, Any]:
    path = folder / "slurm.json"
    return folders.read_json(path) if path.exists() else {}


def _submitit():
    try:
        import submitit
    except ImportError as error:
        raise UserError("--executor=slurm: submitit is missing; expected it: pip install 'submitit>=1.5.4'") from error
    return submitit


def _preemption_signal():
    return getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")


def _saving_seconds(values):
    return max(1, values["signal_delay_s"] - _SAVING_SECONDS) if values["cluster"] == "slurm" else _SAVING_SECONDS


def _checked(options):
    """Returns the options as numbers and texts, with defaults for missing ones."""
    values = dict(_DEFAULTS)
    for key, text in options.items():
        if key not in KEYS:
            near = closest(key, KEYS) or f"; expected one of {', '.join(KEYS)}"
            raise UserError(f"--slurm={key}={text}: no such key{near}")
        if not text or "\n" in text:
            raise UserError(f"--slurm={key}={text!r}: expected one line of text")
        if key == "time":
            values[key] = _minutes(text)
        elif key in _NUMBERS:
            values[key] = _number(key, text)
        elif key == "mem_gb":
            values[key] = _gigabytes(text)
        else:
            values[key] = text
    if values["cluster"] not in ("slurm", "local"):
        raise UserError(f"--slurm=cluster={values['cluster']}: expected slurm or local")
    if values["cluster"] == "local" and values["nodes"] > 1:
        raise UserError(f"--slurm=nodes={values['nodes']}: cluster=local has one node; expected nodes=1")
    if values["signal_delay_s"] >= values["time"] * 60:
        raise UserError(
            f"--slurm=signal_delay_s={values['signal_delay_s']}: the job's time is {values['time']} minutes; "
            "expected seconds before its end"
        )
    return values


def _number(key, text):
    lowest = 0 if key in ("gpus_per_node", "max_timeouts") else 1
    if not text.isdecimal() or int(text) < lowest:
        raise UserError(f"--slurm={key}={text}: expected a number from {lowest} on")
    return int(text)


def _gigabytes(text):
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise UserError(f"--slurm=mem_gb={text}: expected gigabytes, such as 64")


def _minutes(text):
    """Returns the minutes of M, M:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS, as sbatch reads --time."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise UserError(f"--slurm=time={text}: expected minutes, H:MM:SS or D-HH:MM:SS")
    days, *parts = match.groups()
    parts = [int(part) for part in parts if part is not None]
    if days is None and len(parts) < 3:  # minutes come first
        parts.insert(0, 0)
    hours, minutes, seconds = parts + [0] * (3 - len(parts))
    total = (int(days or 0) * 24 + hours) * 60 + minutes + -(-seconds // 60)
    if total < 1:
        raise UserError(f"--slurm=time={text}: expected a minute or more")
    return total


def _one_line(error):
    return " ".join(str(error).split())
