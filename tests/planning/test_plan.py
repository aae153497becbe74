"""Ahead-of-time compilation for TPU topologies: memory, products, what makes a step fit, and the command."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax.config.keys import MODEL
from bert_jax.errors import UserError
from bert_jax.model import flops
from bert_jax.planning import chips, compilation, fit, isolated, report, roofline, table
from bert_jax.planning.collectives import Collective
from bert_jax.planning.timeline import Timeline
from tests.commands import LONGEST_WAIT, ROOT, is_running, wait_until


def test_memory_is_the_compilers_and_products_are_the_models(compiled):
    _, step, executable = compiled
    analysis, memory = executable.memory_analysis(), step.memory
    state = memory.parameters + memory.optimizer + memory.batch + memory.padding
    assert state == analysis.argument_size_in_bytes
    assert memory.temporaries == analysis.temp_size_in_bytes and memory.peak == analysis.peak_memory_in_bytes
    assert state + memory.temporaries <= step.needed < chips.GIB and step.fits
    # Parameters lie whole on each of the four devices of a mesh of data alone, and a fourth of their two moments.
    parameters = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_parameters(step.spec)))
    assert memory.parameters == 4 * parameters and memory.optimizer == pytest.approx(8 * parameters / 4, abs=24)
    # What the program multiplies on four devices is what the model's count says, to the last product.
    assert 4 * step.products == flops.step_flops(step.spec, 256, 128, 8)


def abstract_parameters(spec):
    from bert_jax import model as model_lib

    return jax.eval_shape(model_lib.Model(spec).init, jax.random.key(0))


def _exchanged(step):
    """Returns the bytes of a step's collectives by kind."""
    assert {one.link for one in step.collectives} == {"ici"}
    kinds = {one.kind for one in step.collectives}
    return {kind: sum(one.count * one.bytes for one in step.collectives if one.kind == kind) for kind in kinds}


@pytest.mark.full
def test_gradients_are_reduced_over_all_chips(config, libtpu):
    config.mesh.optimizer_state = "whole"
    (phase,) = config_lib.phases(config)
    step = compilation.compile_phase(config, chips.parse("v5e:2x2"), phase)
    exchanged = _exchanged(step)
    assert set(exchanged) == {"all-reduce"}
    # In bfloat16 or float32.
    assert step.memory.parameters / 2 <= exchanged["all-reduce"] <= step.memory.parameters + 4096


def test_gradients_of_split_moments_are_scattered_and_parameters_gathered(compiled):
    exchanged, parameters = _exchanged(compiled[1]), compiled[1].memory.parameters
    assert set(exchanged) == {"reduce-scatter", "all-reduce", "all-gather"}
    assert exchanged["all-gather"] == pytest.approx(parameters, rel=0.02)
    assert exchanged["all-reduce"] < parameters / 20  # biases and norms, whose parts would be too small
    assert parameters / 2 <= exchanged["reduce-scatter"] + exchanged["all-reduce"] <= parameters + 4096


def test_operations_after_one_another_take_at_least_the_bound(compiled):
    _, step, _ = compiled
    chip = chips.parse("v5e:2x2").chip
    least = max(step.products / chip.flops, step.hbm_bytes / chip.hbm_bandwidth)
    waits = sum(step.timeline.exposed.values())
    assert (
        least + waits
        <= step.timeline.seconds
        <= step.products / chip.flops + step.hbm_bytes / chip.hbm_bandwidth + waits
    )
    assert waits <= sum(one.count * one.seconds for one in step.collectives) * (1 + 1e-9)


@pytest.mark.full
def test_gradients_of_split_kernels_are_scattered_layer_by_layer(config, libtpu):
    config.model.update(num_layers=3, scan_layers=True, attention_kernel="xla")
    config.mesh.update(data=1, fsdp=4)
    (phase,) = config_lib.phases(config)
    compiled = compilation.compile_phase(config, chips.parse("v5e:2x2"), phase)
    kernel = 128 * 128 * 2  # bytes in bfloat16
    scattered = [each for each in compiled.collectives if each.kind == "reduce-scatter"]
    assert sum(each.count * each.bytes for each in scattered) >= 3 * 6 * kernel
    assert all(each.count < 3 or each.bytes < kernel for each in compiled.collectives if each.kind == "all-reduce")


@pytest.mark.full
def test_what_does_not_fit_is_told_with_what_makes_it_fit(compiled):
    config, step, _ = compiled
    topology = chips.parse("v5e:2x2")
    small = dataclasses.replace(topology.chip, usable_hbm=step.needed - step.memory.temporaries // 4)
    topology = dataclasses.replace(topology, chip=small)
    over = dataclasses.replace(step, usable=small.usable_hbm)
    assert not over.fits
    said = []
    attempts = fit.search(config, topology, [over], said.append)
    assert [attempt.flags for attempt in attempts] == ["--config.train.microbatches=2"] and attempts[-1].fits
    assert attempts[-1].phases[0].needed < step.needed and len(said) == 1


def test_changes_come_cheapest_first(config):
    topology = chips.parse("v5e:2x2")
    config.data.batch_size = 16
    step = compilation.Compiled(80, 50, None, 16, 128, 8, model_flops=1.0, state=10)
    changes = list(fit.changes(config, topology, [step]))
    assert changes[:10] == [
        {"train.microbatches": 2}, {"train.microbatches": 4}, {"train.logits_chunk": 1024},
        {"model.remat": "dots"}, {"model.remat": "dots_no_batch"}, {"model.remat": "full"},
        {"mesh.fsdp": 2}, {"mesh.fsdp": 4},
        {"train.microbatches": 4, "train.logits_chunk": 1024}, {"train.microbatches": 4, "model.remat": "dots"},
    ]  # fmt: skip
    assert {"train.microbatches": 4, "model.remat": "full", "train.logits_chunk": 1024} in changes
    assert changes[-1] == {"mesh.fsdp": 4, "train.microbatches": 4, "model.remat": "full"}
    # Counts that cannot be enough are left out, but not their finest with a policy.
    over = list(fit.changes(config, topology, [dataclasses.replace(step, needed=400)]))
    assert {"train.microbatches": 4} not in over and {"train.microbatches": 4, "model.remat": "dots"} in over
    config.objective.update(name="rtd", next_sentence=False)  # which needs whole distributions
    assert not any("train.logits_chunk" in change for change in fit.changes(config, topology, [step]))
    large = dataclasses.replace(step, state=60)  # parameters and moments alone are too much
    assert next(fit.changes(config, topology, [large])) == {"mesh.fsdp": 2}


def test_every_remat_policy_has_leaner_ones_but_the_last(config):
    config.data.batch_size = 4
    step = compilation.Compiled(80, 50, None, 4, 128, 8, model_flops=1.0, state=10)
    leaner = {}
    for name in MODEL["remat"].choices:
        config.model.remat = name
        changes = fit.changes(config, chips.parse("v5e:2x2"), [step])
        leaner[name] = [change["model.remat"] for change in changes if set(change) == {"model.remat"}]
    policies = ["dots", "dots_no_batch", "full"]
    assert leaner == {
        "none": policies, "attention": policies, "dots": policies[1:], "dots_no_batch": ["full"], "full": [],
    }  # fmt: skip


def test_phases_that_differ_in_the_rate_alone_are_compiled_once(config, monkeypatch):
    _, step = made()
    asked, said = [], []

    def compile_phase(config, topology, phase):
        asked.append(phase.index)
        return dataclasses.replace(step, rows=phase.data.batch_size, sequence=phase.data.sequence_length)

    monkeypatch.setattr(isolated, "compile_phase", compile_phase)
    falls = {"optimizer.learning_rate": 1e-5, "optimizer.schedule": "linear"}
    config.data.phases = (
        {"share": 0.25, "sequence_length": 64}, {"share": 0.25}, {"share": 0.25} | falls,
        {"share": 0.25, "model.hidden_dropout": 0.2} | falls,
    )  # fmt: skip
    topology = chips.parse("v5e:2x2")
    steps = fit.compile_phases(config, topology, said.append)
    assert asked == [0, 1, 3] and [step.sequence for step in steps] == [64, 128, 128, 128]
    assert len(said) == 3 and said[0].startswith("compiled a step of 256 rows of 64 (phase 1)")
    asked.clear()
    attempt = fit._attempt(config, topology, {"train.microbatches": 2}, [3, 2, 1, 0])
    assert asked == [3, 2, 0] and len(attempt.phases) == 4


@pytest.mark.parametrize("most", [0, 7, 8, 15, 72, 100, 1025])
def test_the_largest_microbatch_is_found_to_eight_rows(config, monkeypatch, most):
    _, step = made()
    tried = []

    def compile_phase(config, topology, phase):
        assert config.train.microbatches == 1 and phase.data.batch_size % 2 == 0
        tried.append(phase.data.batch_size // 2)  # tensor=2 leaves two parts of the rows on four devices
        return dataclasses.replace(step, needed=tried[-1], usable=most, rows=phase.data.batch_size)

    monkeypatch.setattr(isolated, "compile_phase", compile_phase)
    config.update_from_flattened_dict({"mesh.tensor": 2, "train.microbatches": 4})
    topology = chips.parse("v5e:2x2")
    rows, best = fit.largest_microbatch(config, topology)
    assert rows == most // 8 * 8 and len(set(tried)) == len(tried)
    assert best is None if rows == 0 else best.rows == 2 * rows
    largest = json.loads(json.dumps(report.largest(config, topology, rows, best)))
    assert (f": {rows} rows of 128" if rows else "not even 8 rows of 128") in report.largest_text(largest)


def test_the_compilers_refusals():
    head = "RESOURCE_EXHAUSTED: "
    early = "Ran out of memory on HBM, the total memory for HLO temporaries (24.63G) exceeds available HBM (1G)"
    late = "Ran out of memory in memory space hbm. Used 16.50G of 15.75G hbm. Exceeded hbm capacity by 768M."
    assert compilation.needed_by_message(head + early, 5) == int(24.63 * chips.GIB) + 5
    assert compilation.needed_by_message(head + late, 5) == int(16.5 * chips.GIB)
    assert compilation.needed_by_message("INTERNAL: something else", 5) is None
    assert compilation.needed_by_message(head + "HBM is full in another way", 5) is None


def made(**changes):
    from bert_jax import model as model_lib

    config = config_lib.base()
    spec = model_lib.build(config.model, 1000, next_sentence=True, platform="tpu").spec
    step = compilation.Compiled(
        needed=1, usable=2, spec=spec, rows=32, sequence=128, slots=20, state=1,
        model_flops=flops.step_flops(spec, 32, 128, 20),
        memory=compilation.Memory(1, 0, 0, 0, 0, 0, 0, 1),
    )  # fmt: skip
    return config, dataclasses.replace(step, **changes)


def test_the_longest_of_products_memory_and_links_bounds_a_step():
    topology = chips.parse("v5e:2x2")
    _, step = made(hbm_bytes=819_000_000)
    work = flops.step_flops(step.spec, 32, 128, 20)
    bounds = roofline.roofline(step, topology)
    assert bounds.seconds["products"] == pytest.approx(work / 4 / 197e12) and bounds.seconds["hbm"] == 1e-3
    assert bounds.bound == "products" and bounds.mfu == pytest.approx(1.0)
    again = roofline.roofline(dataclasses.replace(step, products=work / 2), topology)  # twice what the model needs
    assert again.mfu == pytest.approx(0.5)
    slow = Collective("all-reduce", "dcn", 4, 1, 1.0, 0.25)
    waits = Timeline(1.5, {"ici": 0.0, "dcn": 0.75})
    bounds = roofline.roofline(dataclasses.replace(step, collectives=(slow,), timeline=waits), topology)
    assert bounds.bound == "dcn" and bounds.step_seconds == 0.75 + work / 4 / 197e12  # a quarter of it is hidden
    assert bounds.tokens_per_second == 32 * 128 / bounds.step_seconds
    assert bounds.mfu == pytest.approx(work / 4 / 197e12 / bounds.step_seconds)
    assert bounds.summed_seconds == 1.5 and bounds.summed_mfu == pytest.approx(work / 4 / 197e12 / 1.5)


def test_a_schedule_adds_up_its_phases():
    topology = chips.parse("tpu7x:2x2x1")
    config, step = made(hbm_bytes=int(7380e9 / 2))  # a second on half a chip
    config.data.phases = ({"share": 0.75, "sequence_length": 128}, {"share": 0.25})
    config.train.num_steps = 86400
    bounds = roofline.roofline(step, topology)
    assert bounds.seconds["hbm"] == pytest.approx(1.0)
    whole = roofline.schedule(config, [bounds, dataclasses.replace(bounds, tokens=10)], topology)
    assert whole.days == pytest.approx(1.0) and whole.chip_hours == pytest.approx(4 * 24.0)
    assert whole.tokens == 64800 * 32 * 128 + 21600 * 10 and whole.steps == 86400


@pytest.mark.parametrize("objective", ["mlm", "ltr"])
@pytest.mark.parametrize("packing", [False, True])
def test_batches_have_the_loaders_shapes(config, objective, packing):
    config.data.update(format="full_sentences", packing=packing, max_predictions=0)
    config.objective.update(name=objective, next_sentence=False)
    shapes = compilation.batch_shapes(config, config_lib.phases(config)[0].data)
    assert shapes["input_ids"] == ((256, 128), np.int32)
    assert ("masked_labels" in shapes) == (objective == "mlm") and ("cls_positions" in shapes) == packing
    assert "next_sentence_label" not in shapes
    if objective == "mlm" and not packing:
        assert shapes["masked_weights"] == ((256, 19), np.float32)  # 0.15 x 126


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model.vocab_size": 0}, "config.model.vocab_size: 0, .*--config.model.vocab_size=30522"),
        ({"model_from_init": True}, "config.model_from_init: True, but plan reads no model"),
        ({"mesh.fsdp": 3}, "config.mesh: data=-1 x fsdp=3 x tensor=1 does not fit 4 devices"),
        ({"data.batch_size": 18}, "config.data.batch_size: 18 is not divisible by 4 device shards"),
    ],
)
def test_recipes_that_cannot_run_there(config, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        compilation.check(config, chips.parse("v5e:2x2"))


def test_the_table_goes_on_where_it_stopped(config, tmp_path, monkeypatch):
    planned = []

    def plan(config, topology, *, name, say):
        planned.append(topology.label)
        if topology.num_slices > 1:
            raise UserError("config.data.batch_size: 18 is not divisible by 8 device shards; try 24")
        _, step = made(hbm_bytes=819_000_000)
        steps = report._steps(config, topology, [step])
        return {"fits": True} | steps

    monkeypatch.setattr(table.report, "plan", plan)
    output, topologies = tmp_path / "plan.md", (("v5e:2x2", 1), ("v5e:2x2", 2))
    table.write(output, {"tiny": config}, topologies=topologies[:1])
    table.write(output, {"tiny": config}, topologies=topologies)
    assert planned == ["v5e:2x2", "2 x v5e:2x2"]
    text = output.read_text()
    assert "| tiny | v5e:2x2 | 4 |" in text and "18 is not divisible by 8 device shards |" in text
    config.train.num_steps = 5
    table.write(output, {"tiny": config}, topologies=topologies[:1])
    assert planned[2:] == ["v5e:2x2"]


def test_recorded_plans_are_of_the_recipes_as_they_are():
    """Without compiling: a recipe whose rows, steps or sizes changed since its plan was recorded fails here."""
    recorded = json.loads((ROOT / "experiments/results/plan.json").read_text("utf-8"))
    page = (ROOT / "experiments/results/plan.md").read_text("utf-8").splitlines()
    for name, entry in recorded.items():
        config = table.recipe(entry["recipe"])
        assert entry["settings"] == table.settings(config), f"{name}: plan it anew (python -m bert_jax.plan)"
        shapes = [(phase["rows"], phase["sequence"]) for phase in entry["settings"]["phases"]]
        assert [(phase["rows"], phase["sequence"]) for phase in entry["phases"]] == shapes, name
        assert table.markdown([entry]).splitlines()[-1] in page, name
    rows = [line for line in page if line.startswith("|") and re.search(r"v\d\w?:\d|tpu\d", line)]
    assert len(rows) == len(recorded)


def test_a_plan_depends_on_what_a_step_costs(config):
    """Sizes, rows and steps decide whether an entry is computed again, not rates, schedules or initial values."""
    before = table.settings(config)
    config.update_from_flattened_dict(
        {"optimizer.learning_rate": 1.0, "optimizer.bias_correction": False, "model.initializer": "normal"}
        | {"train.eval_every": 7, "data.mask_token_share": 1.0, "data.random_token_share": 0.0}
    )
    assert table.settings(config) == before
    for key, value in (
        ("data.batch_size", 32), ("model.num_layers", 3), ("optimizer.name", "lamb"), ("data.max_predictions", 9),
        ("train.num_steps", 77), ("model.hidden_dropout", 0.1),
    ):  # fmt: skip
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({key: value})
        assert table.settings(other) != before, key


class Deadly:
    """A topology that ends the process which it is sent to."""

    label = "v5e:2x2"

    def __reduce__(self):
        return os.abort, ()


def test_a_compiler_that_crashes_ends_no_plan(libtpu, config):
    (phase,) = config_lib.phases(config)
    config.model.remat = "full"
    expected = "v5e:2x2: the compiler crashed .*with config.model.remat=full; .*--config.model.remat=none"
    with pytest.raises(isolated.CompilerCrashed, match=expected):
        isolated.compile_phase(config, Deadly(), phase)
    config.mesh.fsdp = 3
    with pytest.raises(UserError, match="config.mesh: found data=-1, fsdp=3"):  # the next one has a process again
        isolated.compile_phase(config, chips.parse("v5e:2x2"), phase)


@pytest.mark.full
def test_the_compilers_process_ends_with_the_plans(libtpu):
    """kill -9 of a plan leaves no process, and what it was sent needs no reference to be resolved."""
    code = """
import os, sys
from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.planning import isolated, chips
if __name__ == "__main__":
    config = config_lib.load_recipe("bert_base")
    config.optimizer.warmup_steps = (config.train.get_ref("num_steps") * 0.01).to_int()
    config.mesh.fsdp = 3
    try:
        isolated.compile_phase(config, chips.parse("v5e:2x2"), config_lib.phases(config)[0])
    except UserError as error:
        print(isolated._worker._process.pid, error, flush=True)
    os.kill(os.getpid(), 9)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_WAIT)
    assert run.returncode == -signal.SIGKILL and "config.mesh: found" in run.stdout, run.stderr
    pid = int(run.stdout.split()[0])
    wait_until(lambda: not is_running(pid))


def test_another_policy_is_tried_after_a_crash(config, monkeypatch):
    _, step = made(hbm_bytes=819_000_000)

    def compile_phases(config, topology, say):
        if config.model.remat != "none":
            raise isolated.CompilerCrashed("v6e:4x4: the compiler crashed")
        return [step]

    monkeypatch.setattr(fit, "compile_phases", compile_phases)
    config.model.remat = "dots"
    plan = report.plan(config, chips.parse("v5e:2x2"))
    assert not plan["fits"] and plan["change"]["flags"] == "--config.model.remat=none"
    assert plan["tried"] == [{"flags": "--config.model.remat=none", "fits": True}]
    assert "the compiler crashed" in report.text(plan) and plan["change"]["schedule"]
    with pytest.raises(isolated.CompilerCrashed):
        report.plan(config, chips.parse("v5e:2x2"), search=False)


def test_the_report_has_words_and_json(compiled):
    config, step, _ = compiled
    plan = {"recipe": "tiny", "fits": True, "mesh": {"data": 4, "fsdp": 1, "tensor": 1}}
    topology = chips.parse("v5e:2x2")
    plan |= report.described(topology) | {"model": report._model(step)}
    plan |= report._steps(config, topology, [step])
    text = report.text(json.loads(json.dumps(plan)))
    assert "tiny on v5e:2x2: 4 chips" in text and "fits: " in text and "all-reduce over ici" in text
    assert "the whole run, 1,000 steps" in text and "operation by operation: " in text


def run(*arguments):
    command = [sys.executable, "-m", "bert_jax.plan", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT)
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=bert_base"], "error: --topology: missing; expected one such as v4:2x2x1"),
        (["--config=bert_base", "--topology=v9:2x2"], "error: --topology=v9:2x2: no such TPU or GPU"),
        (["--topology=v5e:2x2"], "error: --config: missing; expected a recipe such as bert_base"),
        (["--topology=v5e:2x2", "--config=finetune/sst2"], "error: --config: a fine-tuning recipe"),
        (["--topology=all", "--output=x.md", "--num_slices=2"], "error: --num_slices: does not go with --topology=all"),
    ],
)
def test_mistakes_in_the_command_are_one_line(arguments, message):
    code, error = run(*arguments)
    assert code == 2 and error.startswith(message) and "\n" not in error


@pytest.mark.full
def test_a_generator_is_counted(config, libtpu):
    config.model.update(embedding_size=64, pooler=False)
    config.objective.update(name="rtd", next_sentence=False)
    config.generator.update(hidden_size=64, num_heads=1, intermediate_size=64)
    config.data.format = "full_sentences"
    (phase,) = config_lib.phases(config)
    compiled = compilation.compile_phase(config, chips.parse("v5e:2x2"), phase)
    (generator,) = compiled.other_specs
    assert generator.hidden_size == 64 and compiled.spec.hidden_size == 128
    expected = sum(flops.step_flops(spec, compiled.rows, 128, 8) for spec in (compiled.spec, generator))
    assert compiled.model_flops == expected and compiled.parameters * 4 == compiled.memory.parameters


@pytest.mark.full
def test_windows_and_global_tokens_need_memory_for_each_token(config, libtpu):
    """A Longformer of rows of 2,048 on a mesh that splits heads too, and the same with full attention."""
    config.model.update(num_layers=2, max_positions=2048, attention_kernel="xla", dtype="bfloat16")
    config.data.update(sequence_length=2048, batch_size=16, format="full_sentences")
    config.objective.next_sentence = False
    config.mesh.tensor = 2
    temporaries = {}
    for name, changes in (
        ("full", {}),
        ("windows", {"layer_windows": (128,), "global_tokens": "first", "global_projections": True}),
    ):
        config.model.update(changes)
        (phase,) = config_lib.phases(config)
        compiled = compilation.compile_phase(config, chips.parse("v5e:2x2"), phase)
        assert compiled.fits
        temporaries[name] = compiled.memory.temporaries
    assert temporaries["windows"] < temporaries["full"] / 2
