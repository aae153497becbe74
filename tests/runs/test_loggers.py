"""Tests that each row is logged exactly once, also after a kill, a resume and a full disk."""

import contextlib
import io
import json
import struct
import time

import pytest

from bert_jax import config as config_lib
from bert_jax.config.pretraining_keys import LOGGERS
from bert_jax.errors import UserError
from bert_jax.runs import loggers
from tests.commands import wait_until


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path, steps, resumed_at=0):
    file = loggers.MetricsFile(path, resumed_at, pytest.fail)
    for step in steps:
        file.write({"step": step, "loss": step / 3, "mfu": None})
    file.close()


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b'{"step": 7, "lo',
        b'{"step": 7, "loss": 1.0}',
        b'{"step": 7}\n{"st',
        b"\x00\x00\x00",
        b"\n",
        b"[1]\n",
    ],
)
def test_resuming_cuts_later_rows_and_torn_lines(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    write_rows(path, range(1, 7))
    with open(path, "ab") as file:
        file.write(tail)
    write_rows(path, range(5, 9), resumed_at=4)
    assert [row["step"] for row in rows(path)] == list(range(1, 9))
    assert rows(path)[0] == {"step": 1, "loss": 1 / 3, "mfu": None}


def test_resuming_from_nothing_cuts_all(tmp_path):
    write_rows(tmp_path / "metrics.jsonl", [1, 2])
    write_rows(tmp_path / "metrics.jsonl", [], resumed_at=0)
    assert rows(tmp_path / "metrics.jsonl") == []


def test_cutting_a_long_file_reads_its_end_alone(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(100_000)))
    parsed, loads = [], json.loads
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
        loggers.MetricsFile(path, 99_990, pytest.fail).close()
    assert len(parsed) == 10
    assert len(rows(path)) == 99_991


def test_numbers_that_json_lacks_become_null(tmp_path):
    file = loggers.MetricsFile(tmp_path / "metrics.jsonl", 0, pytest.fail)
    file.write({"step": 1, "loss": float("nan"), "eval/mlm_perplexity": float("inf")})
    file.close()
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "eval/mlm_perplexity": None}]


def test_full_disk_tears_no_line_and_rows_wait(small_disk):
    said = []
    path = small_disk / "metrics.jsonl"
    file = loggers.MetricsFile(path, 0, said.append)
    board = loggers.TensorBoard(small_disk / "tensorboard", 0, said.append)
    file.write({"step": 1})
    board.write({"step": 1, "loss": 1.0})
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as hog, contextlib.suppress(OSError):
        while hog.write(b"x" * 4096):
            pass
    step = 2
    while not said and step < 1000:
        file.write({"step": step, "text": "x" * 100})
        step += 1
    assert len(said) == 1 and "No space left on device" in said[0]
    assert [row["step"] for row in rows(path)] == list(range(1, step - 1))  # the last waits
    for _ in range(1000):
        board.write({"step": step, "loss": 1.0})
    board.flush()
    assert [line for line in said if "TensorBoard gets no more rows" in line]
    board.close()
    filler.unlink()
    file.write({"step": step})
    file.close()
    assert [row["step"] for row in rows(path)] == list(range(1, step + 1))


def test_tensorboard_holds_each_step_once(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for resumed_at, steps in ((0, [1, 2, 3]), (2, [3, 4])):
        board = loggers.TensorBoard(tmp_path, resumed_at, pytest.fail)
        for step in steps:
            board.write({"step": step, "loss": step / 4, "eval/mlm_loss": 2.0, "mfu": None})
        board.close()
        second = int(time.time())
        wait_until(lambda second=second: int(time.time()) > second)  # event files are named by the second
    scalars = {}
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == SessionLog.START:  # as TensorBoard reads it
                scalars = {step: value for step, value in scalars.items() if step < event.step}
            for value in event.summary.value:
                assert value.tag in ("loss", "eval/mlm_loss")
                scalars.setdefault(event.step, []).append((value.tag, value.simple_value))
    assert scalars == {step: [("loss", step / 4), ("eval/mlm_loss", 2.0)] for step in (1, 2, 3, 4)}


def test_progress_line():
    row = {"step": 200, "loss": 6.812345, "tokens_per_second": 12345.6, "mfu": 0.4123}
    assert loggers.progress_line(row, 1000, 200.4) == (
        "step 200/1,000  loss 6.8123  12,346 tokens/s  MFU 41.2%  3:20 left"
    )
    row = {"step": 200, "eval/mlm_loss": 2.0, "eval/unigram_loss": 3.0, "mfu": None}
    assert loggers.progress_line(row, 1000, None) == "step 200/1,000  held-out 2.0000 (unigram 3.0000)"
    assert loggers.progress_line({"step": 1}, 9, 3661).endswith("1:01:01 left")


def test_progress_off_the_terminal_is_plain_lines():
    stream = io.StringIO()
    progress = loggers.Progress(4, stream)
    for step in (1, 2):
        progress.write({"step": step, "loss": 1.0})
    progress.close()
    first, second = stream.getvalue().splitlines()
    assert first == "step 1/4  loss 1.0000"
    assert second.startswith("step 2/4") and second.endswith("left")


def test_which_loggers(tmp_path):
    config = config_lib.base()
    opened = loggers.open_loggers(config, tmp_path, 0, 10, print)
    assert [type(logger).__name__ for logger in opened] == ["MetricsFile", "TensorBoard", "Progress"]
    config.train.tensorboard = config.train.progress = False
    assert len(loggers.open_loggers(config, tmp_path, 0, 10, print)) == 1
    config.train.loggers = ("wandb,tensorboard",)  # as --config.train.loggers=wandb,tensorboard makes it
    assert loggers.chosen_loggers(config) == ["wandb"]
    config.train.update(loggers=("mlflow", "wandb"), tensorboard=True)
    opened = loggers.open_loggers(config, tmp_path, 0, 10, print)
    assert [type(logger).__name__ for logger in opened] == ["MetricsFile", "MLflow", "WandB"]


def test_every_logger_of_the_config_can_be_opened():
    assert tuple(loggers.REGISTRY) == LOGGERS


def test_a_logger_that_is_not_installed_or_not_there_is_told_at_once(monkeypatch):
    config = config_lib.base()
    config.train.loggers = ("tensorboard", "wandb")
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config\.train\.loggers: wandb needs the package wandb.*bert_jax\[wandb\]"):
        loggers.check_installed(config)
    config.train.loggers = ("tensorbord",)
    with pytest.raises(UserError, match="config.train.loggers: found 'tensorbord'; did you mean tensorboard"):
        config_lib.validate(config)


def test_metrics_wait_for_a_file_that_cannot_be_opened(tmp_path):
    said = []
    file = loggers.MetricsFile(tmp_path / "later" / "metrics.jsonl", 0, said.append)
    file.write({"step": 1})
    file.flush()
    assert len(said) == 1 and "its rows wait in memory" in said[0]
    (tmp_path / "later").mkdir()
    file.write({"step": 2})
    file.close()
    assert (tmp_path / "later" / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_line_that_cannot_be_printed_is_dropped(monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Broken())
    loggers.say("a line")
    progress = loggers.Progress(4)
    progress.write({"step": 1, "loss": 1.0})
    progress.close()
