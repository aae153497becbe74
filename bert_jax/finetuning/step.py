"""Compiles a fine-tuning step and an evaluation step for several seeds side by side, for a mesh.

state.py describes the state. A seed that is not active, or that met a number that is not finite, keeps its parameters.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax import _moved, sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.config.finetuning_keys import LATE_POOLING, SPARSE_POOLING
from bert_jax.data.tasks import batches
from bert_jax.data.tasks.vector_sets import OTHERS
from bert_jax.finetuning import losses, trainable
from bert_jax.finetuning.ranking_losses import RankingLoss
from bert_jax.finetuning.state import StateLayout
from bert_jax.finetuning.vector_losses import VectorLoss
from bert_jax.model import Model, flops, parameters
from bert_jax.training import cached_gradients, compiler, throughput
from bert_jax.training import step as step_lib
from bert_jax.training.optimizer import make_optimizer, make_schedule

MOVING = ("params", "opt_state", "bad_step")  # what a step replaces of the state


@_moved.renamed_members(
    init_state="layout.init", marks="layout.flags", parts="layout.parts", place="layout.place",
    to_items="layout.to_items", from_items="layout.from_items", abstract_items="layout.abstract_items",
)  # fmt: skip
@dataclasses.dataclass
class Learner:
    """Compiles the steps of several seeds of one model on a mesh.

    Attributes:
      config: a fine-tuning config; reads seeds_at_once, optimizer, tuning and train.microbatches.
      model: the model, with the task's head.
      problem: problem of sequence classification, such as "single_label"; the loss of an embedder or a reranker; "" for
        other tasks.
      seeds: the seeds that train side by side.
      mesh: the mesh of state and batch.
      num_steps: number of steps of the whole run.
    """

    config: Any
    model: Model
    problem: str
    seeds: Sequence[int]
    mesh: Mesh
    num_steps: int

    @functools.cached_property
    def layout(self) -> StateLayout:
        """Returns the layout of the seeds' state on the mesh and in checkpoints."""
        return StateLayout(self.model, self.config.tuning, self._optimizer, self.seeds, self.mesh)

    def dropout_keys(self) -> jax.Array:
        """Returns each seed's dropout key, PRNG keys [seeds]: the same at every step, and after a restart."""
        return jnp.stack([step_lib.keys(seed)[1] for seed in self.seeds])

    @functools.cached_property
    def train_step(self) -> Callable:
        """Returns a compiled function (state, batch, step, keys) -> (state, metrics); it consumes what it replaces.

        `batch` holds arrays [seeds, batch, ...], `step` is an int32 scalar, `keys` are `dropout_keys()`. The metrics
        are learning_rate, a scalar; loss and grad_norm (before clipping) [seeds]; and for packed batches those of
        throughput.padding_shares. Losses and gradients are sums over a seed's whole batch divided by its count,
        whatever the number of microbatches and shards.
        """
        return self._advance

    def _advance(self, state, batch, step, keys):
        moving = {name: state[name] for name in MOVING}
        moved, metrics = self.compiled_step(moving, state["active"], state["frozen"], batch, step, keys)
        return state | moved, metrics

    @functools.cached_property
    def compiled_step(self) -> jax.stages.Wrapped:
        """Returns `train_step`'s compiled (moving, active, frozen, batch, step, keys) -> (moving, metrics).

        `moving` is the part of the state that a step replaces: params, opt_state and bad_step.
        """
        config = self.config
        optimizer, schedule = self._optimizer, make_schedule(self._rates, self.num_steps)

        def seed_step(current, active, batch, key, frozen, step):
            def merged(trained):
                return parameters.merge_adapters(parameters.merge_trees(trained, frozen), config.tuning)

            params, opt_state, bad_step = current["params"], current["opt_state"], current["bad_step"]
            key = jax.random.fold_in(key, step)
            loss, grads, course = self._loss_and_gradient(merged, params, batch, key, step)
            updates, moved = optimizer.update(grads, opt_state, params)
            grad_norm = optax.tree.norm(grads)
            learns = active & (bad_step < 0)
            finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

            def kept(new, old):
                return jnp.where(learns & finite, new, old)

            current = {
                "params": jax.tree.map(kept, optax.apply_updates(params, updates), params),
                "opt_state": jax.tree.map(kept, moved, opt_state),
                "bad_step": jnp.where(learns & ~finite, step, bad_step),
            }
            metrics = {"loss": loss, "grad_norm": grad_norm} | course
            return current, metrics | throughput.padding_shares(batch, batches.buckets(config))

        def step_on_mesh(moving, active, frozen, batch, step, keys):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                moved, metrics = self._over_seeds(
                    lambda current, learns, rows, key: seed_step(current, learns, rows, key, frozen, step),
                    moving, active, batch, keys,
                )  # fmt: skip
            return moved, metrics | {"learning_rate": schedule(step)}

        shardings, replicated = self.layout.shardings, sharding.replicated(self.mesh)
        moving = {name: shardings[name] for name in MOVING}
        return jax.jit(
            step_on_mesh,
            in_shardings=(moving, replicated, shardings["frozen"], self.batch_sharding, replicated, replicated),
            out_shardings=(moving, replicated),
            donate_argnums=0,
            compiler_options=compiler.options_for(self.mesh),
        )

    def _loss_and_gradient(self, merged, params, batch, key, step):
        """Returns (loss, its gradient by the trained parameters, further metrics) of one seed's batch.

        Args:
          merged: maps trained parameters to all parameters of the model.
          params: the trained parameters.
          batch: arrays [batch, ...].
          key: dropout key of the step.
          step: number of the step, int32.
        """
        config, model, problem = self.config, self.model, self.problem
        if config.task.name == "embedding":
            pooling = model.spec.task.pooling if model.spec.task else ""
            growing = config.loss.flops_growth * self.num_steps
            cost_share = jnp.square(jnp.minimum(1.0, step.astype(jnp.float32) / growing)) if growing else 1.0
            objective = VectorLoss(
                model, config.loss, problem, config.task.normalize, pooling in SPARSE_POOLING, cost_share,
                pooling == LATE_POOLING,
            )  # fmt: skip
            (loss, course), gradient = cached_gradients.value_and_gradient(
                lambda trained, rows, numbers: objective.encode(merged(trained), rows, numbers, key),
                lambda trained, vectors: objective.loss(merged(trained), vectors, batch),
                params, batch, config.loss.gradcache_rows,
            )  # fmt: skip
            return loss, gradient, course
        if config.task.name == "reranking":
            ranking = RankingLoss(model, config.loss, problem)
            counts = ranking.counts(batch)

            def means_of(trained, rows, key):
                sums = ranking.sums(merged(trained), rows, key)
                means = {name: total / counts[name] for name, total in sums.items()}
                return means["loss"], means

            gradient, means = step_lib.gradient_and_sums(means_of, params, batch, key, config.train.microbatches)
            return means.pop("loss"), gradient, means
        count = jnp.maximum(losses.loss_denominator(batch, model, problem), 1.0)

        def loss_of(trained, rows, key):
            loss = losses.loss_sum(model, merged(trained), rows, problem, key) / count
            return loss, loss

        gradient, loss = step_lib.gradient_and_sums(loss_of, params, batch, key, config.train.microbatches)
        return loss, gradient, {}

    @functools.cached_property
    def eval_step(self) -> jax.stages.Wrapped:
        """Returns a compiled function (params, frozen, batch) -> (outputs [seeds, batch, ...], finite [seeds]).

        `batch` holds arrays [batch, ...], the same for each seed; see losses.task_outputs.
        """

        def seed_outputs(trained, frozen, batch):
            params = parameters.merge_adapters(parameters.merge_trees(trained, frozen), self.config.tuning)
            return losses.task_outputs(self.model, params, batch)

        def evaluate(params, frozen, batch):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return self._over_seeds(lambda trained: seed_outputs(trained, frozen, batch), params)

        shardings, replicated = self.layout.shardings, sharding.replicated(self.mesh)
        outputs = self.batch_sharding if jax.process_count() == 1 else replicated  # every process reads all of them
        return jax.jit(
            evaluate,
            in_shardings=(shardings["params"], shardings["frozen"], sharding.batch_sharding(self.mesh)),
            out_shardings=(outputs, replicated),
        )

    @functools.cached_property
    def keep_best(self) -> Callable:
        """Returns a compiled function (best, params, better [seeds]) -> best; it consumes the old one."""

        def keep(best, params, better):
            def kept(new, old):
                return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return jax.tree.map(kept, params, best)

        layout = self.layout.shardings["params"]
        return jax.jit(
            keep,
            in_shardings=(layout, layout, sharding.replicated(self.mesh)),
            out_shardings=layout,
            donate_argnums=0,
        )

    def flops(self, batch: Mapping) -> float:
        """Returns the FLOPs of a step on a batch, arrays [seeds, batch, ...]."""
        passes = self._passes + (self.config.loss.gradcache_rows > 0)  # vectors are computed twice
        total = 0.0
        for name in ("input_ids", OTHERS + "input_ids"):
            if name in batch:
                *rows, sequence = batch[name].shape
                total += flops.step_flops(self.model.spec, math.prod(rows), sequence, 0, passes)
        return 2 * total if self.problem == "denoising" else total  # the layers also rebuild the text

    @functools.cached_property
    def _passes(self):
        return trainable.forward_passes(parameters.merge_trees(*self.layout.parts()), self.layout.frozen)

    @property
    def batch_sharding(self) -> jax.sharding.NamedSharding:
        """Returns the sharding of arrays [seeds, batch, ...]."""
        return sharding.batch_sharding(self.mesh, leading=1)

    def _over_seeds(self, function, *arguments):
        """Calls `function` on each seed's slice of trees and stacks the results; seeds_at_once of them side by side."""
        number, at_once = len(self.seeds), self.config.seeds_at_once or len(self.seeds)
        if number == 1:
            result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
            return jax.tree.map(lambda leaf: leaf[None], result)
        if at_once >= number:
            return jax.vmap(function)(*arguments)
        batches = {} if at_once == 1 else {"batch_size": at_once}
        return jax.lax.map(lambda slices: function(*slices), arguments, **batches)

    @functools.cached_property
    def _optimizer(self):
        settings = self.config.optimizer
        share = trainable.rate_multiplier(settings.layer_decay, self.model.spec, settings["layer_decay_offset"])
        return make_optimizer(self._rates, self.num_steps, share)

    @functools.cached_property
    def _rates(self):
        """Returns the settings of config.optimizer, the warm-up in steps."""
        rates = dict(self.config.optimizer)
        return rates | {"warmup_steps": finetune_config.warmup_steps(rates, self.num_steps)}
