"""Estimates the memory of a run's steps before they are compiled, and says what makes them fit.

The compiler itself is asked, for a model of few layers whose programs it makes quickly: what a step needs grows by the
same amount with every layer (measured: experiments/results/memory.md). A run that is far from filling the memory, by a
sum of its largest arrays, is not even asked for.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from bert_jax import sharding
from bert_jax.config.keys import MODEL
from bert_jax.config.objective import facts as objective_facts
from bert_jax.data import stream
from bert_jax.errors import UserError, ran_out_of_memory
from bert_jax.processes import distributed, machine
from bert_jax.runs import workdir as workdir_lib
from bert_jax.training.lowering import (
    Steps,
    batch_shapes,
    bytes_on_device,
    extrapolated,
    largest_arrays,
)

NEAR, FAR = 0.85, 1.15  # shares of the free memory: from the first on a run is warned about, over the second refused
SURE = 0.5  # a run whose largest arrays, counted generously, need less than this share is not estimated further
# Rematerialisation policies that are tried, from the one that keeps most to the one that recomputes most: "attention"
# keeps nearly as much as "none".
REMAT = tuple(policy for policy in MODEL["remat"].choices if policy != "attention")
# Measured, on a CPU (experiments/results/memory.md): copies of the state while a checkpoint is written, and bytes that
# libraries and the compiler take.
_COPIES, _PROCESS = 2, 350 * 2**20
# Programs whose memory is read and that never run. The arrays of a CPU's program do not depend on these settings.
_QUICK = {
    "cpu": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
    "gpu": {"xla_gpu_autotune_level": 0},
}


@dataclasses.dataclass(frozen=True)
class Need:
    """Holds the bytes that a run takes on each device, or, where the devices are a CPU's, in its process.

    Attributes:
      state: parameters, optimizer state and whatever else lives from step to step.
      step: a training step, with the state.
      evaluation: an evaluation, with the state.
      saving: copies of the state that are being written while the next step runs.
      process: what libraries and the compiler still take in the process.
    """

    state: int
    step: int
    evaluation: int
    saving: int = 0
    process: int = 0

    @property
    def total(self) -> int:
        """Returns the bytes of the larger of the two steps, with the overhead."""
        return max(self.step, self.evaluation) + self.overhead

    @property
    def overhead(self) -> int:
        """Returns the bytes that are taken whatever the step needs."""
        return self.saving + self.process


def estimate(steps: Steps, before: Need | None = None) -> Need:
    """Returns what a run needs, from the compiler's reports on models of few layers.

    Args:
      steps: the run's programs.
      before: what the run needs without a change that concerns its training step alone.
    """
    frozen = steps.frozen_bytes()
    state = extrapolated(steps.state_bytes, steps) + frozen

    def trained(layers):
        lowered, unread = steps.train(layers)
        return program_bytes(lowered, steps.mesh) + unread

    step = extrapolated(trained, steps) + frozen
    if before:
        local = len(steps.mesh.local_devices) if _on_cpu(steps.mesh) else 1
        return dataclasses.replace(before, step=local * max(step, state))
    evaluation, few = 0, min(steps.layers, steps.few[0])
    lowered, unread = steps.evaluation(few)
    if lowered is not None:  # a forward pass keeps no layer's arrays for long
        evaluation = program_bytes(lowered, steps.mesh) + unread + state - steps.state_bytes(few)
    need = Need(state, max(step, state), evaluation, 0)
    if _on_cpu(steps.mesh):
        local = len(steps.mesh.local_devices)
        need = Need(
            state=local * need.state,
            step=local * need.step,
            evaluation=local * need.evaluation,
            saving=local * _COPIES * need.state,
            process=_PROCESS,
        )
    return need


def program_bytes(lowered: jax.stages.Lowered, mesh: Mesh, quick: bool = True) -> int:
    """Returns the bytes that a program needs on a device, its arguments and results included.

    Args:
      lowered: the program.
      mesh: the mesh that it is lowered for.
      quick: compiles in less time a program that would run slowly.
    """
    options: Any = _QUICK.get(mesh.devices.flat[0].platform) if quick else None
    try:
        compiled = lowered.compile(compiler_options=options)
    except JaxRuntimeError as error:
        if not options or "INVALID_ARGUMENT" not in str(error):
            raise
        compiled = lowered.compile()  # another version of the compiler, without these options
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise NotImplementedError("the compiler of these devices reports no memory")
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return (
        analysis.argument_size_in_bytes + outputs + analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes
    )


def usable(mesh: Mesh) -> int | None:
    """Returns the bytes that a run may still take on each device, on a CPU in its process; None where unknown."""
    if _on_cpu(mesh):
        return machine.available_memory()
    free = []
    for device in mesh.local_devices:
        with contextlib.suppress(Exception):  # not every backend answers
            statistics = device.memory_stats() or {}
            if statistics.get("bytes_limit"):
                free.append(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    return min(free) if free else None


def begun_microbatches(workdir: pathlib.Path) -> int:
    """Returns the number of microbatches that the run in a workdir has; 0 if it holds none."""
    return workdir_lib.read(workdir)[1].train.microbatches if (workdir / "config.json").exists() else 0


def check(steps: Steps, say: Callable[[str], None], begun: int = 0) -> None:
    """Chooses train.microbatches where it is 0, and refuses, or warns about, a run that will not fit.

    Sets steps.config.train.microbatches in place. config.train.memory_check decides what happens to a run that needs
    more than is free: "refuse", "warn" or "off".

    Args:
      steps: the run's programs.
      say: called with each line that the user should see.
      begun: number of microbatches that the workdir's run began with; 0 for a new run.

    Raises:
      UserError: the run needs far more memory than there is.
    """
    config, chosen = steps.config, 0
    if not config.train.microbatches:
        config.train.microbatches = chosen = begun or 1
    if config.train.memory_check == "off" and not chosen:
        return
    try:
        free = usable(steps.mesh)
        verdict = _judge(steps, free, bool(chosen and not begun), say) if free is not None else _Verdict()
    except UserError:
        raise
    except (JaxRuntimeError, NotImplementedError, OverflowError) as error:  # an estimate must not end a run
        say(f"the memory of a step could not be estimated: {str(error).splitlines()[0][:200]}")
        verdict = _Verdict()
    if distributed.is_multiprocess():  # one decision for all
        own_verdict = dataclasses.asdict(verdict)
        verdict = _Verdict(**distributed.broadcast(lambda: own_verdict))
    if chosen and not begun:
        config.train.microbatches = verdict.microbatches
        say(f"config.train.microbatches: {verdict.microbatches}, the fewest that fit" + verdict.reason)
    if not verdict.message or config.train.memory_check == "off":
        return
    if verdict.refused and config.train.memory_check == "refuse":
        raise UserError(f"{verdict.message}; --config.train.memory_check=warn goes on anyway")
    say(f"warning: {verdict.message}")


@dataclasses.dataclass(frozen=True)
class _Verdict:
    """Holds what `check` concludes: number of microbatches, the reason, the message about a run that does not fit."""

    microbatches: int = 1
    reason: str = ""
    message: str = ""
    refused: bool = False


def _judge(steps, free, search, say):
    """Estimates a run; `search`: whether to choose the number of microbatches; `say`: called before it takes long."""
    microbatches = steps.config.train.microbatches
    state = extrapolated(steps.state_bytes, steps) + steps.frozen_bytes()
    local = len(steps.mesh.local_devices) if _on_cpu(steps.mesh) else 1
    if local * state > FAR * free:
        return _Verdict(microbatches, message=_state_too_large(steps, local * state, free), refused=True)
    rough = local * steps.rough()
    if rough < SURE * free:
        return _Verdict(microbatches, ", by far")
    say(
        f"memory: up to {machine.in_words(rough)} for a step by a generous sum of its arrays, {machine.in_words(free)} "
        "free; asking the compiler what is needed, and what fits ..."
    )
    need = estimate(steps)
    if search and need.total > NEAR * free:
        for count, tried in _with_microbatches(steps, need, free):
            if tried.total <= NEAR * free:
                return _Verdict(count, f": {machine.in_words(tried.total)} of {machine.in_words(free)}")
        return _Verdict(microbatches, message=_too_large(steps, need, free), refused=need.total > FAR * free)
    if need.total <= NEAR * free:
        return _Verdict(microbatches, f": {machine.in_words(need.total)} of {machine.in_words(free)}")
    return _Verdict(microbatches, message=_too_large(steps, need, free), refused=need.total > FAR * free)


def check_evaluation(
    config: ml_collections.ConfigDict, objective: Any, eval_step: Any, params: Any, mesh: Mesh
) -> None:
    """Raises UserError if an evaluation of a model needs far more memory than is free.

    Args:
      config: the evaluation's config; reads data.
      objective: the objective that is evaluated.
      eval_step: its program; see step.compile_evaluation.
      params: the parameters, which are in memory already.
      mesh: the mesh of parameters and batches.
    """
    free, data = usable(mesh), config.data
    rows, sequence = data.batch_size / sharding.num_shards(mesh, sharding.BATCH_AXES), data.sequence_length
    local = len(mesh.local_devices) if _on_cpu(mesh) else 1
    predictions = stream.prediction_slots(data) if objective_facts(config).masked else sequence
    arrays = sum(largest_arrays(spec, rows, sequence, predictions, backward=False) for spec in objective.specs)
    if free is None or local * arrays < SURE * free:
        return
    layout = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
        for name, (shape, dtype) in batch_shapes(config, data).items()
    }
    lowered = eval_step.lower(params, batch)
    needed = local * (program_bytes(lowered, mesh) - bytes_on_device(params))
    if needed > FAR * free:
        raise UserError(
            f"config.data.batch_size={data.batch_size}: a batch needs about {machine.in_words(needed)}, and "
            f"{machine.in_words(free)} are free; expected at most {max(1, int(data.batch_size * NEAR * free / needed))}"
        )


def advice(steps: Steps, need: Need, free: float) -> str:
    """Returns the cheapest change that makes a run fit, as arguments of a command line with what it then needs.

    Every change is estimated as the run was. The order is that of `bert_jax.plan`: microbatches, which change results
    in rounding alone; rematerialisation; then fewer rows.
    """
    for change, tried in _changes(steps, need, free):
        if tried.total <= NEAR * free:
            flags = " ".join(f"--config.{key}={value}" for key, value in change.items())
            effect = "" if "data.batch_size" in change or "train.eval_batch_size" in change else _SAME_RESULTS
            return f"{flags} needs {machine.in_words(tried.total)}{effect}"
    return (
        "no number of microbatches makes it fit; try a smaller model, shorter rows, or more devices (--config.mesh.*)"
    )


_SAME_RESULTS = ", with the same results to rounding"


@contextlib.contextmanager
def explained(steps: Steps) -> Iterator[None]:
    """Turns an error about memory, from the compiler, a device or Python, into one line that says what would fit.

    Raises:
      UserError: memory ran out while inside.
    """
    try:
        yield
    except (JaxRuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise UserError(_out_of_memory(steps, error)) from error


def _out_of_memory(steps, error):
    reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    advised = "try more --config.train.microbatches"
    with contextlib.suppress(Exception):  # there may be no memory to find out more
        free = usable(steps.mesh)
        need = estimate(steps)
        advised = f"about {machine.in_words(need.total)} are needed; {advice(steps, need, min(free or 0, need.total))}"
    return f"out of memory ({reason}); {advised}"


def _too_large(steps, need, free):
    program = "an evaluation" if need.evaluation > need.step else "a step"
    rows = max(steps.batch_sizes())
    place = "free on this machine" if _on_cpu(steps.mesh) else f"on a {steps.mesh.devices.flat[0].device_kind}"
    verb = "needs about" if need.total > free else "nearly fills the memory: it needs about"
    return (
        f"config.data.batch_size={rows}: {program} {verb} {machine.in_words(need.total)}, and "
        f"{machine.in_words(free)} are {place}; {advice(steps, need, free)}"
    )


def _state_too_large(steps, state, free):
    hidden = steps.config.model.get("hidden_size")
    sizes = f"config.model.hidden_size={hidden} x num_layers={steps.layers}" if hidden else "config.init_from"
    place = "are free on this machine" if _on_cpu(steps.mesh) else "are free on a device"
    return (
        f"{sizes}: parameters and optimizer alone need {machine.in_words(state)}, and {machine.in_words(free)} "
        f"{place}; expected a smaller model, or more devices (--config.mesh.fsdp)"
    )


def _with_microbatches(steps, need, free):
    """Yields (number of microbatches, what the run then needs) for numbers that may fit, ascending.

    What a step needs beside the rows that it holds at once is taken for the state alone until a first number has been
    estimated, and from then on for what these two tell: a number that cannot fit so is left out.
    """
    count_now, fixed = steps.config.train.microbatches, need.state
    if need.evaluation + need.overhead > NEAR * free:
        return
    for count in microbatch_counts(steps):
        if count <= count_now or fixed + (need.step - fixed) * count_now / count + need.overhead > NEAR * free:
            continue
        tried = estimate(steps.changed({"train.microbatches": count}), need)
        yield count, tried
        fixed = max(need.state, round((tried.step - need.step * count_now / count) / (1 - count_now / count)))


def microbatch_counts(steps: Steps) -> list[int]:
    """Returns the numbers of microbatches that divide every batch of a run on its devices, ascending."""
    shards = sharding.num_shards(steps.mesh, sharding.BATCH_AXES)
    rows = [size // shards for size in steps.batch_sizes()]
    return [count for count in range(1, min(rows) + 1) if all(size % count == 0 for size in rows)]


def _changes(steps, need, free):
    """Yields (change, what the run then needs), cheapest first."""
    limit, fixed = NEAR * free, {}
    if need.evaluation + need.overhead > limit:  # nothing below makes the evaluation smaller
        fixed = _smaller_evaluation(steps, need, limit)
        if not fixed:
            return
        steps = steps.changed(fixed)
        need = estimate(steps)
        yield fixed, need
    if need.step + need.overhead <= limit:
        return
    for count, tried in _with_microbatches(steps, need, free):
        yield {"train.microbatches": count} | fixed, tried
    finest = microbatch_counts(steps)[-1:]
    now = steps.config.model.remat
    for policy in REMAT[REMAT.index(now if now in REMAT else "none") + 1 :]:
        for count in dict.fromkeys([steps.config.train.microbatches, *finest]):
            change = {"model.remat": policy, "train.microbatches": count}
            if count == steps.config.train.microbatches:
                del change["train.microbatches"]
            yield change | fixed, estimate(steps.changed(change), need)
    sizes = steps.batch_sizes()
    if len(sizes) == 1 and sizes[0] > 1:
        shards = sharding.num_shards(steps.mesh, sharding.BATCH_AXES)
        size = max(shards, sizes[0] // 2 // shards * shards)
        change = {"data.batch_size": size, "train.microbatches": size // shards, "model.remat": REMAT[-1]}
        yield change | fixed, estimate(steps.changed(change))


def _smaller_evaluation(steps, need, limit):
    """Returns the change of train.eval_batch_size by which an evaluation fits by its share; {} if none does."""
    shards = sharding.num_shards(steps.mesh, sharding.BATCH_AXES)
    rows = steps.config.train.eval_batch_size or max(steps.batch_sizes())
    size, fixed = rows, need.state + need.overhead
    while size > shards and fixed + (need.evaluation - need.state) * size / rows > 0.9 * limit:
        size = max(shards, size // 2 // shards * shards)
    return {"train.eval_batch_size": size} if size < rows else {}


def _on_cpu(mesh):
    return mesh.devices.flat[0].platform == "cpu"
