"""The table of an experiment's jobs, from folders in every state."""

import contextlib
import fcntl
import json
import pty
import threading

import pytest

from bert_jax import config as config_lib
from bert_jax.errors import UserError
from experiments.launching import status


def write_experiment(folder, arms=("static", "dynamic"), seeds=(0,)):
    folder.mkdir(exist_ok=True)
    content = {"format_version": 1, "name": "masking", "arms": {arm: {} for arm in arms}, "seeds": list(seeds)}
    (folder / "experiment.json").write_text(json.dumps(content))


def write_run(workdir, steps, num_steps=100, seconds=2.0, **changes):
    """A run's config and its metrics, a row each ten steps."""
    workdir.mkdir(parents=True)
    config = config_lib.load_recipe("quickstart")
    config.train.num_steps = num_steps
    for key, value in changes.items():
        config.data[key] = value
    (workdir / "config.json").write_text(config.to_json())
    with open(workdir / "metrics.jsonl", "w") as file:
        for step in range(10, steps + 1, 10):
            row = {"step": step, "loss": 7 - step / 50, "tokens_per_second": 12345.6}
            row |= {"time/step": seconds - 0.5, "time/data": 0.5, "time/compilation": 60.0 if step == 10 else 0.0}
            row |= {"eval/mlm_loss": 6.5, "eval/unigram_loss": 6.1} if step % 20 == 0 else {}
            file.write(json.dumps(row) + "\n")


def job(folder, name, tasks=()):
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "job.json").write_text(json.dumps({"fine_tuning": [{"name": task} for task in tasks]}))
    (path / "starts.jsonl").write_text("{}\n")
    return path


@pytest.fixture
def locked():
    """A function that holds a job's lock, as the process that runs it does."""
    files = []

    def hold(folder):
        files.append(open(folder / "lock", "a"))  # noqa: SIM115 (held until the end)
        fcntl.flock(files[-1], fcntl.LOCK_EX)

    yield hold
    for file in files:
        file.close()


def row_of(folder, start):
    (line_of_job,) = [line for line in status.table(folder).splitlines() if line.split()[0] == start]
    return line_of_job.split()


def test_a_running_job_says_where_it_is_and_how_long_it_takes(tmp_path, locked):
    write_experiment(tmp_path)
    running = job(tmp_path, "static/seed-0")
    write_run(running / "pretrain", 50)
    (running / "slurm.json").write_text(json.dumps({"job": "4711"}))
    locked(running)
    cells = row_of(tmp_path, "static")
    # 2 seconds each ten steps, compilation aside, and 50 steps to go
    assert cells[:9] == ["static", "0", "running", "pretrain", "50/100", "6.0000", "6.5000", "12,346", "0:10"]
    assert cells[-2:] == ["slurm", "4711"]
    assert row_of(tmp_path, "dynamic")[2] == "waiting"
    assert status.table(tmp_path).splitlines()[-1] == "2 jobs: 1 running, 1 waiting"


def test_phases_and_tokens_count_as_steps(tmp_path, locked):
    write_experiment(tmp_path, arms=["long"])
    running = job(tmp_path, "long/seed-0")
    phases = ({"share": 0.9, "sequence_length": 32}, {"share": 0.1})
    write_run(running / "pretrain", 50, num_steps=1000, phases=phases)
    assert "50/1,000" in row_of(tmp_path, "long")


def test_a_torn_last_line_is_passed_over(tmp_path):
    write_experiment(tmp_path)
    stopped = job(tmp_path, "static/seed-0")
    write_run(stopped / "pretrain", 30)
    with open(stopped / "pretrain" / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')
    assert row_of(tmp_path, "static")[2:7] == ["stopped", "pretrain", "30/100", "6.4000", "6.5000"]


def test_only_the_end_of_a_long_file_is_read(tmp_path, locked, monkeypatch):
    write_experiment(tmp_path)
    running = job(tmp_path, "static/seed-0")
    write_run(running / "pretrain", 20_000, num_steps=40_000)
    locked(running)
    monkeypatch.setattr(status, "_TAIL", 4096)
    assert (running / "pretrain" / "metrics.jsonl").stat().st_size > 50 * 4096
    assert row_of(tmp_path, "static")[4] == "20,000/40,000"
    assert len(status._rows(running / "pretrain" / "metrics.jsonl")) < 50
    assert "1:06:40" in row_of(tmp_path, "static")


def test_stages_after_pretraining(tmp_path, locked):
    write_experiment(tmp_path, arms=["a", "b"])
    for arm in "ab":
        running = job(tmp_path, f"{arm}/seed-0", tasks=["cola", "sst2"])
        write_run(running / "pretrain", 100)
        locked(running)
    assert row_of(tmp_path, "a")[3:5] == ["evaluate", "100/100"]
    workdir = tmp_path / "b" / "seed-0" / "finetune-sst2"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps({"train": {"num_steps": 20}}))
    (workdir / "metrics.jsonl").write_text('{"step": 10, "loss": 0.7, "eval/accuracy": 0.5}\n')
    assert row_of(tmp_path, "b")[3:8] == ["finetune-sst2", "10/20", "0.7000", "accuracy", "0.5000"]


def test_done_and_failed_jobs(tmp_path):
    write_experiment(tmp_path)
    done, failed = job(tmp_path, "static/seed-0"), job(tmp_path, "dynamic/seed-0")
    write_run(done / "pretrain", 100)
    (done / "result.json").write_text(json.dumps({"figures": {"eval/mlm_loss": 6.5}}))
    write_run(failed / "pretrain", 100)
    content = {"stage": "finetune-sst2", "code": 1, "lines": ["Traceback", "ValueError: no rows", "  "]}
    (failed / "failed.json").write_text(json.dumps(content))
    lines = status.table(tmp_path).splitlines()
    assert lines[-2:] == [
        "2 jobs: 1 done, 1 failed",
        "dynamic/seed-0: failed in finetune-sst2 (exit code 1): ValueError: no rows",
    ]
    assert row_of(tmp_path, "static")[2:6] == ["done", "100/100", "5.0000", "6.5000"]


def test_files_that_are_not_whole_are_no_trouble(tmp_path):
    write_experiment(tmp_path)
    begun, failed = job(tmp_path, "static/seed-0"), job(tmp_path, "dynamic/seed-0")
    (begun / "pretrain").mkdir()
    (begun / "pretrain" / "config.json").write_text('{"train": {}}')
    (begun / "pretrain" / "metrics.jsonl").write_bytes(b"\xff\n[1]\n{}\n")
    (begun / "job.json").write_text("{")
    (begun / "slurm.json").write_text("")
    (failed / "failed.json").write_text("{")
    lines = status.table(tmp_path).splitlines()
    assert lines[-2:] == ["2 jobs: 1 stopped, 1 failed", "dynamic/seed-0: failed in its start (exit code unknown)"]


def test_a_folder_without_an_experiment_is_named(tmp_path):
    with pytest.raises(UserError, match="no experiment.json in it"):
        status.table(tmp_path)
    (tmp_path / "experiment.json").write_text("[1]")
    with pytest.raises(UserError, match="no arms or seeds"):
        status.table(tmp_path)


def test_watch_prints_once_where_there_is_no_terminal(tmp_path, capsys):
    write_experiment(tmp_path)
    status.watch(tmp_path)
    assert capsys.readouterr().out.endswith("2 jobs: 2 waiting\n")


def test_watch_redraws_on_a_terminal_until_all_have_ended(tmp_path, monkeypatch):
    write_experiment(tmp_path, arms=["static"])
    master, slave = pty.openpty()
    with open(slave, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)

        class Ended(threading.Event):
            def wait(self, timeout=None):
                if timeout != 5:
                    return super().wait(timeout)
                (job(tmp_path, "static/seed-0") / "result.json").write_text("{}")
                return False

        monkeypatch.setattr(threading, "Event", Ended)
        status.watch(tmp_path, seconds=5)
    shown = ""
    with contextlib.suppress(OSError), open(master, "rb", buffering=0) as screen:  # the end of a terminal is an error
        while part := screen.read(10_000):
            shown += part.decode()
    assert shown.count("\x1b[H") == 2 and "1 waiting" in shown and "1 done" in shown
