"""Batches are placed ahead of their steps on a thread, which changes nothing but the time that placing them takes."""

import itertools
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data import loader
from bert_jax.errors import UserError
from bert_jax.runs import checkpoints
from bert_jax.training import placement, pretraining
from bert_jax.training.placement import AHEAD, PlacedBatches
from tests.commands import logged_rows, wait_until


def rows(step, size=4):
    return {"input_ids": np.full((size, 2), step, np.int32)}


def is_running():
    return any(thread.name == "places-batches" for thread in threading.enumerate())


class Source:
    """Yields batches, of sizes that change, and notes how many were asked for and who closed it."""

    def __init__(self, number, error=None):
        self.number, self.error = number, error
        self.made, self.closed_by = 0, None

    def __iter__(self):
        try:
            for step in itertools.count():
                if step == self.number:
                    if self.error:
                        raise self.error
                    return
                self.made += 1
                yield step, rows(step, 4 + step % 3)
        finally:
            self.closed_by = threading.current_thread().name


def place(batch, index):
    return jax.device_put((batch, index))


def test_every_batch_comes_in_order_with_its_arrays():
    with PlacedBatches(iter(Source(10)), place) as batches:
        steps = list(batches)
        assert next(batches, None) is None
    assert [index for index, _, _ in steps] == list(range(10))
    for index, batch, (placed, step) in steps:
        assert batch["input_ids"].shape == (4 + index % 3, 2) and step == index and step.dtype == np.int32
        assert isinstance(batch["input_ids"], np.ndarray) and isinstance(placed["input_ids"], jax.Array)
        np.testing.assert_array_equal(placed["input_ids"], batch["input_ids"])
    assert not is_running()


def test_few_are_placed_ahead():
    source, placed = Source(20), []
    with PlacedBatches(iter(source), lambda batch, index: placed.append(index)) as batches:
        for taken in range(20):
            wait_until(lambda taken=taken: len(placed) == min(20, taken + AHEAD))
            assert source.made == len(placed)
            assert next(batches).index == taken


@pytest.mark.parametrize("error", [UserError("tokens.bin: cannot be read"), KeyError("input_ids"), SystemExit(3)])
def test_an_error_of_the_data_is_raised_at_its_step(error):
    with PlacedBatches(iter(Source(5, error)), place) as batches:
        assert [next(batches).index for _ in range(5)] == list(range(5))
        with pytest.raises(type(error)) as caught:
            next(batches)
    assert caught.value is error and not is_running()


def test_an_error_of_the_placement_is_raised_at_its_step():
    def place_or_fail(batch, index):
        return jax.device_put(batch if index < 3 else {"input_ids": object()})

    source = Source(8)
    with PlacedBatches(iter(source), place_or_fail) as batches:
        assert [next(batches).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TypeError):
            next(batches)
    assert source.closed_by == "places-batches"


def test_transfers_must_be_explicit():
    with (
        PlacedBatches(iter(Source(3)), lambda batch, index: jnp.sin(batch["input_ids"])) as batches,
        pytest.raises(Exception, match="Disallowed host-to-device transfer"),
    ):
        next(batches)


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_a_loop_that_ends_early_ends_the_thread(taken):
    source = Source(1000)
    with pytest.raises(RuntimeError, match="the step fails"), PlacedBatches(iter(source), place) as batches:
        for _ in range(taken):
            next(batches)
        raise RuntimeError("the step fails")
    assert not is_running()
    assert source.closed_by == "places-batches" and source.made <= taken + AHEAD


def test_data_that_hang_do_not_keep_the_loop_from_ending(monkeypatch):
    monkeypatch.setattr(placement, "_END_SECONDS", 0.1)
    goes_on, closed = threading.Event(), threading.Event()

    def hanging():
        yield 0, rows(0)
        goes_on.wait()
        try:
            yield 1, rows(1)
        finally:
            closed.set()

    with PlacedBatches(hanging(), place) as batches:
        assert next(batches).index == 0
    assert is_running()  # the test is here, although the data hang
    goes_on.set()
    assert closed.wait(600)
    wait_until(lambda: not is_running())


@pytest.mark.more
def test_an_error_of_the_data_ends_a_run_at_its_step_and_it_goes_on(config, finished, tmp_path, monkeypatch):
    """The steps before are done and logged; started again, it has the bits of a run without the error."""
    whole = loader.Loader.__iter__
    error = UserError("tokens.bin: cannot be read")

    def lost(self):
        for step, batch in whole(self):
            if step == 6:
                raise error
            yield step, batch

    with monkeypatch.context() as patch:
        patch.setattr(loader.Loader, "__iter__", lost)
        with pytest.raises(UserError) as caught:
            pretraining.pretrain(config, tmp_path / "run")
    assert caught.value is error and not is_running()
    assert checkpoints.saved_steps(tmp_path / "run" / "checkpoints") == [4]
    assert logged_rows(tmp_path / "run") == logged_rows(finished)[:6]
    pretraining.pretrain(config, tmp_path / "run")
    assert logged_rows(tmp_path / "run") == logged_rows(finished)


def test_a_run_whose_data_come_late_is_the_same_run(config, finished, tmp_path, monkeypatch):
    whole = loader.Loader.__iter__

    def late(self):
        for step, batch in whole(self):
            if step == 9:
                wait_until(lambda: len(logged_rows(tmp_path / "run")) == 9)  # the loop waits for this batch
            yield step, batch

    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    monkeypatch.setattr(loader.Loader, "__iter__", late)
    pretraining.pretrain(config, tmp_path / "run")
    assert logged_rows(tmp_path / "run") == logged_rows(finished) and not is_running()
