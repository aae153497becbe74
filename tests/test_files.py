"""Tests files that are whole or absent, locks, and JSON Lines."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from bert_jax import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_all_is_written(tmp_path):
    path = tmp_path / "a.txt"
    files.atomic_write(path, "old\n")
    with files.atomic_open(path) as file:
        file.write("new é\n")
        assert path.read_text() == "old\n"
    assert path.read_bytes() == "new é\n".encode() and names(tmp_path) == ["a.txt"]
    files.atomic_write(path, b"\xff")
    assert path.read_bytes() == b"\xff"


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, failure):
    path, folder = tmp_path / "a.txt", tmp_path / "folder"
    files.atomic_write(path, "old")

    def failing(*_):
        raise failure

    for name in ("fsync", "replace"):  # a full disk may say so when it is flushed
        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing)
            with pytest.raises(type(failure)):
                files.atomic_write(path, "new")
            with pytest.raises(type(failure)), files.atomic_folder(folder) as partial:
                (partial / "b").write_text("b")
    with pytest.raises(type(failure)), files.atomic_open(path) as file:
        file.write("ne")
        raise failure
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this machine: no /dev/full")
    with pytest.raises(OSError, match="No space left"), files.atomic_path(tmp_path / "a") as partial:
        partial.unlink()
        partial.symlink_to("/dev/full")
        partial.write_text("a")
    assert names(tmp_path) == []


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "folder"
    with files.atomic_folder(path) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "a").write_text("a")
        assert not path.exists()
    assert names(tmp_path) == ["folder"] and (path / "inside" / "a").read_text() == "a"
    with pytest.raises(OSError), files.atomic_folder(path) as folder:
        (folder / "b").write_text("b")
    with files.atomic_folder(path, keep_existing=True) as folder:
        (folder / "b").write_text("b")
    assert names(tmp_path) == ["folder"] and names(path) == ["inside"]


KILLED = """
import os, signal, sys
from bert_jax import files
with files.atomic_{kind}(sys.argv[1]) as partial:
    print("writing", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["path", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path, kind):
    path = tmp_path / "a[1].txt"
    subprocess.run([sys.executable, "-c", KILLED.format(kind=kind), str(path)], capture_output=True)
    left = names(tmp_path)
    assert len(left) == 1 and left[0].endswith(".partial")
    options = {"keep_existing": True} if kind == "folder" else {}
    write = {"path": files.atomic_path, "folder": files.atomic_folder}[kind]
    with write(path, **options) as first:
        assert names(tmp_path) == [first.name] != left
        with files.atomic_path(tmp_path / "a1.txt") as other, write(path, **options) as second:
            assert names(tmp_path) == sorted([first.name, second.name, other.name])
    assert names(tmp_path) == ["a1.txt", path.name]


def test_a_lock_is_held_by_one(tmp_path):
    path = tmp_path / "lock"
    assert files.is_locked(path) is None
    with files.lock(path) as file:
        file.write(b"mark")
        assert files.is_locked(path) is True
        with pytest.raises(BlockingIOError), files.lock(path, seconds=0.05):
            pass
    assert files.is_locked(path) is False and path.read_bytes() == b"mark"
    with files.lock(path, shared=True), files.lock(path, shared=True):
        assert files.is_locked(path) is False  # a look is shared too
        with pytest.raises(BlockingIOError), files.lock(path):
            pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refusing(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refusing)
    files.atomic_write(tmp_path / "a", "a")
    assert names(tmp_path) == ["a"] and files.is_locked(tmp_path / "a") is None
    with pytest.raises(files.NoLocksError), files.lock(tmp_path / "lock"):
        pass


def test_json_lines():
    line = files.json_line({"a": "é\u2028\x85"})
    assert line == '{"a": "é\\u2028\\u0085"}' and files.parse_object(line) == {"a": "é\u2028\x85"}
    assert files.whole_objects(b'{"step": 1}\n\n[2]\n{"step": 3}\n{"ste') == [{"step": 1}, {"step": 3}]
    for bad, reason in (
        (b"{", "not JSON"),
        (b"[1]", "a JSON list"),
        (b'"\xff"', "not UTF-8"),
        ("[" * 10**5, "not JSON"),
    ):
        with pytest.raises(ValueError, match=reason):
            files.parse_object(bad)
