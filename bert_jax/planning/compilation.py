"""Compiles a recipe's training step ahead of time for a topology, and reads what the program needs."""

import dataclasses
import re
import time

import jax
import ml_collections
import numpy as np
from jax.errors import JaxRuntimeError

from bert_jax import _moved, sharding
from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax.errors import UserError
from bert_jax.model.attention import choose_kernel
from bert_jax.model.kernels import AttentionMask
from bert_jax.planning import collectives as collectives_lib
from bert_jax.planning import devices as devices_lib
from bert_jax.planning import hlo, traffic
from bert_jax.planning import timeline as timeline_lib
from bert_jax.planning.chips import Topology
from bert_jax.training import step as step_lib
from bert_jax.training import teacher as teacher_lib
from bert_jax.training.lowering import batch_shapes, bytes_on_device


@dataclasses.dataclass(frozen=True)
class Memory:
    """Holds the memory of a step on one device in bytes, as the compiler reports it.

    Attributes:
      parameters, optimizer, batch: logical sizes of the arguments, which the step updates in place; parameters
        include a teacher's.
      padding: padding of the arguments' layouts, and the step's number, minus arguments that the step does not read.
      outputs: results that do not reuse an argument's memory.
      temporaries: activations, gradients and everything else that lives within the step.
      program: the generated code.
      peak: the most that is live at once.
    """

    parameters: int
    optimizer: int
    batch: int
    padding: int
    outputs: int
    temporaries: int
    program: int
    peak: int

    @property
    def needed(self) -> int:
        """Returns the bytes that have to be free for the step to run."""
        state = self.parameters + self.optimizer + self.batch + self.padding
        return max(state + self.outputs + self.temporaries + self.program, self.peak)


@_moved.renamed_members(beside="other_specs")
@dataclasses.dataclass(frozen=True)
class Compiled:
    """Holds the compiled step of a phase.

    Attributes:
      needed: bytes of HBM that a device needs.
      usable: bytes of HBM that a program may fill on a device.
      spec: spec of the model.
      rows, sequence, slots: sizes of the global batch.
      model_flops: FLOPs of the whole step as the log's MFU counts them, without recomputation.
      state: bytes of parameters and optimizer state on a device.
      seconds: time of tracing and compiling.
      memory: memory on a device; None where the compiler gave up, and only `needed` is known.
      collectives: collectives of a step.
      hbm_bytes: bytes that a device moves to and from HBM in a step.
      products: FLOPs of a device's matrix products in a step, rematerialised ones and those of kernels included.
      kernels: number of Pallas kernels run in a step whose products are not known, and not in `products`.
      timeline: times of the step's operations in their order.
      unknown_loops: number of loops that are counted as one iteration.
      other_specs: specs of models that are trained beside the main one, such as a generator.
      parameters: number of trained parameters.
    """

    needed: int
    usable: int
    spec: model_lib.Spec
    rows: int
    sequence: int
    slots: int
    model_flops: float
    state: int
    seconds: float = 0.0
    memory: Memory | None = None
    collectives: tuple[collectives_lib.Collective, ...] = ()
    hbm_bytes: int = 0
    products: float = 0.0
    kernels: int = 0
    timeline: timeline_lib.Timeline = timeline_lib.Timeline()
    unknown_loops: int = 0
    other_specs: tuple[model_lib.Spec, ...] = ()
    parameters: int = 0

    @property
    def attention_kernel(self) -> str:
        """Returns the attention kernel that the phase's rows allow, in layers without a window."""
        return _attention_kernel(self.spec, self.rows, self.sequence)

    @property
    def fits(self) -> bool:
        """Returns whether the step fits into the usable memory of a device."""
        return self.memory is not None and self.needed <= self.usable


def check(config: ml_collections.ConfigDict, topology: Topology) -> None:
    """Raises UserError if the recipe cannot run on this topology, or leaves config.model.vocab_size to a corpus."""
    config_lib.validate(config)
    if config.model_from_init:
        raise UserError(
            "config.model_from_init: True, but plan reads no model; expected False, and its sizes in config.model"
        )
    if not config.model.vocab_size:
        raise UserError(
            "config.model.vocab_size: 0, the corpus's, which plan does not read; expected the number of entries "
            "(--config.model.vocab_size=30522)"
        )
    config_lib.check_devices(config, topology.num_devices)


@_moved.renamed_members(taught="teacher_params")
@dataclasses.dataclass(frozen=True)
class Lowered:
    """Holds the traced step of a phase: the compiler's input, and shapes with shardings of its arguments.

    Attributes:
      step: the traced training step.
      topology: the topology to compile for.
      phase: the phase.
      objective: the objective, whose specs and FLOPs a plan reports.
      state, batch: shapes with shardings of the step's arguments.
      devices: the topology's devices in the mesh's order.
      teacher_params: a list with the shapes of a teacher's parameters; empty without a teacher.
    """

    step: jax.stages.Lowered
    topology: Topology
    phase: config_lib.Phase
    objective: objective_lib.Objective
    state: dict
    batch: dict[str, jax.ShapeDtypeStruct]
    devices: list
    teacher_params: list


def compile_phase(config: ml_collections.ConfigDict, topology: Topology, phase: config_lib.Phase) -> Compiled:
    """Compiles the training step of a phase for a topology.

    Raises:
      UserError: the recipe cannot run there, or the compiler refuses it for another reason than memory.
    """
    began = time.perf_counter()
    lowered = lower_phase(config, topology, phase)
    try:
        compiled = read(lowered.step.compile(devices_lib.compiler_options(topology)), lowered)
    except JaxRuntimeError as error:
        needed = needed_by_message(str(error), bytes_on_device((lowered.state, lowered.batch, lowered.teacher_params)))
        if needed is None:
            line = str(error).strip().splitlines()[0]
            raise UserError(f"{topology.label}{phase.name}: the compiler refuses the step: {line[:500]}") from error
        compiled = _before_compiling(lowered, needed)
    return dataclasses.replace(compiled, seconds=time.perf_counter() - began)


def lower_phase(config: ml_collections.ConfigDict, topology: Topology, phase: config_lib.Phase) -> Lowered:
    """Traces the training step of a phase for a topology's devices."""
    num_steps = config_lib.num_steps(config)
    config = config_lib.in_phase(config, phase)
    platform = "cuda" if topology.chip.is_gpu else "tpu"
    mesh = sharding.make_mesh(config.mesh, devices_lib.devices(topology))
    model = model_lib.build(
        config.model, config.model.vocab_size, **objective_lib.heads(config.objective), platform=platform
    )
    if _attention_kernel(model.spec, phase.data.batch_size, phase.data.sequence_length) == "cudnn":
        raise UserError(
            f"config.model.attention_kernel: {config.model.attention_kernel} is cuDNN's kernel here, which compiles on "
            "a machine with a GPU alone; expected tile or xla (--config.model.attention_kernel=tile needs as little "
            "memory)"
        )
    teacher = teacher_lib.read(config, mesh)
    teacher_model = None
    if teacher is not None:
        teacher_spec = dataclasses.replace(teacher.model.spec, platform=platform, dtype=model.spec.dtype)
        teacher_model = dataclasses.replace(teacher.model, spec=teacher_spec)
    learner = step_lib.Learner.from_config(config, model, mesh, num_steps, teacher_model)
    state = learner.abstract_state()
    layout = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
        for name, (shape, dtype) in batch_shapes(config, phase.data).items()
    }
    key = jax.eval_shape(lambda: learner.dropout_key)
    teacher_params = [_placed(teacher.params, mesh)] if teacher else []
    lowered = learner.train_step().lower(state, batch, jax.ShapeDtypeStruct((), np.int32), key, *teacher_params)
    return Lowered(lowered, topology, phase, learner.objective, state, batch, list(mesh.devices.flat), teacher_params)


def _attention_kernel(spec, rows, sequence):
    mask = AttentionMask(np.ones((rows, sequence), bool), padding_last=True)
    return choose_kernel(spec, sequence, mask, dropping=True)


def _placed(params, mesh):
    layout = sharding.tree_shardings(params, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), params, layout
    )


def read(executable: jax.stages.Compiled, lowered: Lowered) -> Compiled:
    """Reads memory, collectives, traffic and products of a compiled step."""
    program = hlo.parse(executable.as_text() or "")
    memory = _memory(executable.memory_analysis(), lowered)
    products, kernels = traffic.multiplied(program)
    return dataclasses.replace(
        _before_compiling(lowered, memory.needed),
        memory=memory,
        collectives=tuple(collectives_lib.collectives(program, lowered.topology, lowered.devices)),
        hbm_bytes=traffic.hbm_bytes(program),
        products=products,
        kernels=kernels,
        timeline=timeline_lib.timeline(program, lowered.topology, lowered.devices),
        unknown_loops=len(program.unknown_loops),
    )


def needed_by_message(message: str, held: int) -> int | None:
    """Returns the bytes that a program needs, from the compiler's message that it does not fit.

    Args:
      message: the compiler's message.
      held: bytes of the program's arguments, which a message about temporaries alone does not count.

    Returns:
      bytes; None if the message says something else.
    """
    if "RESOURCE_EXHAUSTED" not in message or "hbm" not in message.lower():
        return None
    used = re.search(r"Used ([\d.]+)([KMGT]?) of", message)
    size = used or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds", message)
    if size is None:
        return None
    needed = int(float(size[1]) * 1024 ** " KMGT".index(size[2] or " "))
    return needed if used else needed + held


def _before_compiling(lowered, needed):
    """Returns what is known of a step before it is compiled, with the bytes that it needs."""
    data, labels = lowered.phase.data, lowered.batch.get("masked_labels")
    return Compiled(
        needed=needed,
        usable=lowered.topology.chip.usable_hbm,
        spec=lowered.objective.specs[0],
        other_specs=lowered.objective.specs[1:],
        parameters=model_lib.parameter_count(lowered.state["params"]),
        rows=data.batch_size,
        sequence=data.sequence_length,
        slots=data.sequence_length if labels is None else labels.shape[1],
        model_flops=lowered.objective.flops(lowered.batch),
        state=bytes_on_device(lowered.state),
    )


def _memory(analysis, lowered):
    parameters = bytes_on_device((lowered.state["params"], lowered.teacher_params))
    optimizer = bytes_on_device(lowered.state["opt_state"])
    rows = bytes_on_device(lowered.batch)
    return Memory(
        parameters=parameters,
        optimizer=optimizer,
        batch=rows,
        padding=analysis.argument_size_in_bytes - parameters - optimizer - rows,
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        program=analysis.generated_code_size_in_bytes,
        peak=analysis.peak_memory_in_bytes,
    )
