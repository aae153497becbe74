"""Campaign: the disk gets full at random moments, of blocks or of files, with the log on it or elsewhere.

The command ends by itself, in one line or with the whole result; what it had saved loads; and once there is room again,
the same command ends in the result of one that always had room.
"""

import contextlib
import os
import random
import re
import subprocess
import time

import pytest

from bert_jax.runs import checkpoints
from tests.campaigns.workspace import SEED, tries
from tests.commands import LONGEST_WAIT, wait_until

NAMES = (
    "pretrain",
    "finetune",
    "prepare",
    "pretrain",
    "finetune",
    "convert",
    "predict",
    "evaluate",
    "launch",
    "report",
)
_CRASH = re.compile(r"Traceback|Fatal Python error|Segmentation fault|core dumped|Exception ignored|Aborted")


@contextlib.contextmanager
def small_disk(path):
    """Mounts a file system of 24 MB and 600 files."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,nr_inodes=600", "tmpfs", path], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this machine: cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(folder, files):
    """Takes every block of a disk, or every file that it may have."""
    folder.mkdir()
    with contextlib.suppress(OSError):
        if files:
            for number in range(10**6):
                (folder / str(number)).touch()
        with open(folder / "filler", "wb", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass


def campaign(workspace, tally, disks, seed):
    draw = random.Random(seed)
    commands = workspace.commands()
    for number in range(disks):
        command = commands[NAMES[number % len(NAMES)]]
        expected, seconds = workspace.undisturbed(command)
        delay = draw.uniform(0.2, 1.0) * seconds
        files, log_too = draw.random() < 0.3, draw.random() < 0.5
        with small_disk(workspace.folder / f"disk-{seed}-{number}") as disk:
            here = disk / "here"
            printed = disk / "printed.txt" if log_too else workspace.folder / f"printed-{seed}-{number}.txt"
            process = workspace.start(command, here, printed)
            end = time.monotonic() + delay
            while time.monotonic() < end and process.poll() is None:
                time.sleep(0.005)
            early = process.poll() is None
            fill(disk / "full", files)
            code = process.wait(LONGEST_WAIT)
            output = printed.read_text(errors="replace")
            what = (
                f"{command.name}: {'files' if files else 'blocks'} full after {delay:.2f} s: exit code {code}\n{output}"
            )
            assert code in ((0, 1, 2) if command.name == "launch" else (0, 2)), what
            assert not _CRASH.search(output), what
            assert code == 0 or log_too or "error: " in output or command.name == "launch", what
            wait_until(lambda: not workspace.processes())
            tally[f"{command.name}: {'ended in one line' if code else 'went on' if early else 'had ended'}"] += 1
            if code == 0:
                assert command.digest(here) == expected or (early and command.continues), what
            if checkpoints.saved_steps(here / "out" / "checkpoints"):
                _, _, step = checkpoints.load_params(here / "out")
                tally["last good checkpoint loaded"] += 1
            for path in sorted((disk / "full").iterdir()):
                path.unlink()
            os.rmdir(disk / "full")
            if command.continues or not (here / command.result).exists():
                assert workspace.finish(command, here) == expected, what
                tally["continued to the same bits, with room"] += 1


@pytest.mark.full
def test_a_few_full_disks(workspace, tally):
    campaign(workspace, tally, tries(3), SEED)


@pytest.mark.slow
def test_twenty_full_disks(workspace, tally):
    campaign(workspace, tally, tries(20), SEED + 3)
