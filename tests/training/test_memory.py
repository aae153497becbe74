"""The memory of a run is estimated before its steps are compiled, and what does not fit is told with what would."""

import json

import jax
import pytest

from bert_jax import sharding
from bert_jax.errors import UserError
from bert_jax.processes import machine
from bert_jax.training import lowering, memory, pretraining
from tests.training.conftest import make_config

MIB = 2**20


@pytest.fixture
def deep(corpus):
    config = make_config(corpus)
    config.model.update(num_layers=6, hidden_dropout=0.1, vocab_size=60)
    config.data.batch_size = 64
    return config


def steps_of(config, devices=1):
    return lowering.PretrainingSteps(config, sharding.make_mesh(config.mesh, jax.devices()[:devices]))


def said(check, *arguments):
    lines = []
    check(*arguments, lines.append)
    return lines


CHANGES = [
    {},
    {"model.local_window": 8, "model.global_every": 2, "model.positions": "rotary", "model.norm_place": "pre",
     "model.first_norm": False, "model.num_layers": 7},
    {"model.layer_groups": 1, "model.embedding_size": 16},
    {"model.scan_layers": True, "model.remat": "full"},
]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize(
    ("changes", "devices"),
    [({"train.microbatches": 4}, 1), *((changes, 8) for changes in CHANGES)],
)
def test_an_estimate_from_few_layers_is_what_the_compiler_reports_of_all(deep, changes, devices):
    deep.update_from_flattened_dict(changes)
    steps = steps_of(deep, devices)
    need = memory.estimate(steps)
    lowered, unread = steps.train(steps.layers)
    assert unread == 0
    assert need.step == pytest.approx(devices * memory.program_bytes(lowered, steps.mesh), rel=0.02)
    lowered, unread = steps.evaluation(steps.layers)
    assert need.evaluation == pytest.approx(devices * (memory.program_bytes(lowered, steps.mesh) + unread), rel=0.02)
    assert need.state == devices * steps.state_bytes(steps.layers)
    assert devices * steps.rough() > max(need.step, need.evaluation)


@pytest.mark.full
def test_more_rows_than_fit_are_refused_with_the_fewest_microbatches_that_do(deep, monkeypatch):
    monkeypatch.setattr(memory, "_PROCESS", 0)
    deep.model.num_layers, deep.data.batch_size, deep.train.eval_batch_size = 2, 512, 8
    whole = memory.estimate(steps_of(deep))
    parts = memory.estimate(steps_of(deep).changed({"train.microbatches": 8}), whole)
    free = round((whole.total * 0.3 + parts.total) / memory.NEAR)
    assert parts.total < free < whole.total / memory.FAR
    monkeypatch.setattr(machine, "available_memory", lambda: free)
    message = (
        r"^config\.data\.batch_size=512: a step needs about \d+ MiB, and \d+ MiB are free.*; "
        r"--config\.train\.microbatches=\d+ needs .*memory_check=warn"
    )
    with pytest.raises(UserError, match=message) as refused:
        memory.check(steps_of(deep), print)
    count = int(str(refused.value).partition("microbatches=")[2].partition(" ")[0])
    tried = memory.estimate(steps_of(deep).changed({"train.microbatches": count}), whole)
    assert tried.total <= memory.NEAR * free

    deep.train.memory_check = "warn"
    lines = said(lambda *a: memory.check(*a), steps_of(deep))
    assert len(lines) == 2 and deep.train.microbatches == 1
    assert lines[0].startswith("memory: up to ")  # before the compiler is asked
    assert lines[1].startswith("warning: config.data.batch_size=512")
    deep.train.memory_check = "off"
    assert said(memory.check, steps_of(deep)) == []

    deep.train.update(memory_check="refuse", microbatches=0)
    lines = said(memory.check, steps_of(deep))
    assert deep.train.microbatches == count and f"config.train.microbatches: {count}, the fewest that fit" in lines[1]


def test_the_number_that_a_run_began_with_is_kept(deep):
    deep.train.microbatches = 0
    memory.check(steps_of(deep), print, 4)
    assert deep.train.microbatches == 4


def test_a_model_whose_parameters_do_not_fit_is_refused_before_anything_is_compiled(deep, monkeypatch):
    monkeypatch.setattr(memory, "program_bytes", lambda *_: pytest.fail("compiled"))
    deep.model.update(hidden_size=65_536, intermediate_size=262_144, num_layers=1_000)
    with pytest.raises(UserError, match=r"hidden_size=65536 x num_layers=1000: parameters and optimizer alone need "):
        memory.check(steps_of(deep), print)


def test_a_run_that_is_far_from_filling_the_memory_is_not_estimated(deep, monkeypatch):
    monkeypatch.setattr(memory, "program_bytes", lambda *_: pytest.fail("compiled"))
    assert said(memory.check, steps_of(deep)) == []


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_running_out_of_memory_is_one_line_with_what_would_fit(deep, monkeypatch, error):
    def estimate(steps, before=None):
        return memory.Need(10 * MIB, 10 * MIB + 640 * MIB // steps.config.train.microbatches, 20 * MIB)

    monkeypatch.setattr(memory, "estimate", estimate)
    monkeypatch.setattr(machine, "available_memory", lambda: 100 * MIB)
    message = (
        r"^out of memory \(.+\); about 650 MiB are needed; --config\.train\.microbatches=16 needs 50 MiB, with the "
        "same results to rounding$"
    )
    with pytest.raises(UserError, match=message), memory.explained(steps_of(deep)):
        raise error


def test_other_errors_pass(deep):
    with pytest.raises(jax.errors.JaxRuntimeError), memory.explained(steps_of(deep)):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no")


def test_pretrain_refuses_before_it_writes_anything(config, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: MIB)
    with pytest.raises(UserError, match="parameters and optimizer alone need"):
        pretraining.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.more
def test_a_run_keeps_the_number_that_was_chosen_for_it(config, tmp_path, monkeypatch):
    config.train.update(num_steps=1, microbatches=0, eval_every=0, tensorboard=False, report=False)
    config.data.batch_size = 16
    monkeypatch.setattr(memory, "_judge", lambda steps, free, search, say: memory._Verdict(2, ": it fits"))
    pretraining.pretrain(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["microbatches"] == 2
    monkeypatch.setattr(memory, "_judge", lambda steps, free, search, say: memory._Verdict(1) if not search else 1 / 0)
    config.train.num_steps = 2
    pretraining.pretrain(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["microbatches"] == 2


def test_counts_of_microbatches_divide_every_phase(deep):
    deep.data.phases = ({"share": 0.5, "batch_size": 96}, {"share": 0.5, "batch_size": 160})
    assert memory.microbatch_counts(steps_of(deep)) == [1, 2, 4, 8, 16, 32]
    assert memory.microbatch_counts(steps_of(deep, 8)) == [1, 2, 4]
