"""The step of a run's next phase is compiled before the phase is reached, and changes no bit of the run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from bert_jax.config.run_phases import Phase
from bert_jax.runs.models import open_model
from bert_jax.training import pretraining, runtime
from bert_jax.training.next_phase import NextPhase, Step
from tests import commands
from tests.commands import logged_rows
from tests.training.conftest import write_recipe

BATCH = {"input_ids": (4, 8)}
_compiled: list[tuple[str, str]] = []  # (thread, program) of every compilation in this process


def _note(event, seconds, **details):
    if event.endswith("backend_compile_duration"):
        _compiled.append((threading.current_thread().name, details.get("fun_name", "")))


jax.monitoring.register_event_duration_secs_listener(_note)


@contextlib.contextmanager
def compilations():
    """The (thread, program) of each compilation inside; programs from the compilation cache count too."""
    before = len(_compiled)
    inside = []
    yield inside
    inside += _compiled[before:]


def wait_for_compilation():
    for thread in threading.enumerate():
        if thread.name == "compiles-ahead":
            thread.join()


def phases(*borders):
    return [Phase(i, start, stop, None, "") for i, (start, stop) in enumerate(zip(borders, borders[1:], strict=False))]


class Noted(Step):
    """A step that notes what it was asked to compile, and compiles nothing."""

    def __init__(self):
        super().__init__(jax.jit(lambda state, batch: (state, batch)))
        self.asked = []

    def compile_ahead(self, shapes, arguments):
        self.asked.append((shapes, *arguments()))


def moments(run_phases, program_of, begun=0):
    """The steps before which a phase is asked to be compiled, and the phase."""
    steps = {program_of(phase)[0] for phase in run_phases}
    ahead, asked = NextPhase(run_phases, program_of, lambda phase: (phase.index,)), []
    for index in range(begun, run_phases[-1].stop):
        ahead.before(index)
        for step in steps:
            asked += [(index, phase) for _, phase in step.asked]
            step.asked.clear()
    return asked


def test_it_begins_halfway_through_a_phase():
    one = Noted()
    other_shapes = lambda phase: (one, {"input_ids": (4, phase.index)})  # noqa: E731
    assert moments(phases(0, 100, 120, 130), other_shapes) == [(50, 1), (110, 2)]
    assert moments(phases(0, 100), other_shapes) == []
    # A process that continues does not begin at its first step, which compiles the phase's own program.
    assert moments(phases(0, 100, 120, 130), other_shapes, begun=80) == [(90, 1), (110, 2)]
    assert moments(phases(0, 100, 120, 130), other_shapes, begun=98) == [(99, 1), (110, 2)]
    assert moments(phases(0, 100, 120, 130), other_shapes, begun=99) == [(110, 2)]
    assert moments(phases(0, 100, 101, 130), other_shapes) == [(50, 1), (100, 2)]
    assert moments(phases(0, 100, 100, 130), other_shapes) == [(50, 2)]  # a phase of no steps, by rounding


def test_what_this_process_has_run_is_not_compiled_again():
    steps = [Noted(), Noted()]
    turns = phases(0, 10, 20, 30, 40)
    program_of = lambda phase: (steps[phase.index % 2], BATCH)  # noqa: E731
    assert moments(turns, program_of) == [(5, 1)]
    assert moments(turns, program_of, begun=12) == [(16, 2)]
    assert moments(turns, lambda phase: (steps[0], BATCH)) == []


def doubling():
    """A jitted step that takes its state's memory, as training steps do, and that nothing has compiled before."""

    def double(state, batch, step, key):
        return {"w": state["w"] * 2 + step.astype("float32")}, {"loss": batch["input_ids"].sum()}

    return jax.jit(double, donate_argnums=0)


def arguments(size=8):
    return {"w": np.ones(3, np.float32)}, {"input_ids": np.ones((4, size), np.int32)}, np.int32(1), np.int32(0)


def abstract(size=8):
    return jax.eval_shape(lambda: arguments(size))


@pytest.mark.parametrize("cached", [True, False])
def test_the_executable_is_what_is_called(cached, tmp_path):
    """With a compilation cache and without, one compilation, and none by the thread that calls it."""
    with runtime.compilation_cache(str(tmp_path) if cached else "", tmp_path):
        step = Step(doubling())
        placed, longer = jax.device_put(arguments()), jax.device_put(arguments(16))
        with compilations() as seen:
            step.compile_ahead(BATCH, abstract)
            step.compile_ahead(BATCH, abstract)
            wait_for_compilation()
            assert step.is_compiled(placed[1]) and not step.is_compiled(longer[1])
            state, metrics = step(*placed)
            state, metrics = step(state, *jax.device_put(arguments()[1:]))
        assert [thread for thread, _ in seen] == ["compiles-ahead"]
    np.testing.assert_array_equal(state["w"], np.full(3, 7, np.float32))
    assert placed[0]["w"].is_deleted() and int(metrics["loss"]) == 32
    with compilations() as seen:
        state, metrics = step(*longer)  # other shapes are jit's
    assert [thread for thread, _ in seen] == ["MainThread"] and int(metrics["loss"]) == 64


def test_a_call_waits_for_the_compilation_instead_of_compiling_too():
    goes_on = threading.Event()

    def late():
        goes_on.wait()
        return abstract()

    step, placed = Step(doubling()), jax.device_put(arguments())
    step.compile_ahead(BATCH, late)
    assert not step.is_compiled(placed[1])
    threading.Timer(0.2, goes_on.set).start()
    with compilations() as seen:
        state, _ = step(*placed)
    assert [thread for thread, _ in seen] == ["compiles-ahead"]
    np.testing.assert_array_equal(state["w"], np.full(3, 3, np.float32))


@pytest.mark.parametrize("fails", ["tracing", "other types"])
def test_a_compilation_that_fails_is_left_to_jit(fails, capfd):
    """It raises, or its executable takes other arguments than those that come."""

    def wrong():
        if fails == "tracing":
            raise RuntimeError("RESOURCE_EXHAUSTED: no memory\nfor the compiler")
        state, batch, *others = abstract()
        return {"w": jax.ShapeDtypeStruct((5,), np.float32)}, batch, *others

    step, placed = Step(doubling()), jax.device_put(arguments())
    step.compile_ahead(BATCH, wrong)
    wait_for_compilation()
    state, _ = step(*placed)
    np.testing.assert_array_equal(state["w"], np.full(3, 3, np.float32))
    assert not step.is_compiled(placed[1])
    said = "warning: the next phase's step is compiled when it is reached: RuntimeError: RESOURCE_EXHAUSTED: no memory"
    assert (f"{said}\n" in capfd.readouterr().out) == (fails == "tracing")


def test_more_arguments_end_every_call():
    function = jax.jit(lambda state, batch, step, key, more: (state["w"] + more, batch))
    step, placed = Step(function, (jax.device_put(np.float32(5)),)), jax.device_put(arguments())
    np.testing.assert_array_equal(step(*placed)[0], np.full(3, 6, np.float32))
    step.compile_ahead(BATCH, abstract)
    wait_for_compilation()
    assert step.is_compiled(placed[1])
    np.testing.assert_array_equal(step(*placed)[0], np.full(3, 6, np.float32))


def test_a_compilation_that_has_not_begun_is_cancelled():
    goes_on, step = threading.Event(), Step(doubling())
    with compilations() as seen:
        step.compile_ahead(BATCH, lambda: goes_on.wait() and abstract())
        step.cancel()
        goes_on.set()
        wait_for_compilation()
    assert not seen and not step.is_compiled(jax.device_put(arguments())[1])


@pytest.fixture
def recipe(config):
    """Steps 0-5 of rows of 16 tokens, 6-11 of 32."""
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    config.data.phases = ({"share": 0.5, "sequence_length": 16}, {"share": 0.5, "batch_size": 16})
    config.train.update(checkpoint_every=2, keep_newest=9, eval_every=6)
    return config


def training_steps(seen):
    return [thread for thread, program in seen if "train_step" in program]


def times(workdir, name):
    return [json.loads(line)[f"time/{name}"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(workdir, other):
    assert logged_rows(workdir) == logged_rows(other)
    jax.tree.map(np.testing.assert_array_equal, *(open_model(each).params for each in (workdir, other)))


@pytest.mark.full
def test_a_run_through_two_phases(recipe, tmp_path, monkeypatch):
    """The bits of a run that compiles when it must, and of one that is resumed on each side of the border."""
    with monkeypatch.context() as patch:
        patch.setattr(NextPhase, "before", lambda self, index: None)
        with compilations() as seen:
            pretraining.pretrain(recipe, tmp_path / "plain")
    assert training_steps(seen) == ["MainThread", "MainThread"]
    assert [seconds > 0 for seconds in times(tmp_path / "plain", "compilation")] == [i in (0, 6) for i in range(12)]

    before = NextPhase.before

    def patient(self, index):
        before(self, index)
        wait_for_compilation()

    with monkeypatch.context() as patch:
        patch.setattr(NextPhase, "before", patient)
        with compilations() as seen:
            pretraining.pretrain(recipe, tmp_path / "ahead")
    assert training_steps(seen) == ["MainThread", "compiles-ahead"]
    assert_same_run(tmp_path / "ahead", tmp_path / "plain")
    assert [seconds > 0 for seconds in times(tmp_path / "ahead", "compilation")] == [i == 0 for i in range(12)]

    for kept, expected in ((4, ["MainThread", "compiles-ahead"]), (6, ["MainThread"])):
        resumed = tmp_path / f"resumed-{kept}"
        shutil.copytree(tmp_path / "ahead", resumed)
        for checkpoint in (resumed / "checkpoints").iterdir():
            if checkpoint.name.isdigit() and int(checkpoint.name) > kept:
                shutil.rmtree(checkpoint)
        with compilations() as seen:
            pretraining.pretrain(recipe, resumed)
        assert training_steps(seen) == expected
        assert_same_run(resumed, tmp_path / "plain")


def test_a_phase_that_is_reached_too_soon_waits(recipe, tmp_path, monkeypatch):
    """That is compilation in the log, as if the loop had compiled; the program is not compiled twice."""
    enter, goes_on, compile_ahead = pretraining._Pretraining.enter, threading.Event(), Step.compile_ahead

    def late(self, shapes, arguments):
        compile_ahead(self, shapes, lambda: goes_on.wait() and arguments())

    def at_the_border(self, index):
        enter(self, index)
        if index == 6:
            threading.Timer(0.2, goes_on.set).start()

    monkeypatch.setattr(Step, "compile_ahead", late)
    monkeypatch.setattr(pretraining._Pretraining, "enter", at_the_border)
    with compilations() as seen:
        pretraining.pretrain(recipe, tmp_path)
    assert training_steps(seen) == ["MainThread", "compiles-ahead"]
    assert [seconds > 0 for seconds in times(tmp_path, "compilation")] == [i in (0, 6) for i in range(12)]


_IS_STOPPED = """
import signal, sys, time
from bert_jax import command, interruption, pretrain
from bert_jax.training import pretraining
from bert_jax.training.next_phase import Step

enter, compile_ahead = pretraining._Pretraining.enter, Step.compile_ahead

def stopped(self, index):
    enter(self, index)
    if index == 4:
        signal.raise_signal(signal.SIGTERM)
        while not interruption._catchers[-1].number:
            time.sleep(0.01)

pretraining._Pretraining.enter = stopped
Step.compile_ahead = lambda self, shapes, arguments: compile_ahead(self, shapes, lambda: time.sleep(7200))
sys.argv.remove("--")
command.define_config_flag()
command.define_process_flags()
command.run(pretrain.main)
"""


@pytest.mark.full
def test_a_signal_ends_a_run_beside_a_compilation(recipe, tmp_path):
    """With the signal's exit code; the process does not wait for a compilation of hours."""
    recipe.train.update(progress=False)
    flags = [f"--config={write_recipe(tmp_path / 'recipe.py', recipe)}", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-c", _IS_STOPPED, "--", *flags], cwd=commands.ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=os.environ | commands.shared_programs(tmp_path / "compiled"),
    )  # fmt: skip
    output = commands.finish(process, code=128 + signal.SIGTERM)
    assert "SIGTERM: stopped at step 5 with a checkpoint" in output and "Traceback" not in output
