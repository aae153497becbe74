"""Lowers the programs of a run for any number of layers, and counts the bytes of its arrays."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.config.objective import facts as objective_facts
from bert_jax.data import packing, stream
from bert_jax.training import step as step_lib


class Steps(Protocol):
    """Lowers the programs of a run, for models of any number of layers.

    Attributes:
      config: the run's config, of pre-training or fine-tuning.
      mesh: the run's mesh.
      layers: number of layers of the model.
      few: two numbers of layers, from which on each further layer, or group of layers, takes equally much.
    """

    config: ml_collections.ConfigDict
    mesh: Mesh

    @property
    def layers(self) -> int:
        """Returns the number of layers of the run's model."""
        ...

    @property
    def few(self) -> tuple[int, int]:
        """Returns two small numbers of layers, from whose steps those of all layers are extrapolated."""
        ...

    def changed(self, change: Mapping[str, Any]) -> "Steps":
        """Returns the steps of the same run with dotted keys of its config changed."""
        ...

    def state_bytes(self, layers: int) -> int:
        """Returns the bytes of the state on one device."""
        ...

    def rough(self) -> int:
        """Returns more bytes than the run needs on a device, by a generous count of its largest arrays."""
        ...

    def frozen_bytes(self) -> int:
        """Returns the bytes of the state that belong to frozen layers, which models of few `layers` lack."""
        ...

    def train(self, layers: int) -> tuple[Any, int]:
        """Returns the lowered training step (the largest of several), and the bytes of state that it does not read."""
        ...

    def evaluation(self, layers: int) -> tuple[Any, int]:
        """Returns the lowered evaluation (None without one), and the bytes of the state that it does not read."""
        ...

    def batch_sizes(self) -> list[int]:
        """Returns the rows of the global batches, by phase."""
        ...


def extrapolated(bytes_of: Callable[[int], int], steps: Steps) -> int:
    """Returns bytes_of(steps.layers), from models of steps.few layers where that is less work."""
    first, second = steps.few
    if steps.layers <= second or steps.config.model.scan_layers:
        return bytes_of(steps.layers)
    first_bytes, second_bytes = bytes_of(first), bytes_of(second)
    return round(first_bytes + (second_bytes - first_bytes) * (steps.layers - first) / (second - first))


def bytes_on_device(tree: Any) -> int:
    """Returns the bytes of a tree of arrays with shardings on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


def largest_arrays(
    spec: model_lib.Spec, rows: float, sequence: int, predictions: float, backward: bool = True
) -> float:
    """Returns more bytes than a pass over a batch takes on one device, by a generous count of its arrays.

    Args:
      spec: the model.
      rows: rows at a time.
      sequence: tokens of a row.
      predictions: tokens of a row whose vocabulary logits are computed.
      backward: whether the pass keeps every layer's arrays for a backward pass.
    """
    kept = 0
    if spec.task and 0 < spec.task.chunk_length < sequence:  # the vectors of chunks, or the states of tokens
        kept, sequence = 2 * sequence * spec.hidden_size, spec.task.chunk_length
    layer = 26 * spec.hidden_size + 10 * spec.intermediate_size + 12 * spec.num_heads * sequence
    layers = spec.num_layers + 2 if backward else 3
    logits = 5 * predictions * spec.vocab_size if spec.language_model else 0
    return 4.0 * rows * (sequence * layers * layer + logits + kept)


def batch_shapes(config: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> dict[str, tuple]:
    """Returns (shape, dtype) of each array of a phase's global batch, by name.

    Args:
      config: a pre-training config.
      data: config.data of the phase.
    """
    rows, sequence = data.batch_size, data.sequence_length
    names = ("input_ids", "attention_mask", "token_type_ids")
    shapes: dict[str, tuple[tuple[int, ...], type]] = {name: ((rows, sequence), np.int32) for name in names}
    slots = stream.prediction_slots(data) if objective_facts(config).masked else 0
    labels: tuple[int, ...] = (rows,)  # one for each pair
    if data.packing:
        limits = packing.limits(sequence, slots)
        slots = limits.masks
        shapes |= {name: ((rows, sequence), np.int32) for name in ("sequence_ids", "position_ids")}
        labels = (rows, limits.sequences)
        shapes["cls_positions"] = (labels, np.int32)
    if slots:
        shapes |= {name: ((rows, slots), np.int32) for name in ("masked_positions", "masked_labels")}
        shapes["masked_weights"] = ((rows, slots), np.float32)
    if data.format in config_lib.PAIR_FORMATS:
        label = "sentence_order_label" if config.objective.sentence_order else "next_sentence_label"
        shapes[label] = (labels, np.int32)
    return shapes


def few_layers(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Returns two numbers of layers between which a model grows as it does from there on.

    The first and the last layer differ in what is alive beside them, so a model of one layer tells little; and layers
    repeat after global_every or layer_windows where some see a window, and after a group where they share parameters.

    Args:
      settings: keys of config.model.
    """
    shared = settings["layer_groups"] * settings["group_layers"]
    windows = len(settings["layer_windows"]) or (settings["global_every"] if settings["local_window"] else 1)
    period = int(np.lcm(windows, shared or 1))
    first = 2 * period if shared > 1 else period + 1
    return first, first + period


@dataclasses.dataclass
class PretrainingSteps:
    """Lowers the programs of a pre-training run; see Steps.

    Attributes:
      config: the run's config, with model.vocab_size filled in.
      mesh: the run's mesh.
      teacher: the model to learn from, of distillation.
      teacher_params: its parameters, or their shapes.
      learners: the run's learner of each phase (`step.phase_learners`); () makes them where they are needed.
    """

    config: ml_collections.ConfigDict
    mesh: Mesh
    teacher: model_lib.Model | None = None
    teacher_params: Any = None
    learners: Sequence[step_lib.Learner] = ()

    def __post_init__(self):
        self._smaller: dict[int, step_lib.Learner] = {}  # learners of models with fewer layers

    @property
    def layers(self) -> int:
        """Returns the number of layers of the run's model."""
        return self.config.model.num_layers

    @property
    def few(self) -> tuple[int, int]:
        """Returns two small numbers of layers, from whose steps those of all layers are extrapolated."""
        return few_layers(self.config.model)

    def changed(self, change: Mapping[str, Any]) -> "PretrainingSteps":
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(dict(change))
        keeps = all(name.startswith("train.") for name in change)  # neither models nor optimizers depend on these
        changed = dataclasses.replace(self, config=config, learners=self.learners if keeps else ())
        if keeps:
            changed._smaller = self._smaller
        return changed

    def state_bytes(self, layers: int) -> int:
        learner = self._learner(layers)
        return bytes_on_device(learner.abstract_state()) + bytes_on_device(self._placed_teacher())

    def rough(self) -> int:
        learner, state = self._learner(self.layers), extrapolated(self.state_bytes, self)
        shards = sharding.num_shards(self.mesh, sharding.BATCH_AXES)
        specs = [*learner.objective.specs, *([self.teacher.spec] if self.teacher else [])]
        step = evaluation = 0.0
        for phase in config_lib.phases(self.config):
            data = phase.data
            rows = data.batch_size / shards / max(1, self.config.train.microbatches)
            predictions = stream.prediction_slots(data) if objective_facts(self.config).masked else data.sequence_length
            if self.teacher and self.config.distillation.positions == "all":
                predictions = data.sequence_length
            step = max(step, sum(largest_arrays(spec, rows, data.sequence_length, predictions) for spec in specs))
            rows = (self.config.train.eval_batch_size or data.batch_size) / shards
            evaluation = max(evaluation, sum(
                largest_arrays(spec, rows, data.sequence_length, predictions, backward=False) for spec in specs
            ))  # fmt: skip
        return round(3 * state + max(step, evaluation))

    def frozen_bytes(self) -> int:
        return 0

    def train(self, layers: int) -> tuple[Any, int]:
        learner = self._learner(layers)
        teacher = [self._placed_teacher()] if self.teacher else []
        return learner.train_step().lower(*self.step_arguments(self._largest_phase(), learner), *teacher), 0

    def step_arguments(self, phase: config_lib.Phase, learner: step_lib.Learner) -> tuple[Any, ...]:
        """Returns the shapes of a training step's arguments in a phase, but for a teacher's parameters."""
        key = jax.eval_shape(lambda: learner.dropout_key)
        return learner.abstract_state(), self._batch(phase.data), jax.ShapeDtypeStruct((), np.int32), key

    def evaluation(self, layers: int) -> tuple[Any, int]:
        if not self.config.train.eval_every:
            return None, 0
        phase, learner = self._largest_phase(), self._learner(layers)
        data = phase.data.copy_and_resolve_references()
        data.batch_size = self.config.train.eval_batch_size or data.batch_size
        data.mask_rate = self.config.train.eval_mask_rate or data.mask_rate
        state = learner.abstract_state()
        lowered = learner.eval_step().lower(state["params"], self._batch(data))
        return lowered, bytes_on_device([state["opt_state"], self._placed_teacher()])

    def batch_sizes(self) -> list[int]:
        return [phase.data.batch_size for phase in config_lib.phases(self.config)]

    def _largest_phase(self):
        """Returns the phase with the most tokens in a batch, and the longest rows of these."""
        return max(
            config_lib.phases(self.config),
            key=lambda phase: (phase.data.batch_size * phase.data.sequence_length, phase.data.sequence_length),
        )

    def _learner(self, layers) -> step_lib.Learner:
        """Returns the learner of the largest phase, of a model with so many layers: the run's own if it has them."""
        if layers == self.layers:
            self.learners = self.learners or step_lib.phase_learners(self.config, self.mesh, self.teacher)
            learner = self.learners[self._largest_phase().index]
        else:
            if layers not in self._smaller:
                self._smaller[layers] = self._make_smaller(layers)
            learner = self._smaller[layers]
        return learner.in_microbatches(self.config.train.microbatches)

    def _make_smaller(self, layers):
        config = config_lib.in_phase(self.config, self._largest_phase())
        config.model.num_layers = layers
        model = model_lib.build(config.model, config.model.vocab_size, **objective_lib.heads(config.objective))
        num_steps = config_lib.num_steps(self.config)
        return step_lib.Learner.from_config(config, model, self.mesh, num_steps, self.teacher)

    def _batch(self, data):
        layout = sharding.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
            for name, (shape, dtype) in batch_shapes(self.config, data).items()
        }

    def _placed_teacher(self):
        if self.teacher_params is None:
            return {}
        layout = sharding.tree_shardings(self.teacher_params, self.mesh)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            self.teacher_params,
            layout,
        )
