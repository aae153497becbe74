"""Compiles a recipe's real training step for devices that are not there, and says what the program takes."""

import dataclasses
import re
import time

import jax
import ml_collections
import numpy as np
from jax.errors import JaxRuntimeError

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.config.objective import facts as objective_facts
from bert_jax.data import loader, packing
from bert_jax.errors import UserError
from bert_jax.model.attention import choose_kernel
from bert_jax.model.kernels import AttentionMask
from bert_jax.planning import collectives as collectives_lib
from bert_jax.planning import hlo, traffic
from bert_jax.planning.chips import Topology
from bert_jax.planning.devices import devices as devices_of
from bert_jax.training import step as step_lib
from bert_jax.training import teacher as teacher_lib


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a step takes on one device, in bytes, by the compiler's account.

    Attributes:
      parameters, optimizer, batch: of the arguments, in logical sizes; the state is updated in place. A teacher's
        parameters are counted too.
      padding: of the arguments' layouts, and the step's number; less what the step was given and does not read.
      outputs: that are not in the arguments' place.
      temporaries: activations, gradients and all else that lives within the step.
      program: the generated code.
      peak: the most that is live at once, by the compiler's account.
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
        """What has to be free for the step to run."""
        state = self.parameters + self.optimizer + self.batch + self.padding
        return max(state + self.outputs + self.temporaries + self.program, self.peak)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One phase's step, compiled.

    Attributes:
      memory: on one device; None where the compiler gave up, `needed` is then all that is known.
      needed: bytes of HBM on one device.
      usable: bytes of HBM on one device that there are.
      spec: of the model that was compiled.
      rows, sequence, slots: of the global batch.
      model_flops: of the whole step, as the log's MFU counts them: nothing that is computed again.
      state: bytes of parameters and optimizer on one device.
      collectives: of a step.
      hbm_bytes: moved by a device in a step.
      products: FLOPs of a device's matrix products in a step, rematerialised ones too.
      kernels: Pallas kernels run in a step, whose products are not in `products`.
      unknown_loops: loops counted as one round.
      beside: specs of what is trained with the model: a generator.
      parameters: numbers that are trained, in all.
      seconds: that tracing and compiling took.
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
    unknown_loops: int = 0
    beside: tuple[model_lib.Spec, ...] = ()
    parameters: int = 0

    @property
    def attention_kernel(self) -> str:
        """The one that the phase's rows allow, of layers without a window."""
        rows = AttentionMask(np.ones((self.rows, self.sequence), bool), padding_last=True)
        return choose_kernel(self.spec, self.sequence, rows, dropping=True)

    @property
    def fits(self) -> bool:
        return self.memory is not None and self.needed <= self.usable


def check(config: ml_collections.ConfigDict, topology: Topology) -> None:
    """Raises UserError if the recipe cannot run on a topology of this size, or does not say its vocabulary's."""
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


def batch_shapes(config: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> dict[str, tuple]:
    """(shape, dtype) of each array of a global batch of a phase, as the loader makes it."""
    rows, sequence = data.batch_size, data.sequence_length
    shapes = {name: ((rows, sequence), np.int32) for name in ("input_ids", "attention_mask", "token_type_ids")}
    slots = loader.prediction_slots(data) if objective_facts(config).masked else 0
    if data.packing:
        most = packing.limits(sequence, slots)
        slots = most.masks
        shapes |= {name: ((rows, sequence), np.int32) for name in ("sequence_ids", "position_ids")}
        shapes["cls_positions"] = ((rows, most.sequences), np.int32)
    if slots:
        shapes |= {name: ((rows, slots), np.int32) for name in ("masked_positions", "masked_labels")}
        shapes["masked_weights"] = ((rows, slots), np.float32)
    if data.format in config_lib.PAIR_FORMATS:
        label = "sentence_order_label" if config.objective.sentence_order else "next_sentence_label"
        shapes[label] = ((rows,), np.int32)
    return shapes


@dataclasses.dataclass(frozen=True)
class Lowered:
    """One phase's step, traced for a topology: what the compiler is given, and abstract values of what it takes.

    `taught` holds the parameters of a teacher, if there is one.
    """

    step: jax.stages.Lowered
    topology: Topology
    phase: config_lib.Phase
    objective: objective_lib.Objective
    state: dict
    batch: dict[str, jax.ShapeDtypeStruct]
    devices: list
    taught: list


def compile_phase(config: ml_collections.ConfigDict, topology: Topology, phase: config_lib.Phase) -> Compiled:
    """The training step of a phase, compiled for a topology.

    Raises:
      UserError: the recipe cannot run there, or the compiler refuses it for another reason than memory.
    """
    began = time.perf_counter()
    lowered = lower_phase(config, topology, phase)
    try:
        found = read(lowered.step.compile(), lowered)
    except JaxRuntimeError as error:
        needed = needed_by_message(str(error), _held((lowered.state, lowered.batch, lowered.taught)))
        if needed is None:
            line = str(error).strip().splitlines()[0]
            raise UserError(f"{topology.label}{phase.name}: the compiler refuses the step: {line[:500]}") from error
        found = _found(lowered, needed)
    return dataclasses.replace(found, seconds=time.perf_counter() - began)


def lower_phase(config: ml_collections.ConfigDict, topology: Topology, phase: config_lib.Phase) -> Lowered:
    """The training step of a phase, traced for a topology's devices."""
    num_steps = config_lib.num_steps(config)
    mesh = sharding.make_mesh(config.mesh, devices_of(topology))
    model = model_lib.build(
        config.model, config.model.vocab_size, **objective_lib.heads(config.objective), platform="tpu"
    )
    teacher = teacher_lib.read(config, mesh)
    taught_by = teacher and dataclasses.replace(
        teacher.model, spec=dataclasses.replace(teacher.model.spec, platform="tpu", dtype=model.spec.dtype)
    )
    learner = step_lib.Learner.from_config(config, model, mesh, num_steps, taught_by)
    state = learner.abstract_state()
    layout = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
        for name, (shape, dtype) in batch_shapes(config, phase.data).items()
    }
    key = jax.eval_shape(lambda: learner.dropout_key)
    taught = [_placed(teacher.params, mesh)] if teacher else []
    lowered = learner.train_step().lower(state, batch, jax.ShapeDtypeStruct((), np.int32), key, *taught)
    return Lowered(lowered, topology, phase, learner.objective, state, batch, list(mesh.devices.flat), taught)


def _placed(params, mesh):
    layout = sharding.tree_shardings(params, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), params, layout
    )


def read(executable: jax.stages.Compiled, lowered: Lowered) -> Compiled:
    """What a compiled step takes and does."""
    program = hlo.parse(executable.as_text())
    memory = _memory(executable.memory_analysis(), lowered)
    products, kernels = traffic.multiplied(program)
    return dataclasses.replace(
        _found(lowered, memory.needed),
        memory=memory,
        collectives=tuple(collectives_lib.collectives(program, lowered.topology, lowered.devices)),
        hbm_bytes=traffic.hbm_bytes(program),
        products=products,
        kernels=kernels,
        unknown_loops=len(program.unknown_loops),
    )


def needed_by_message(message: str, held: int) -> int | None:
    """Bytes that a program would need, from the compiler's message that it does not fit; None of any other message.

    Args:
      message: the compiler's.
      held: bytes of the program's arguments, which the message about temporaries alone does not count.
    """
    if "RESOURCE_EXHAUSTED" not in message or "hbm" not in message.lower():
        return None
    used = re.search(r"Used ([\d.]+)([KMGT]?) of", message)
    found = used or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds", message)
    needed = found and int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
    return needed if used or not found else needed + held


def _found(lowered, needed):
    """What is known of a step before it is compiled, and the bytes that it needs."""
    data, labels = lowered.phase.data, lowered.batch.get("masked_labels")
    return Compiled(
        needed=needed,
        usable=lowered.topology.chip.usable_hbm,
        spec=lowered.objective.specs[0],
        beside=lowered.objective.specs[1:],
        parameters=model_lib.parameter_count(lowered.state["params"]),
        rows=data.batch_size,
        sequence=data.sequence_length,
        slots=data.sequence_length if labels is None else labels.shape[1],
        model_flops=lowered.objective.flops(lowered.batch),
        state=_held(lowered.state),
    )


def _memory(analysis, lowered):
    parameters, optimizer = _held((lowered.state["params"], lowered.taught)), _held(lowered.state["opt_state"])
    rows = _held(lowered.batch)
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


def _held(tree):
    """Bytes of a tree of arrays on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)
