"""A fine-tuning step and an evaluation step for several seeds side by side, compiled for a mesh.

The state is a plain dict. Each leaf has an axis of seeds in front, except those of `frozen`, which all seeds share:

    params, opt_state   the trained parameters (see trainable.py), and their moments
    best                params as they were at each seed's best evaluation
    frozen              the other parameters
    bad_step            int32 [seeds], the first step whose loss or gradient was not finite; -1 while all were
    active              bool [seeds], whether the seed still learns

A seed that is not active, or that met a number that is not finite, keeps the parameters that it has.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bert_jax import sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.data.tasks import batches
from bert_jax.errors import UserError
from bert_jax.finetuning import losses, trainable
from bert_jax.model import Model, flops, parameters
from bert_jax.training import step as step_lib
from bert_jax.training import throughput
from bert_jax.training.optimizer import make_optimizer, make_schedule


@jax.jit
def all_finite(params: dict) -> jax.Array:
    """Returns whether every parameter of a seed is a finite number, bool [seeds]; leaves of `params` [seeds, ...]."""
    leaves = jax.tree.leaves(params)
    return jnp.stack([jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in leaves]).all(0)


@dataclasses.dataclass
class Learner:
    """Makes the state of several seeds of one model on a mesh, and compiles their steps.

    Attributes:
      config: a fine-tuning config; reads seeds_at_once, optimizer, tuning and train.microbatches.
      model: the model, with the task's head.
      problem: problem of sequence classification, such as "single_label"; "" for other tasks.
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

    def init_state(self, source: Mapping) -> tuple[dict, list[str], list[str]]:
        """Makes the state at step 0.

        Args:
          source: parameters of the model to start from; {} to draw every one.

        Returns:
          (state, names of the parameters that each seed drew, names of the source's parameters that have no place).

        Raises:
          UserError: config.tuning.freeze would keep parameters that are drawn.
        """
        reinit = trainable.reinitialised_pattern(self.config.tuning, self.model.spec)
        taken, draw, fresh, left = parameters.fit_parameters(self.model, source, reinit)
        random = sorted(self._frozen.intersection(fresh))
        if random:
            raise UserError(
                f"config.tuning: would keep {random[0]} as it is ({len(random)} such), but it is fresh; expected "
                "parameters that the model of config.init_from has"
            )
        trained, frozen = trainable.split_params(taken, self._frozen)
        keys = [step_lib.keys(seed)[0] for seed in self.seeds]
        drawn = [
            parameters.merge_trees(draw(key), trainable.init_adapters(self.config.tuning, frozen, key)) for key in keys
        ]
        shardings = self._shardings
        trained = sharding.put(trained, sharding.tree_shardings(trained, self.mesh))
        drawn = sharding.put(drawn, sharding.replicated(self.mesh))

        def stacked(trained, drawn):
            shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (len(drawn), *leaf.shape)), trained)
            return parameters.merge_trees(shared, jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn))

        params = jax.jit(stacked, out_shardings=shardings["params"])(trained, drawn)
        state = {
            "params": params,
            "opt_state": jax.jit(jax.vmap(self._optimizer.init), out_shardings=shardings["opt_state"])(params),
            "best": jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings["best"])(params),
            "frozen": sharding.put(frozen, shardings["frozen"]),
        }
        return state | self.seed_flags(np.full(len(self.seeds), -1), np.ones(len(self.seeds), bool)), fresh, left

    def seed_flags(self, bad_step: np.ndarray, active: np.ndarray) -> dict[str, jax.Array]:
        """Returns the part of the state that checkpoints do not hold.

        Args:
          bad_step: int [seeds], the first step that was not finite; -1 if none.
          active: bool [seeds], whether the seed still learns.
        """
        flags = {"bad_step": np.asarray(bad_step, np.int32), "active": np.asarray(active, bool)}
        return sharding.put(flags, sharding.replicated(self.mesh))

    def to_items(self, state: Mapping) -> dict:
        """Returns a checkpoint's items: the state, with each seed's best parameters in an item of its own."""
        return {name: state[name] for name in self._whole} | self._apart(state["best"])

    def from_items(self, items: Mapping, bad_step: np.ndarray, active: np.ndarray) -> dict:
        """Returns the state of a checkpoint's items; `bad_step` and `active` [seeds] are those of `seed_flags`."""
        best = self._together([items[name] for name in self._best])
        whole = {name: items[name] for name in self._whole}
        return whole | {"frozen": whole.get("frozen", {}), "best": best} | self.seed_flags(bad_step, active)

    def abstract_items(self) -> dict:
        """Returns shape, dtype and sharding of every array in a checkpoint's items."""
        layouts, state = self._shardings, self._shapes

        def described(tree, layouts):
            return jax.tree.map(
                lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout), tree, layouts
            )

        best = described(self._one, sharding.tree_shardings(self._one, self.mesh))
        return {name: described(state[name], layouts[name]) for name in self._whole} | dict.fromkeys(self._best, best)

    @functools.cached_property
    def _whole(self):
        """Names of the parts of the state that are saved as they are; a part without arrays is not saved."""
        return [name for name in ("params", "opt_state", "frozen") if jax.tree.leaves(self._shapes[name])]

    @property
    def _best(self):
        return [f"best-{i}" for i in range(len(self.seeds))]

    @functools.cached_property
    def _apart(self):
        layouts = self.abstract_items()

        def slice_of(best, i):
            return jax.tree.map(lambda leaf: leaf[i], best)

        return jax.jit(
            lambda best: {name: slice_of(best, i) for i, name in enumerate(self._best)},
            out_shardings={name: jax.tree.map(lambda leaf: leaf.sharding, layouts[name]) for name in self._best},
        )

    @functools.cached_property
    def _together(self):
        return jax.jit(
            lambda parts: jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts),
            out_shardings=self._shardings["best"],
        )

    def dropout_keys(self) -> jax.Array:
        """Returns each seed's dropout key, PRNG keys [seeds]: the same at every step, and after a restart."""
        return jnp.stack([step_lib.keys(seed)[1] for seed in self.seeds])

    @functools.cached_property
    def train_step(self) -> Callable:
        """A compiled function (state, batch, step, keys) -> (state, metrics); it consumes the arrays that it replaces.

        `batch` holds arrays [seeds, batch, ...], `step` is an int32 scalar, `keys` are `dropout_keys()`. The metrics
        are learning_rate, a scalar, and [seeds] loss and grad_norm (before clipping); of packed batches
        padding.shares. Losses and gradients are sums over a seed's whole batch divided by its count, whatever the
        number of microbatches and shards.
        """
        config, model, problem = self.config, self.model, self.problem
        optimizer, schedule = self._optimizer, make_schedule(self._rates, self.num_steps)

        def seed_step(mine, active, batch, key, frozen, step):
            count = jnp.maximum(losses.loss_denominator(batch, model, problem), 1.0)

            def loss_of(trained, rows, key):
                params = parameters.merge_adapters(parameters.merge_trees(trained, frozen), config.tuning)
                loss = losses.loss_sum(model, params, rows, problem, key) / count
                return loss, loss

            params, opt_state, bad_step = mine["params"], mine["opt_state"], mine["bad_step"]
            key = jax.random.fold_in(key, step)
            grads, loss = step_lib.gradient_and_sums(loss_of, params, batch, key, config.train.microbatches)
            updates, moved = optimizer.update(grads, opt_state, params)
            grad_norm = optax.tree.norm(grads)
            learns = active & (bad_step < 0)
            finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

            def kept(new, old):
                return jnp.where(learns & finite, new, old)

            mine = {
                "params": jax.tree.map(kept, optax.apply_updates(params, updates), params),
                "opt_state": jax.tree.map(kept, moved, opt_state),
                "bad_step": jnp.where(learns & ~finite, step, bad_step),
            }
            return mine, {"loss": loss, "grad_norm": grad_norm} | throughput.padding_shares(
                batch, batches.buckets(config)
            )

        def step_on_mesh(moving, active, frozen, batch, step, keys):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                moved, metrics = self._over_seeds(
                    lambda mine, learns, rows, key: seed_step(mine, learns, rows, key, frozen, step),
                    moving, active, batch, keys,
                )  # fmt: skip
            return moved, metrics | {"learning_rate": schedule(step)}

        parts = ("params", "opt_state", "bad_step")
        shardings, replicated = self._shardings, sharding.replicated(self.mesh)
        moving = {name: shardings[name] for name in parts}
        compiled = jax.jit(
            step_on_mesh,
            in_shardings=(moving, replicated, shardings["frozen"], self.batch_sharding, replicated, replicated),
            out_shardings=(moving, replicated),
            donate_argnums=0,
        )

        def advance(state, batch, step, keys):
            moving = {name: state[name] for name in parts}
            moved, metrics = compiled(moving, state["active"], state["frozen"], batch, step, keys)
            return state | moved, metrics

        return advance

    @functools.cached_property
    def eval_step(self) -> Callable:
        """A compiled function (params, frozen, batch) -> (outputs [seeds, batch, ...], finite [seeds]).

        `batch` holds arrays [batch, ...], the same for each seed; see losses.task_outputs.
        """

        def seed_outputs(trained, frozen, batch):
            params = parameters.merge_adapters(parameters.merge_trees(trained, frozen), self.config.tuning)
            return losses.task_outputs(self.model, params, batch)

        def evaluate(params, frozen, batch):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return self._over_seeds(lambda trained: seed_outputs(trained, frozen, batch), params)

        shardings, replicated = self._shardings, sharding.replicated(self.mesh)
        outputs = self.batch_sharding if jax.process_count() == 1 else replicated  # every process reads all of them
        return jax.jit(
            evaluate,
            in_shardings=(shardings["params"], shardings["frozen"], sharding.batch_sharding(self.mesh)),
            out_shardings=(outputs, replicated),
        )

    @functools.cached_property
    def keep_best(self) -> Callable:
        """A compiled function (best, params, better [seeds]) -> best; it consumes the old one."""

        def keep(best, params, better):
            def kept(new, old):
                return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return jax.tree.map(kept, params, best)

        layout = self._shardings["params"]
        return jax.jit(
            keep,
            in_shardings=(layout, layout, sharding.replicated(self.mesh)),
            out_shardings=layout,
            donate_argnums=0,
        )

    def parts(self) -> tuple[dict, dict]:
        """Returns the shapes of the (trained, frozen) parameters of one seed, adapters included."""
        return self._one, self._shapes["frozen"]

    def place(self, params: Mapping, frozen: Mapping) -> tuple[dict, dict]:
        """Puts the (trained, frozen) parameters of one model on the mesh, as those of the only seed."""
        stacked = jax.tree.map(lambda leaf: leaf[None], params)
        return sharding.put(stacked, self._shardings["params"]), sharding.put(frozen, self._shardings["frozen"])

    def flops(self, batch: Mapping) -> float:
        """Returns the FLOPs of a step on a batch, arrays [seeds, batch, ...]."""
        seeds, rows, sequence = batch["input_ids"].shape
        return seeds * flops.step_flops(self.model.spec, rows, sequence, 0, self._passes)

    @functools.cached_property
    def _passes(self):
        return trainable.forward_passes(parameters.merge_trees(*self.parts()), self._frozen)

    @property
    def batch_sharding(self) -> jax.sharding.NamedSharding:
        """Sharding of arrays [seeds, batch, ...]."""
        return sharding.batch_sharding(self.mesh, leading=1)

    @functools.cached_property
    def _frozen(self):
        params = jax.eval_shape(self.model.init, jax.random.key(0))
        return trainable.frozen_names(params, self.config.tuning)

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
        share = trainable.rate_multiplier(self.config.optimizer.layer_decay, self.model.spec)
        return make_optimizer(self._rates, self.num_steps, share)

    @functools.cached_property
    def _rates(self):
        """The settings of config.optimizer, the warm-up in steps."""
        rates = dict(self.config.optimizer)
        return rates | {"warmup_steps": finetune_config.warmup_steps(rates, self.num_steps)}

    @functools.cached_property
    def _one(self):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self._shapes["best"])

    @functools.cached_property
    def _shapes(self):
        def make():
            trained, frozen = trainable.split_params(self.model.init(jax.random.key(0)), self._frozen)
            trained = parameters.merge_trees(
                trained, trainable.init_adapters(self.config.tuning, frozen, jax.random.key(0))
            )
            stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (number, *leaf.shape)), trained)
            opt_state = jax.vmap(self._optimizer.init)(stacked)
            flags = {"bad_step": jnp.zeros(number, jnp.int32), "active": jnp.zeros(number, bool)}
            return {"params": stacked, "opt_state": opt_state, "best": stacked, "frozen": frozen} | flags

        number = len(self.seeds)
        return jax.eval_shape(make)

    @functools.cached_property
    def _shardings(self):
        return {
            name: sharding.tree_shardings(tree, self.mesh, leading=0 if name == "frozen" else 1)
            if isinstance(tree, tuple | Mapping)
            else sharding.replicated(self.mesh)
            for name, tree in self._shapes.items()
        }
