"""Memory that malloc keeps, in huge pages; each in a process of its own, whose malloc is set for good."""

import json
import subprocess
import sys

import pytest

from bert_jax.processes import machine

# A thread that is started behind it takes and returns blocks, as XLA's do with the temporaries of a step.
PROGRAM = """
import ctypes, json, pathlib, threading
from bert_jax.processes import host_memory
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def take():
    blocks = [libc.malloc(2**23) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 2**23)
    return blocks

def faults():
    return int(pathlib.Path("/proc/self/stat").read_text().split()[9])

def steps():
    counts = []
    for _ in range(3):
        before = faults()
        for block in take():
            libc.free(block)
        counts.append(faults() - before)
    made.append(counts)

made = []
thread = threading.Thread(target=steps)
thread.start()
thread.join()
{after}
rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
huge = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("AnonHugePages"))
print(json.dumps([made[0], huge]))
"""


def result(before, after="", **environment):
    program = PROGRAM.format(before=before, after=after)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="this machine: its malloc is not that of Linux"
)


def test_memory_that_is_returned_is_not_faulted_in_again():
    pages = 8 * 2**23 // 4096
    assert min(result("")[0]) >= pages // 512  # every block's again, in pages that may be huge
    first, *later = result("host_memory.keep_freed_memory()")[0]
    assert first >= pages // 512 > 2 * max(later)


def test_memory_that_is_held_moves_to_huge_pages():
    with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="utf-8") as file:
        if "[madvise]" not in file.read():
            pytest.skip("this machine: its kernel decides alone about huge pages, or has none")
    keep, use = "host_memory.keep_freed_memory()", "host_memory.use_huge_pages()"
    assert result(keep)[1] == 0
    assert result(keep, use)[1] >= 8 * 2**13 * 0.8  # kB


def test_a_cpu_is_expected_where_nothing_else_is_asked_for_or_seen(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert machine.expects_cpu()
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    assert not machine.expects_cpu()
    monkeypatch.delenv("JAX_PLATFORMS")
    for files in ([], ["/dev/nvidia0"]):
        monkeypatch.setattr(machine, "accelerators", lambda files=files: files)
        assert machine.expects_cpu() == (not files)
