"""A run's time is split among its activities, at little cost, and measuring changes no result."""

import json
import shutil
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest

from bert_jax import sharding
from bert_jax.runs.loggers import ACTIVITIES, TIMINGS
from bert_jax.training import loop, pretraining, profiling, throughput
from bert_jax.training import step as step_lib
from tests.commands import logged_rows, wait_until


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def is_norm(key):
    return key.startswith(("grad_norm/", "activation_norm/"))


def of_training(row):
    return {key: value for key, value in row.items() if key not in TIMINGS and not is_norm(key)}


@pytest.fixture
def clock(monkeypatch):
    """A clock, and the seconds that it sees."""
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(throughput.flops, "peak_flops", lambda device: 100.0)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 1, "tensor": 1}, jax.devices()[:2])
    return throughput.Clock(lambda batch: batch["input_ids"].size * 10.0, mesh), now


def test_every_second_has_its_activity(clock):
    clock, now = clock
    batches = [{"input_ids": np.zeros(shape)} for shape in ((4, 8), (4, 8), (4, 16), (4, 16))]
    for batch in batches:
        for activity, seconds in (("data", 1), ("step", 2)):
            clock.start(activity)
            now[0] += seconds
        clock.count(batch, {})
    clock.start("evaluation")
    now[0] += 5
    row = clock.take()
    assert set(row) == set(TIMINGS)
    assert {name: row[f"time/{name}"] for name in ACTIVITIES} == {
        "data": 4, "step": 4, "compilation": 4, "evaluation": 5, "saving": 0, "logging": 0,
    }  # fmt: skip
    # Two steps were counted, 2 s each and 1 s of waiting for their data, on two devices of 100 FLOP/s.
    assert row["tokens_per_second"] == round((32 + 64) / 6, 1)
    assert row["rows_per_second"] == round(8 / 6, 3)
    assert row["mfu"] == round(960 / 6 / 200, 4)
    now[0] += 3
    row = clock.take()
    assert (
        row["rows_per_second"] is None
        and row["tokens_per_second"] is None
        and row["mfu"] is None
        and row["time/evaluation"] == 3
    )


def test_a_program_of_another_phase_compiles_too(clock):
    """Phases of other rotary bases, say, have rows of one shape: their compilation counts as no step's time."""
    clock, now = clock
    batch = {"input_ids": np.zeros((4, 8))}
    for program, seconds in (("first", 9), ("first", 2), ("second", 9), ("second", 2), ("first", 2)):
        clock.start("step")
        now[0] += seconds
        clock.count(batch, {}, program=program)
    row = clock.take()
    assert (row["time/compilation"], row["time/step"]) == (18, 6)
    assert row["rows_per_second"] == 12 / 6


def test_tokens_per_second_leaves_padding_out_and_rows_and_mfu_do_not(clock):
    """A quarter of the tokens is padding, or stands in rows that only fill the batch up."""
    clock, now = clock
    batch = {"input_ids": np.zeros((4, 8))}
    own_rows = {"attention_mask": np.ones((4, 8), np.int32)}
    own_rows["attention_mask"][:, 6:] = 0
    full = {"attention_mask": np.ones((4, 8), np.int32)}
    filled_up = full | {"weights": np.array([1, 1, 1, 0])}
    packed = full | {"weights": np.array([[1, 0], [1, 1], [1, 0], [0, 0]])}
    for rows in (full, own_rows, filled_up, packed):  # the first one compiles
        clock.start("step")
        now[0] += 2
        clock.count(batch, {}, rows)
    row = clock.take()
    assert row["tokens_per_second"] == 3 * 24 / 6 and row["rows_per_second"] == 3 * 4 / 6
    assert row["mfu"] == round(3 * 320 / 6 / 200, 4)


@pytest.mark.profiler
def test_a_run_that_is_watched_is_the_same_run(config, finished, tmp_path, monkeypatch, capfd):
    """Norms, a profile and other logging steps: the same bits. The seconds add up to those of the wall."""
    config.train.update(log_every=3, log_norms=True)
    config.profile.update(first_step=2, num_steps=2)
    train, seconds, now = loop.train, [], [0.0]

    def tick(elapsed=0.01):  # a clock of its own: each look at it takes a moment, an evaluation 20 more
        now[0] += elapsed
        return now[0]

    def slow(run, state, done):
        evaluate = run.evaluate
        run.evaluate = lambda *arguments: tick(0.2) and evaluate(*arguments)
        began = tick()
        state = train(run, state, done)
        seconds.append(tick() - began)
        return state

    monkeypatch.setattr(throughput, "time", types.SimpleNamespace(perf_counter=tick))
    monkeypatch.setattr(loop, "train", slow)
    pretraining.pretrain(config, tmp_path)
    kept = [of_training(row) for row in rows(tmp_path)]
    expected = {row["step"]: of_training(row) for row in rows(finished)}
    assert [row["step"] for row in kept] == [3, 4, 6, 8, 9, 12]
    for row in kept:
        logged = row["step"] % 3 == 0
        other = expected[row["step"]]
        assert row == (other if logged else {key: other[key] for key in row})
    logged = [row for row in rows(tmp_path) if "loss" in row]
    for row in logged:
        assert sum(map(is_norm, row)) == 2 + 2 + 1
        squares = [row[f"grad_norm/{part}"] ** 2 for part in ("embeddings", "layers/0", "heads")]
        assert row["grad_norm"] == pytest.approx(sum(squares) ** 0.5, rel=1e-5)
        assert all(row[f"time/{activity}"] >= 0 for activity in ACTIVITIES)
    total = sum(row[f"time/{activity}"] for row in logged for activity in ACTIVITIES)
    assert 0.9 * seconds[0] < total < seconds[0]
    # Evaluations after steps 4 and 8 are in the rows of steps 6 and 9.
    assert [row["time/evaluation"] >= 0.2 for row in logged] == [False, True, True, True]
    assert logged[0]["time/compilation"] > 0 and not logged[-1]["time/compilation"]

    assert len(list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))) == 1
    assert f"profile of the steps from 3 on: {tmp_path}/profile" in capfd.readouterr().out


def test_nothing_is_fetched_between_logging_steps(config, tmp_path, monkeypatch):
    """Every way from a device to the host passes `_value` or a buffer's own; the loop's thread takes none of them."""
    config.train.update(log_every=4, eval_every=0, checkpoint_every=6, log_norms=True)
    fetched, done, of_loop = [], [0], threading.current_thread()
    array = type(jax.numpy.zeros(()))
    for name in ("_value", "__array__", "__float__", "__int__", "__bool__", "item", "tolist"):
        original = getattr(array, name)
        method = original.fget if isinstance(original, property) else original

        def noted(self, *arguments, method=method, **named):
            if threading.current_thread() is of_loop and done[0]:
                fetched.append(done[0])
            return method(self, *arguments, **named)

        monkeypatch.setattr(array, name, property(noted) if isinstance(original, property) else noted)
    make = step_lib.Learner.train_step

    def counted(learner):
        step = make(learner)

        def train_step(*inputs):
            done[0] += 1
            return step(*inputs)

        return train_step

    monkeypatch.setattr(step_lib.Learner, "train_step", counted)
    pretraining.pretrain(config, tmp_path)
    assert set(fetched) == {4, 6, 8, 12}


@pytest.mark.profiler
def test_a_profile_on_request(config, finished, tmp_path, monkeypatch, capfd):
    """SIGUSR1, and later a file: each traces the next steps, and the run is the same."""
    config.train.update(num_steps=16, eval_every=4)
    config.profile.num_steps = 2
    config.profile.first_step = 1000
    monkeypatch.setattr(profiling, "_LOOK_SECONDS", 0.01)
    enter = pretraining._Pretraining.enter

    def requests(self, index):
        if index == 3:
            signal.raise_signal(signal.SIGUSR1)
        if index == 9:
            (tmp_path / "profile-now").touch()
            wait_until(lambda: not (tmp_path / "profile-now").exists())
            time.sleep(1.1)  # a trace's folder is named by the second
        enter(self, index)

    monkeypatch.setattr(pretraining._Pretraining, "enter", requests)
    pretraining.pretrain(config, tmp_path)
    assert len(list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))) == 2
    out = capfd.readouterr().out
    for step in (4, 10):
        assert f"tracing 2 steps after step {step}\n" in out
        assert f"profile of the steps from {step + 1} on: {tmp_path}/profile" in out
    assert logged_rows(tmp_path)[:11] == logged_rows(finished)[:11]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_own_time_is_what_devices_do_not_cover(clock):
    clock, now = clock
    batch = {"input_ids": np.zeros((4, 8))}
    assert clock.activity == "compilation"  # and what comes before the first step
    for step in range(4):
        clock.start("data")
        now[0] += 2
        clock.start("step")
        clock.compiles(batch)
        assert clock.activity == ("step" if step else "compilation")
        now[0] += 1
        with clock.waiting_for_devices():
            now[0] += 0.5
        clock.count(batch, {})
        with clock.waiting_for_devices(covers=False):
            now[0] += 4
        clock.start("logging")
        now[0] += 10
    whole, own = clock.step_seconds()
    # Three steps count: 2 s for data and 1 s to start one, of which the wait shows that devices covered 0.5 s. The last
    # wait, of the step that compiled, is no step's.
    assert whole == pytest.approx(7.5 + 4 / 3) and own == pytest.approx(2.5)
    assert clock.step_seconds() == (whole, own)
    clock.take()
    assert clock.step_seconds() is None


@pytest.mark.profiler
def test_a_profile_that_cannot_be_written_costs_a_warning(config, finished, tmp_path, capfd):
    """Here of a run that continues, whose steps are counted from where it does."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "12")
    (run / "profile").write_text("in the way")
    config.profile.update(first_step=1, num_steps=100)
    pretraining.pretrain(config, run)
    assert f"warning: {run}/profile: no profile: " in capfd.readouterr().out
    assert rows(run)[-1]["step"] == 12 and (run / "profile").read_text() == "in the way"
