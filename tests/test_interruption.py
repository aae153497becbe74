"""Signals end a program at once and cleanly, whatever its main thread does; the training loop's get theirs first."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.commands import LONGEST_WAIT

ROOT = pathlib.Path(__file__).parents[1]
# The main thread is in C for as long as the process lives, as in XLA's compiler: Python's own handlers would not run.
START = """
import ctypes, os, signal, sys, threading
from bert_jax import files, interruption
interruption.listen()
def busy():
    print("ready", flush=True)
    sleep = ctypes.CDLL(None).sleep
    while True:
        sleep(3600)
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def start(program, folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", START + program], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def end(process, *numbers):
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
    output, error = process.communicate(timeout=LONGEST_WAIT)
    return process.returncode, output, error


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_a_program_that_is_in_c(number, tmp_path):
    code, output, error = end(start("busy()", tmp_path), number)
    assert (code, output) == (CODES[number], "")
    assert error == ("interrupted\n" if number == signal.SIGINT else f"{number.name}: ended\n")


def test_unfinished_files_are_removed_and_finished_ones_stay(tmp_path):
    program = """
files.atomic_write("whole", "whole")
with files.atomic_open("half.jsonl") as half, files.atomic_folder("folder.1") as folder:
    half.write("half")
    (folder / "inside").write_text("half")
    with interruption.end_message("--output=x: interrupted"):
        busy()
"""
    code, _, error = end(start(program, tmp_path), signal.SIGINT)
    assert code == 130 and error == "SIGINT: --output=x: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("writes", ["atomic_open", "atomic_folder", "scratch_folder"])
def test_a_signal_as_an_unfinished_file_is_made_leaves_none(writes, tmp_path):
    """It comes when the file is there, and before anything is noted of it."""
    program = f"""
import time
acquire = files._acquire
def interrupted(*arguments, **options):
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.5)
    acquire(*arguments, **options)
files._acquire = interrupted
print("ready", flush=True)
with files.{writes}("one"):
    print("went on", flush=True)
"""
    assert end(start(program, tmp_path))[:2] == (CODES[signal.SIGHUP], "")
    assert not list(tmp_path.iterdir())


def test_the_first_signal_is_caught_and_a_second_one_ends_at_once(tmp_path):
    program = """
heard = threading.Event()
with interruption.catch(lambda number: heard.set()) as caught:
    print("ready", flush=True)
    heard.wait()
    print(signal.Signals(caught.number).name, flush=True)
    busy()
"""
    process = start(program, tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM\n"
    assert end(process, signal.SIGINT)[0] == 130


SAVING = """
heard = threading.Event()
with interruption.catch(lambda number: heard.set()) as caught:
    print("ready", flush=True)
    heard.wait()
    caught.acted = True
    print("caught", flush=True)
    sys.stdin.readline()
print("saved", flush=True)
sys.stdin.readline()
print("beyond")
"""


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("number", CODES)
def test_a_signal_that_is_sent_twice_is_one(number, listens, tmp_path):
    """Also where the second one comes after the block."""
    program = "" if listens else "interruption._forget()\n"
    process = start(program + SAVING, tmp_path, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.send_signal(number)
    assert process.stdout.readline() == "caught\n"
    if number != signal.SIGINT:
        process.send_signal(number)
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "saved\n"
    if number == signal.SIGHUP and listens:
        process.send_signal(number)
    output, error = process.communicate("\n", timeout=LONGEST_WAIT)
    assert (process.returncode, output, error) == (0, "beyond\n", "")


@pytest.mark.parametrize("listens", [True, False])
def test_the_same_signal_later_ends_at_once(listens, tmp_path):
    program = "" if listens else "interruption._forget()\n"
    process = start(program + SAVING, tmp_path, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "caught\n"
    time.sleep(1.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LONGEST_WAIT) == (143 if listens else -15)
    process.communicate()


def test_a_repeat_does_not_cut_the_end_short(tmp_path):
    program = """
import time
def act():
    print("ready", flush=True)
    time.sleep(0.5)
    open("done", "w").close()
interruption.always_before_end(act)
os.kill(os.getpid(), signal.SIGHUP)
busy = ctypes.CDLL(None).sleep(3600)
"""
    assert end(start(program, tmp_path), signal.SIGHUP)[0] == 129 and (tmp_path / "done").exists()


def test_what_a_block_did_not_act_on_ends_the_program_afterwards(tmp_path):
    program = """
heard = threading.Event()
with interruption.catch(lambda number: heard.set()):
    print("ready", flush=True)
    heard.wait()
print("beyond")
"""
    assert end(start(program, tmp_path), signal.SIGTERM) == (143, "", "SIGTERM: ended\n")


def test_a_short_section_is_finished_first(tmp_path):
    program = """
import time
with interruption.uninterrupted():
    print("ready", flush=True)
    while not interruption._ending:
        time.sleep(0.01)
    ctypes.CDLL(None).usleep(300_000)
    open("second", "w").close()
busy()
"""
    code, _, _ = end(start(program, tmp_path), signal.SIGINT)
    assert code == 130 and (tmp_path / "second").exists()


def test_nohup_stays(tmp_path):
    program = "print('ready', flush=True); sys.stdin.readline(); print('beyond')"
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$0" -c "$1"', sys.executable, START + program], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate("\n", timeout=LONGEST_WAIT)[0] == "beyond\n" and process.returncode == 0


def test_outside_of_commands_a_signal_is_an_ordinary_one(tmp_path):
    program = """
import signal
from bert_jax import interruption
try:
    with interruption.catch(lambda number: None):
        signal.raise_signal(signal.SIGINT)
        print("inside")
except KeyboardInterrupt:
    print("interrupted", interruption._listening)
try:
    with interruption.catch(lambda number: False):
        signal.raise_signal(signal.SIGINT)
        print("inside")
except KeyboardInterrupt:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "inside\ninterrupted False\nrefused\n"), result.stderr


def test_a_forked_child_leaves_its_parent_alone(tmp_path):
    program = """
child = os.fork()
if not child:
    signal.raise_signal(signal.SIGTERM)
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
"""
    result = subprocess.run(
        [sys.executable, "-c", START + program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (result.returncode, result.stdout) == (0, "-15\n"), result.stderr


@pytest.mark.parametrize("module", ["bert_jax.recipes", "bert_jax", "experiments.report"])
def test_commands_listen_before_they_import_anything_slow(module):
    program = f"""
import runpy, sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", {module!r}]
import {module.split(".")[0]}
from bert_jax import interruption
print(interruption._listening, sorted({{"absl", "jax", "numpy"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "True []\n", result.stderr


EARLY = """
import os, signal, sys, types

def find_spec(name, path=None, target=None):
    if name == "bert_jax.interruption":
        os.kill(os.getpid(), signal.SIGINT)

sys.argv = ["bert-jax"]
sys.meta_path.insert(0, types.SimpleNamespace(find_spec=find_spec))
import bert_jax
"""


def test_ctrl_c_before_the_command_listens_prints_no_traceback():
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


FIRST_CHILD = """
import multiprocessing, signal
from bert_jax import interruption

def tell(connection):
    connection.send(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=tell, args=(theirs,))
    with interruption.not_for_children():
        process.start()
    print(ours.recv() == [signal.SIGHUP, signal.SIGINT], signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_the_first_child_is_deaf_too(tmp_path):
    """Python starts its resource tracker before it, and then lets SIGINT through."""
    (tmp_path / "program.py").write_text(FIRST_CHILD)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True)
    assert done.stdout == "True set()\n", done.stderr


BESIDE = """
import time
thread = threading.Thread(target=time.sleep, args=({seconds},))
thread.start()
if {seconds} < 1:
    thread.join()
interruption.note_thread(thread)
with interruption.without_shutdown():
    print("ends")
    {end}
print("shuts down")
"""


@pytest.mark.parametrize("seconds", [0, 7200])
@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [
        ("pass", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('error: no corpus')", 1, "error: no corpus\n"),
        ("raise KeyError('loss')", 1, "KeyError: 'loss'\n"),
    ],
)
def test_a_program_ends_alike_beside_a_thread_in_xla(ending, code, error, seconds, tmp_path):
    """It waits for no thread, and what it printed is there; without one Python shuts down."""
    process = start(BESIDE.format(seconds=seconds, end=ending), tmp_path)
    output, errors = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == code and errors.endswith(error) and bool(errors) == bool(error)
    assert output == ("ends\nshuts down\n" if ending == "pass" and not seconds else "ends\n")
