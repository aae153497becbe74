"""Lowers the programs of a fine-tuning run for training.memory, which estimates what they need."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bert_jax import sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.data.tasks import TaskData, batches
from bert_jax.finetuning.step import MOVING, Learner
from bert_jax.runs.models import build_fine_tuned
from bert_jax.training import lowering


@dataclasses.dataclass
class FinetuningSteps:
    """Lowers the programs of a fine-tuning run; see training.lowering.Steps.

    Where the lowest layers are frozen, the layers that count are those above: only they keep arrays for gradients.

    Attributes:
      config: the run's config.
      mesh: the run's mesh.
      description: content of run.json.
      task: the task's data.
    """

    config: ml_collections.ConfigDict
    mesh: Mesh
    description: Mapping[str, Any]
    task: TaskData

    def __post_init__(self):
        self._learners: dict[tuple[int, int], Learner] = {}  # by numbers of layers and of microbatches

    @property
    def layers(self) -> int:
        """Returns the number of layers that are trained."""
        return self.description["model"]["num_layers"] - self._frozen_layers

    @property
    def few(self) -> tuple[int, int]:
        """Returns two small numbers of layers, from whose steps those of all layers are extrapolated."""
        return lowering.few_layers(self.description["model"])

    def changed(self, change: Mapping[str, Any]) -> "FinetuningSteps":
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(dict(change))
        description = copy.deepcopy(dict(self.description))
        if "model.remat" in change:
            description["model"]["remat"] = change["model.remat"]
        return dataclasses.replace(self, config=config, description=description)

    def state_bytes(self, layers: int) -> int:
        return lowering.bytes_on_device(self._placed_state(self._learner(layers)))

    def frozen_bytes(self) -> int:
        if not self._frozen_layers:
            return 0
        first, second = (lowering.bytes_on_device(self._placed_state(self._learner(n))["params"]) for n in (1, 2))
        return (second - first) // len(self.config_seeds) * self._frozen_layers

    def rough(self) -> int:
        spec = build_fine_tuned(self.description).spec
        state = lowering.extrapolated(self.state_bytes, self) + self.frozen_bytes()
        shards = sharding.num_shards(self.mesh, sharding.BATCH_AXES)
        seeds = self.config.seeds_at_once or len(self.config_seeds)
        texts, _ = self._row_shapes(self._length, self.task.train)["input_ids"]
        rows = self.config.data.batch_size / shards * math.prod(texts[:-1])  # a reranker: all documents of each query
        train = rows / max(1, self.config.train.microbatches)
        evaluated = (self.config.train.eval_batch_size or self.config.data.batch_size) / shards
        length = self._length
        step = lowering.largest_arrays(spec, train, length, 0)
        evaluation = lowering.largest_arrays(spec, evaluated, length, 0, backward=False)
        return round(3 * state + seeds * max(step, evaluation))

    def train(self, layers: int) -> tuple[Any, int]:
        learner = self._learner(layers)
        state = self._placed_state(learner)
        moving = {name: state[name] for name in MOVING}
        lowered = learner.compiled_step.lower(
            moving, state["active"], state["frozen"], self._train_batch(learner),
            jax.ShapeDtypeStruct((), np.int32), jax.eval_shape(learner.dropout_keys),
        )  # fmt: skip
        return lowered, lowering.bytes_on_device(state["best"])

    def evaluation(self, layers: int) -> tuple[Any, int]:
        learner = self._learner(layers)
        state = self._placed_state(learner)
        rows = self.config.train.eval_batch_size or self.config.data.batch_size
        longest = max(int(examples.lengths.max(initial=1)) for examples in self.task.held_out.values())
        held_out = next(iter(self.task.held_out.values()))
        shapes = self._row_shapes(batches.bucket(self.config, longest), held_out)
        layout = sharding.batch_sharding(self.mesh)
        batch = {
            name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=layout)
            for name, (shape, dtype) in shapes.items()
        }
        lowered = learner.eval_step.lower(state["params"], state["frozen"], batch)
        return lowered, lowering.bytes_on_device([state["opt_state"], state["best"]])

    def batch_sizes(self) -> list[int]:
        return [self.config.data.batch_size]

    @property
    def config_seeds(self) -> range:
        """Returns the run's seeds."""
        return range(self.config.seed, self.config.seed + self.config.seeds)

    @property
    def _frozen_layers(self):
        return finetune_config.frozen_layers(self.config.tuning.freeze) or 0

    @property
    def _length(self):
        return batches.bucket(self.config, int(self.task.train.lengths.max(initial=1)))

    def _learner(self, layers) -> Learner:
        key = layers, self.config.train.microbatches
        if key not in self._learners:
            self._learners[key] = self._make_learner(layers)
        return self._learners[key]

    def _make_learner(self, layers):
        config = self.config.copy_and_resolve_references()
        if self._frozen_layers:
            config.tuning.freeze = "layers:0"
        config.tuning.reinit_layers = min(config.tuning.reinit_layers, layers)
        description = dict(self.description) | {"model": self.description["model"] | {"num_layers": layers}}
        model = build_fine_tuned(description)
        num_steps = finetune_config.num_steps(config, len(self.task.train.lengths))
        return Learner(config, model, self.task.problem, self.config_seeds, self.mesh, num_steps)

    def _placed_state(self, learner):
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            learner.layout.shapes,
            learner.layout.shardings,
        )

    def _row_shapes(self, length, examples):
        """Returns (shape of a row, dtype) of every array of a batch of a split without packing."""
        batch = examples.batch(np.array([-1]), length)
        return {name: (array.shape[1:], array.dtype) for name, array in batch.items()}

    def _train_batch(self, learner):
        seeds = self.config_seeds
        if self.config.data.packing:
            unit = max(1, self.config.train.microbatches) * sharding.num_shards(self.mesh, sharding.BATCH_AXES)
            arrays = batches.train_batch(self.config, self.task, seeds, 0, unit=unit)
            shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        else:
            rows = self.config.data.batch_size
            shapes = {
                name: ((len(seeds), rows, *shape), dtype)
                for name, (shape, dtype) in self._row_shapes(self._length, self.task.train).items()
            }
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=learner.batch_sharding)
            for name, (shape, dtype) in shapes.items()
        }
