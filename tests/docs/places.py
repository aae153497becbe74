"""Runs commands of the pages that need more than this machine as it is, on what stands in for it here.

A block says in a comment above its fence what it runs on, `<!-- run on: PLACE -->`; PLACES has the places.
"""

import dataclasses
import gzip
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable

from tests.commands import LONGEST_WAIT, wait_until
from tests.docs import workspace
from tests.docs.blocks import ROOT, Block

Words = list[str]
_HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Place:
    """Describes what stands in for a place.

    Attributes:
      run: runs the words of one command in a folder, and raises AssertionError if it fails.
      mark: the mark of pytest under which it runs.
    """

    run: Callable[[Words, pathlib.Path], None]
    mark: str = "full"


def run_block(block: Block, base: pathlib.Path, folder: pathlib.Path) -> None:
    """Runs the commands of a block, made small, in a copy of the folder that workspace.make has filled."""
    workspace.copy(base, folder)
    shared = folder / "shared"  # /shared in the pages
    shared.mkdir()
    (shared / "corpus").symlink_to(folder / "corpora" / "books")
    commands = [[word.replace("/shared/", "shared/") for word in words] for words in block.commands]
    workspace.remove_what_is_made(commands, folder)
    for words in commands:
        PLACES[block.run_on].run(words, folder)


def _on_sixteen_devices(words, folder):
    """Runs a command with sixteen CPU devices, each of which has a row of the batch."""
    rows = ["--config.data.batch_size=16", "--config.train.eval_batch_size=16"]
    variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=16"}
    workspace.call([*_small(words), *rows], folder, variables)


def _on_two_workers(words, folder):
    """Starts the same command twice; JAX's variables say what the metadata of a TPU pod would."""
    variables = {"JAX_COORDINATOR_ADDRESS": _free_address(), "JAX_NUM_PROCESSES": "2"}
    _together([(_small(words), variables | {"JAX_PROCESS_ID": str(worker)}) for worker in range(2)], folder)


def _on_two_hosts(words, folder):
    """Starts the command of each host, as a process of this one."""
    address = _free_address()
    words = [word.replace("host0:1234", address) for word in words]
    assert "--process_id=0" in words, words
    hosts = [[word.replace("--process_id=0", f"--process_id={host}") for word in words] for host in range(2)]
    _together([(_small(host), {}) for host in hosts], folder)


def _on_slurm(words, folder):
    """Runs a command with Slurm's commands in the PATH, played by programs of the tests, and waits for its jobs."""
    programs, jobs = folder / "bin", folder / "slurm"
    programs.mkdir(), jobs.mkdir()
    stand_in = f"#!{sys.executable}\n{(ROOT / 'tests/experiments/stand_in_slurm.py').read_text('utf-8')}"
    texts = dict.fromkeys(("sbatch", "squeue", "scontrol", "scancel"), stand_in)
    srun = stand_in if "launch" in words else (_HERE / "srun.sh").read_text("utf-8")
    texts |= {"srun": srun, "bert-jax": f'#!/bin/sh\nexec {sys.executable} -m bert_jax "$@"\n'}
    for name, text in texts.items():
        (programs / name).write_text(text, "utf-8")
        (programs / name).chmod(0o755)
    path = f"{programs}:{workspace.environment()['PATH']}"
    at = words.index("bert-jax")
    command = [*words[: at + 2], *workspace.small(words[at + 1], words[at + 2 :])]
    workspace.call(command, folder, {"PATH": path, "STAND_IN_SLURM": str(jobs)})
    submitted = list((folder / "shared").glob("*/*/seed-*"))
    assert bool(submitted) == ("launch" in words)
    wait_until(lambda: all((job / "state").read_text().strip() == "ENDED" for job in jobs.iterdir()))
    for job in submitted:
        assert (job / "result.json").is_file(), (job / "log.txt").read_text("utf-8")


def _in_a_cloud(words, folder):
    """Shows the tasks that a cloud would get."""
    words = [word.replace("BUCKET", "runs-of-mine") for word in words]
    workspace.call([*_small(words), "--dry_run"], folder)


def _under_beam(words, folder):
    """Prepares with Beam's own runner; a folder is the bucket."""
    (folder / "bucket" / "text").mkdir(parents=True)
    for part in sorted((folder / "books").glob("*.txt")):
        lines = [json.dumps({"text": text}) for text in part.read_text("utf-8").split("\n\n")]
        (folder / "bucket" / "text" / f"{part.stem}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    words = [word.replace("gs://bucket", "bucket").replace("DataflowRunner", "DirectRunner") for word in words]
    workspace.call(_small(words), folder)
    assert (folder / "bucket" / "corpus" / "manifest.json").is_file()


def _served(words, folder):
    """Starts a command that serves a page, reads the page, and ends the command as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bert_jax", *words[1:], "--port=0"], cwd=folder, env=workspace.environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address, process.stderr.read()
        with urllib.request.urlopen(address[0], timeout=LONGEST_WAIT) as page:
            assert page.status == 200 and b"MODEL" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST_WAIT) == 130
    finally:
        process.kill()
        process.communicate()


def _by_command(words, folder):
    workspace.call(_small(words), folder)


def _with_torch(words, folder):
    workspace.call([sys.executable, *words[1:]], folder)


PLACES = {
    "sixteen devices": Place(_on_sixteen_devices),
    "two workers": Place(_on_two_workers),
    "two hosts": Place(_on_two_hosts),
    "Slurm": Place(_on_slurm),
    "a cloud": Place(_in_a_cloud),
    "Beam": Place(_under_beam, "beam"),
    "torch": Place(_with_torch, "parity"),
    "FAISS": Place(_by_command, "parity"),
    "the compiler for GPUs": Place(_by_command, "triton"),
    "gradio": Place(_served, "demo"),
}


def _small(words):
    """Returns the command that runs the words of a `bert-jax` line with sizes that seconds are enough for."""
    assert words[0] == "bert-jax", words
    return [sys.executable, "-m", "bert_jax", words[1], *workspace.small(words[1], words[2:])]


def _free_address():
    with socket.socket() as listener:
        listener.bind(("", 0))
        return f"localhost:{listener.getsockname()[1]}"


def _together(commands, folder):
    """Runs commands, each with variables of its own, at the same time."""
    processes = [
        subprocess.Popen(command, cwd=folder, env=workspace.environment() | variables, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command, variables in commands
    ]  # fmt: skip
    outputs = [process.communicate(timeout=LONGEST_WAIT)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-6000:]
