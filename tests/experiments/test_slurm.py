"""Jobs under Slurm: submitit's own local executor, and its Slurm executor with a stand-in for Slurm's commands."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from bert_jax.errors import UserError
from experiments.launching import folders, slurm
from tests.commands import wait_until

submitit = pytest.importorskip("submitit", reason="the optional package of --executor=slurm")

# In place of training: the first start runs until it is told to stop, the second one ends the job.
JOB = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
task = os.environ.get("SLURM_PROCID", os.environ.get("SUBMITIT_LOCAL_GLOBALID", "0"))
with open(folder / f"starts-{task}", "a") as file:
    file.write(os.getcwd() + "\\n")
if (folder / "saved-0").exists() or not (folder / "long").exists():
    (folder / f"ended-{task}").touch()
    if task == "0":
        (folder / "result.json").write_text("{}")
    sys.exit(3 if (folder / "fails").exists() else 0)
def save(number, frame):
    (folder / f"saved-{task}").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
(folder / f"running-{task}").touch()
time.sleep(7200)
"""


def command(folder):
    return [sys.executable, "-c", JOB, str(folder)]


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "masking" / "static" / "seed-0"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A cluster of Slurm on this machine; the folder of its jobs."""
    commands, jobs = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir(), jobs.mkdir()
    text = (pathlib.Path(__file__).parent / "stand_in_slurm.py").read_text()
    for name in ("sbatch", "srun", "squeue", "scontrol", "scancel"):
        (commands / name).write_text(f"#!{sys.executable}\n{text}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_SLURM", str(jobs))
    return jobs


def submit(job, said=None, **options):
    said = [] if said is None else said
    slurm.submit([job], {key: str(value) for key, value in options.items()}, said.append, command)
    return " ".join(said)


def starts(job, task=0):
    path = job / f"starts-{task}"
    return path.read_text().splitlines() if path.exists() else []


def test_local_executor_runs_a_job_in_the_repository_once(job):
    assert "submitted" in submit(job, cluster="local")
    wait_until((job / "result.json").exists)
    assert starts(job) == [str(slurm.local.ROOT)]
    assert submit(job, cluster="local") == ""  # done
    assert len(starts(job)) == 1


def test_a_preempted_job_saves_and_starts_again(job):
    (job / "long").touch()
    submit(job, cluster="local")
    wait_until((job / "running-0").exists)
    assert "running" in submit(job, cluster="local")  # not submitted twice
    number = json.loads((job / "slurm.json").read_text())["job"]
    # As LocalJob._interrupt does it, for a job that an earlier launcher submitted: its controller's tasks get USR2.
    (task,) = subprocess.run(["pgrep", "-P", number], capture_output=True, text=True).stdout.split()
    os.kill(int(task), signal.SIGUSR2)
    wait_until((job / "result.json").exists)
    assert len(starts(job)) == 2 and (job / "saved-0").exists()


def test_a_job_that_failed_is_submitted_again(job):
    (job / "fails").touch()
    submit(job, cluster="local")
    logs = job / "slurm"
    wait_until(lambda: list(logs.glob("*_result.pkl")))
    number = json.loads((job / "slurm.json").read_text())["job"]
    with pytest.raises(submitit.core.utils.FailedJobError, match="exit code 3"):
        submitit.LocalJob(logs, number).result()
    (job / "result.json").unlink(), (job / "fails").unlink()
    folders.write_json(job / "failed.json", {"stage": "pretrain", "code": 3, "lines": []})
    wait_until(lambda: "submitted" in submit(job, cluster="local"))
    wait_until((job / "result.json").exists)
    assert not (job / "failed.json").exists() and len(starts(job)) == 2


def test_slurm_gets_one_job_with_a_process_for_each_task(job, stand_in):
    said = submit(job, nodes=1, tasks_per_node=2, partition="gpu", time="1:30:00", cpus_per_task=4, mem_gb=64)
    assert "job 100 of Slurm" in said
    wait_until(lambda: (stand_in / "100" / "state").read_text().strip() == "ENDED")
    assert len(starts(job, 0)) == len(starts(job, 1)) == 1
    script = (stand_in / "100" / "script").read_text().splitlines()
    for line in ("partition=gpu", "time=90", "ntasks-per-node=2", "nodes=1", "cpus-per-task=4", "mem=64GB",
                 "requeue", f"chdir={slurm.local.ROOT}", "signal=USR2@120"):  # fmt: skip
        assert f"#SBATCH --{line}" in script
    assert any(line.startswith("srun ") and "--cpus-per-task=4" in line for line in script)
    assert submit(job) == "" and len(list(stand_in.iterdir())) == 1


@pytest.mark.parametrize("signals", [["SIGUSR2"], ["SIGTERM", "SIGUSR2"]], ids=["timeout", "preemption"])
def test_slurm_queues_a_job_again_that_it_ends(job, stand_in, signals):
    (job / "long").touch()
    submit(job, tasks_per_node=2)
    wait_until(lambda: (job / "running-0").exists() and (job / "running-1").exists())
    assert "job 100 of Slurm, running" in submit(job)
    (job / "slurm.json").unlink()  # a launcher killed between sbatch and its note
    assert "job 100 of Slurm, running" in submit(job)
    for name in signals:  # to every process of the job, as submitit's SlurmJob._interrupt asks for
        subprocess.run(["scancel", "100", "--signal", name], check=True)
        if name == "SIGTERM":
            wait_until(lambda: (job / "saved-0").exists() and (job / "saved-1").exists())
    wait_until((job / "saved-0").exists)
    wait_until(lambda: (stand_in / "100" / "state").read_text().strip() == "ENDED")
    assert len(starts(job, 0)) == len(starts(job, 1)) == 2 and (job / "result.json").exists()
    assert [path.name for path in stand_in.iterdir()] == ["100"]


def test_nothing_is_submitted_while_the_queue_does_not_answer(job, stand_in):
    (stand_in.parent / "bin" / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error >&2; exit 1\n")
    with pytest.raises(UserError, match="squeue: exit code 1: slurm_load_jobs error"):
        submit(job)
    assert not list(stand_in.iterdir())


def test_a_refusal_is_one_line(job, stand_in):
    (stand_in.parent / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    with pytest.raises(UserError, match="static/seed-0: cannot be submitted: .*invalid partition"):
        submit(job, partition="none")
    assert not (job / "slurm.json").exists()


def test_dry_run_shows_what_sbatch_gets(job, stand_in, monkeypatch):
    options = {"time": "60", "constraint": "h100", "setup": "module load cuda", "reservation": "mine"}
    shown = "\n".join(slurm.commands([job], options))
    submit(job, **options)
    assert (stand_in / "100" / "script").read_text().strip() in shown
    assert "module load cuda" in shown and f"experiments.run_job {job}" in shown
    monkeypatch.setenv("PATH", "/nowhere")  # a machine without Slurm can show it
    assert "\n".join(slurm.commands([job], options)) == shown
    slurm.commands([job.with_name("seed-1")], options)
    assert not job.with_name("seed-1").exists()
    with pytest.raises(UserError, match="no squeue here"):
        submit(job)


@pytest.mark.parametrize("key, value, message", [
    ("partitions", "gpu", "no such key; did you mean partition"),
    ("nodes", "two", "nodes=two: expected a number from 1"),
    ("nodes", "0", "expected a number from 1"),
    ("time", "soon", "expected minutes, H:MM:SS"),
    ("time", "0:30", "longer|signal_delay_s"),
    ("mem_gb", "64GB", "expected gigabytes"),
    ("cluster", "debug", "expected slurm or local"),
    ("partition", "", "expected one line of text"),
])  # fmt: skip
def test_an_option_that_cannot_be_is_named(job, key, value, message):
    with pytest.raises(UserError, match=message):
        slurm.commands([job], {key: value})


@pytest.mark.parametrize("text, minutes", [
    ("90", 90), ("90:30", 91), ("1:30:00", 90), ("2-0", 2880), ("1-12:30", 2190), ("0-0:0:59", 1)
])  # fmt: skip
def test_times_are_read_as_sbatch_reads_them(text, minutes):
    assert slurm._minutes(text) == minutes


def test_submitit_is_asked_for_where_it_is_missing(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="submitit is missing; expected it: pip install"):
        slurm.commands([job], {})


def test_what_slurm_refuses_is_known_before_anything_is_prepared(stand_in, monkeypatch):
    slurm.check({"partition": "gpu", "time": "60"})
    slurm.check({"cluster": "local"})
    with pytest.raises(UserError, match="--slurm: allocation failure: Invalid partition name specified; expected"):
        slurm.check({"partition": "nowhere"})
    with pytest.raises(UserError, match="--slurm=partitoin=gpu: no such key; did you mean partition?"):
        slurm.check({"partitoin": "gpu"})
    assert not list(stand_in.iterdir())
    (stand_in.parent / "bin" / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(stand_in.parent / "bin"))
    with pytest.raises(UserError, match="--executor=slurm: no sbatch here"):
        slurm.check({"partition": "gpu"})
