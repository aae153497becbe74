"""Tests files that are whole or absent, locks, and JSON Lines."""

import errno
import fcntl
import os
import stat
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


def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        files.atomic_write(pipe, "a\n")
        assert reader.stdout.read() == b"a\n"
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        with files.atomic_path(pipe) as partial:
            assert partial.read_bytes() == b""
            partial.write_text("b")
        assert reader.stdout.read() == b"b"
    assert names(tmp_path) == ["pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for device in ("/dev/null", link):
        before = os.stat(device)
        files.atomic_write(device, "gone")
        assert os.stat(device).st_rdev == before.st_rdev and stat.S_ISCHR(os.stat(device).st_mode)
    assert link.is_symlink()


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link, chain = tmp_path / "elsewhere" / "a", tmp_path / "link", tmp_path / "chain"
    link.symlink_to("elsewhere/a")
    chain.symlink_to("link")
    for content in ("made", "replaced"):  # the target is absent at first
        files.atomic_write(chain, content)
        assert link.is_symlink() and chain.is_symlink() and target.read_text() == content
    assert names(tmp_path / "elsewhere") == ["a"]
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        files.atomic_write(loop, "a")
    (tmp_path / "to folder").symlink_to("elsewhere")
    with pytest.raises(IsADirectoryError):
        files.atomic_write(tmp_path / "to folder", "a")
    (tmp_path / "to new").symlink_to("new")
    with files.atomic_folder(tmp_path / "to new") as folder:
        (folder / "a").touch()
    assert (tmp_path / "to new").is_symlink() and names(tmp_path / "new") == ["a"]


def test_a_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "a"
    path.write_text("secret")
    path.chmod(0o600)
    files.atomic_write(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_text() == "new"


TO_STANDARD_OUTPUT = """
import sys
from bert_jax import files
print("first")
with files.open_output(sys.argv[1]) as file:
    file.write("\u00e9\\n".encode())
print("last")
"""


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_standard_output_is_written_to(tmp_path, name, kind):
    if name != "-" and not os.path.exists(name):
        pytest.skip(f"this machine: no {name}")
    path = tmp_path / "out"
    path.write_text("older\n")
    with path.open("a") as out:
        process = subprocess.run(
            [sys.executable, "-u", "-c", TO_STANDARD_OUTPUT, name], stdout=out if kind == "file" else subprocess.PIPE
        )
    said = path.read_text("utf-8").removeprefix("older\n") if kind == "file" else process.stdout.decode()
    assert process.returncode == 0 and said == "first\n\u00e9\nlast\n" and names(tmp_path) == ["out"]


def test_a_file_that_is_mounted_by_itself_is_written_to(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")

    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    files.atomic_write(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["a"]


def test_a_full_device_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("this machine: no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        files.atomic_write("/dev/full", "a")


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("corpora/boks", "corpora/books"),
        ("corpra/books", "corpora/books"),
        ("Corpora/Books", "corpora/books"),
        ("corpora/books/", ""),  # is there
        ("trian.csv", "train.csv"),
        ("train.tsv", "train.csv"),
        ("b.csv", ""),  # of train.csv it has the ending alone
        ("b.cssv", ""),
        ("./trian.csv", "train.csv"),
        ("corpora/boks/absent.txt", ""),
        ("corpora/hidden", ""),
        ("runs/qq", "runs/q"),
        ("gs://corpora/boks", ""),
        ("-", ""),
        ("", ""),
        ("n" * 300, ""),
        ("nul\0", ""),
    ],
)
def test_a_missing_path_is_told_by_the_closest_in_its_place(path, near, tmp_path, monkeypatch):
    for folder in ("corpora/books", "corpora/.hidden", "runs/q"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert files.closest_path(path) == (f"; did you mean {near}?" if near else "")
    if near and not path.startswith("./"):
        assert files.closest_path(tmp_path / path) == f"; did you mean {tmp_path / near}?"
        is_folder = near != "train.csv"
        assert files.closest_path(path, is_folder) and not files.closest_path(path, not is_folder)
