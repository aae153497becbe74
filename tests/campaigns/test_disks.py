"""Campaign: a disk gets full at random moments, of blocks or of files, or the user's own quota is used up.

The log lies on it or elsewhere. The command ends by itself, in one line or with the whole result; what it had saved
loads; and once there is room again, the same command ends in the result of one that always had room.
"""

import contextlib
import pathlib
import random
import re
import shutil
import subprocess
import time

import pytest

from bert_jax.runs import checkpoints
from tests.campaigns.workspace import SEED, output_of, tries
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
KINDS = ("blocks", "blocks", "files", "quota", "quota")
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


def quota_library(folder):
    """Compiles quota.c, which fails what a process writes, or makes, below $QUOTA_FOLDER as a used up quota does."""
    library = folder / "quota.so"
    if not library.exists():
        source = pathlib.Path(__file__).with_name("quota.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@contextlib.contextmanager
def own_quota(path):
    """Makes a folder in which `quota_library` acts once $QUOTA_FOLDER.exceeded exists."""
    path.mkdir()
    yield path


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
    faults = []
    for number in range(disks):
        command = commands[NAMES[number % len(NAMES)]]
        _, seconds = workspace.undisturbed(command)
        delay, kind, log_too = draw.uniform(0.2, 1.0) * seconds, draw.choice(KINDS), draw.random() < 0.5
        path = workspace.folder / f"disk-{seed}-{number}"
        what = f"{number}: {command.name}: {kind} full after {delay:.2f} s"
        try:
            with own_quota(path) if kind == "quota" else small_disk(path) as disk:
                one_disk(workspace, command, disk, kind, delay, log_too, tally)
        except AssertionError as error:
            faults.append(f"{what}: {error}")
            print(faults[-1], flush=True)
            tally["fault"] += 1
            workspace.kill_all()
    assert not faults, "\n\n".join([f"{len(faults)} of {disks} (seed {seed})", *faults])


def one_disk(workspace, command, disk, kind, delay, log_too, tally):
    """Lets a disk get full `delay` seconds after a command's start; checks its end, then the same command with room."""
    expected, _ = workspace.undisturbed(command)
    here = disk / "here"
    printed = disk / "printed.txt" if log_too else disk.with_name(f"{disk.name}.txt")
    exceeded = disk.with_name(f"{disk.name}.exceeded")
    own = {"QUOTA_FOLDER": str(disk), "LD_PRELOAD": str(quota_library(workspace.folder))} if kind == "quota" else {}
    process = workspace.start(command, here, printed, own=own)
    end = time.monotonic() + delay
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.005)
    early = process.poll() is None
    if kind == "quota":
        exceeded.touch()
    else:
        fill(disk / "full", kind == "files")
    code = process.wait(LONGEST_WAIT)
    output = printed.read_text(errors="replace")
    what = f"exit code {code}\n{output}"
    assert code in ((0, 1, 2) if command.name == "launch" else (0, 2)), what
    assert not _CRASH.search(output), what
    assert code == 0 or log_too or "error: " in output or command.name == "launch", what
    wait_until(lambda: not workspace.processes())
    tally[f"{command.name}: {'ended in one line' if code else 'went on' if early else 'had ended'}"] += 1
    tally[f"{kind}: {'full meanwhile' if early else 'full after the end'}"] += 1
    if code == 0:
        assert command.digest(here) == expected or (early and command.continues), what
    if checkpoints.saved_steps(here / "out" / "checkpoints"):
        checkpoints.load_params(here / "out")
        tally["last good checkpoint loaded"] += 1
    if kind == "quota":
        exceeded.unlink()
    else:
        shutil.rmtree(disk / "full")
    if command.continues or not (here / command.result).exists():
        assert workspace.finish(command, here) == expected, f"another result\n{output_of(here)}"
        tally["continued to the same bits, with room"] += 1


@pytest.mark.slow
def test_twenty_full_disks(workspace, tally):
    campaign(workspace, tally, tries(20), SEED + 3)
