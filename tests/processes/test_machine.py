"""How much memory is left is read from the machine, the control group and the process's own limit."""

import os
import subprocess
import sys

import pytest

from bert_jax.processes import machine

GIB = 2**30


def test_this_process_holds_something_of_what_there_is():
    assert 0 < machine.held_memory() < 1.1 * machine.peak_memory() < 2**50  # the kernel counts in batches
    assert 0 < machine.available_memory() < 2**50


@pytest.mark.parametrize(
    ("limit", "use", "statistics", "free"),
    [("max\n", "5", "", None), (f"{8 * GIB}", f"{3 * GIB}", f"anon 7\ninactive_file {GIB}\n", 6 * GIB),
     (str(2**63 - 4096), "5", "", None)],
)  # fmt: skip
def test_a_control_group_leaves_what_its_limit_does(tmp_path, limit, use, statistics, free):
    for name, content in (("limit", limit), ("use", use), ("stat", statistics)):
        (tmp_path / name).write_text(content)
    paths = (*(str(tmp_path / name) for name in ("limit", "use", "stat")), "inactive_file")
    assert machine._free_of_cgroup(paths) == free
    assert machine._free_of_cgroup((*paths[:1], str(tmp_path / "none"), *paths[2:])) is None


def test_a_limit_of_the_process_counts():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))\n"
        "from bert_jax.processes import machine; print(machine.available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 3 * GIB


def test_sizes_in_words():
    assert [machine.in_words(size) for size in (41.24 * GIB, 310 * 2**20, 5)] == ["41.2 GiB", "310 MiB", "1 MiB"]
