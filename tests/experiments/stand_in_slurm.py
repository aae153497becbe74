"""Slurm's commands as far as the launcher and submitit use them, on this machine: started as sbatch, srun, squeue, ...

Jobs lie in $STAND_IN_SLURM: a folder for each, with its script, name, state and the process groups of its tasks. A
signal reaches every process of every task, as Slurm sends it.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

JOBS = pathlib.Path(os.environ["STAND_IN_SLURM"])


def sbatch(*arguments):
    text = pathlib.Path(arguments[-1]).read_text()
    if "--test-only" in arguments:
        partition = re.search(r"^#SBATCH --partition=(.*)$", text, re.MULTILINE)
        if partition and partition[1] == "nowhere":
            sys.exit("allocation failure: Invalid partition name specified")
        return
    number = str(100 + len(list(JOBS.iterdir())))
    job = JOBS / number
    job.mkdir()
    (job / "script").write_text(text)
    start(number)
    print(f"Submitted batch job {number}")


def start(number):
    job = JOBS / number
    text = (job / "script").read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    (job / "name").write_text(flags["job-name"])
    (job / "state").write_text("RUNNING")
    with open(job / "starts", "a") as file:
        file.write("+")
    this = (job / "starts").read_text()
    environment = os.environ | {
        "SLURM_JOB_ID": number,
        "SLURM_NTASKS": str(int(flags["nodes"]) * int(flags["ntasks-per-node"])),
        "SLURM_JOB_NUM_NODES": flags["nodes"],
        "SLURM_NTASKS_PER_NODE": flags["ntasks-per-node"],
    }
    line = f"bash {job / 'script'}; test $(cat {job / 'starts'}) != {this} || echo ENDED > {job / 'state'}"
    output = open(flags["output"].replace("%j", number), "a")  # noqa: SIM115 (the job's)
    subprocess.Popen(
        ["bash", "-c", line], env=environment, stdout=output, stderr=output, start_new_session=True,
        cwd=flags["chdir"])  # fmt: skip


def srun(*arguments):
    number, tasks = os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_NTASKS"])
    output = arguments[arguments.index("--output") + 1].replace("%j", number)
    first = next(i for i, word in enumerate(arguments) if "python" in word)
    processes = []
    for task in range(tasks):
        environment = os.environ | {
            "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_NODEID": "0", "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": str(tasks),
            "SLURM_STEP_TASKS_PER_NODE": str(tasks),
        }  # fmt: skip
        file = open(output.replace("%t", str(task)), "a")  # noqa: SIM115 (the task's)
        processes.append(
            subprocess.Popen(arguments[first:], env=environment, stdout=file, stderr=file, start_new_session=True)
        )
    (JOBS / number / "groups").write_text(" ".join(str(process.pid) for process in processes))
    sys.exit(max(process.wait() for process in processes))


def squeue(*arguments):
    for job in sorted(JOBS.iterdir()):
        state = (job / "state").read_text().strip()
        if state == "RUNNING":
            print(f"{job.name}|{state}|{(job / 'name').read_text()}")


def scancel(number, flag, name):
    for group in (JOBS / number / "groups").read_text().split():
        os.killpg(int(group), getattr(signal, name))


def scontrol(verb, number):
    assert verb == "requeue"
    for group in (JOBS / number / "groups").read_text().split():
        if int(group) != os.getpgrp():  # the task that asks ends by itself
            os.killpg(int(group), signal.SIGKILL)
    start(number)


if __name__ == "__main__":
    globals()[pathlib.Path(sys.argv[0]).name](*sys.argv[1:])
