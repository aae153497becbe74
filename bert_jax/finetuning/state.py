"""Holds the state of several seeds fine-tuned side by side: its arrays, their shardings, and checkpoints' items.

The state is a plain dict. Each leaf has an axis of seeds in front, except those of `frozen`, which all seeds share:

    params, opt_state   the trained parameters (see trainable.py), and their moments
    best                params as they were at each seed's best evaluation
    frozen              the other parameters
    bad_step            int32 [seeds], the first step whose loss or gradient was not finite; -1 while all were
    active              bool [seeds], whether the seed still learns

Checkpoints hold params, opt_state and frozen as they are, and each seed's best parameters in an item of its own, best-0
and so on, so that one seed's model can be loaded alone.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bert_jax import sharding
from bert_jax.errors import UserError
from bert_jax.finetuning import trainable
from bert_jax.model import Model, parameters
from bert_jax.training import step as step_lib


@dataclasses.dataclass(eq=False)
class StateLayout:
    """Lays the state of several seeds out on a mesh and in checkpoints.

    Attributes:
      model: the model, with the task's head.
      tuning: config.tuning.
      optimizer: maps gradients of one seed to updates.
      seeds: the seeds.
      mesh: the mesh of the state.
    """

    model: Model
    tuning: Mapping
    optimizer: optax.GradientTransformation
    seeds: Sequence[int]
    mesh: Mesh

    def init(self, source: Mapping) -> tuple[dict, list[str], list[str]]:
        """Makes the state at step 0.

        Args:
          source: parameters of the model to start from; {} to draw every one.

        Returns:
          (state, names of the parameters that each seed drew, names of the source's parameters that have no place).

        Raises:
          UserError: config.tuning.freeze would keep parameters that are drawn.
        """
        reinit = trainable.reinitialised_pattern(self.tuning, self.model.spec)
        taken, draw, fresh, left = parameters.fit_parameters(self.model, source, reinit)
        random = sorted(self.frozen.intersection(fresh))
        if random:
            raise UserError(
                f"config.tuning: would keep {random[0]} as it is ({len(random)} such), but it is fresh; expected "
                "parameters that the model of config.init_from has"
            )
        trained, frozen = trainable.split_params(taken, self.frozen)
        keys = [step_lib.keys(seed)[0] for seed in self.seeds]
        drawn = [parameters.merge_trees(draw(key), trainable.init_adapters(self.tuning, frozen, key)) for key in keys]
        shardings = self.shardings
        trained = sharding.put(trained, sharding.tree_shardings(trained, self.mesh))
        drawn = sharding.put(drawn, sharding.replicated(self.mesh))

        def stacked(trained, drawn):
            shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (len(drawn), *leaf.shape)), trained)
            return parameters.merge_trees(shared, jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn))

        params = jax.jit(stacked, out_shardings=shardings["params"])(trained, drawn)
        state = {
            "params": params,
            "opt_state": jax.jit(jax.vmap(self.optimizer.init), out_shardings=shardings["opt_state"])(params),
            "best": jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings["best"])(params),
            "frozen": sharding.put(frozen, shardings["frozen"]),
        }
        return state | self.flags(np.full(len(self.seeds), -1), np.ones(len(self.seeds), bool)), fresh, left

    def flags(self, bad_step: np.ndarray, active: np.ndarray) -> dict[str, jax.Array]:
        """Returns the part of the state that checkpoints do not hold.

        Args:
          bad_step: int [seeds], the first step that was not finite; -1 if none.
          active: bool [seeds], whether the seed still learns.
        """
        arrays = {"bad_step": np.asarray(bad_step, np.int32), "active": np.asarray(active, bool)}
        return sharding.put(arrays, sharding.replicated(self.mesh))

    def to_items(self, state: Mapping) -> dict:
        """Returns a checkpoint's items: the state, with each seed's best parameters in an item of its own."""
        return {name: state[name] for name in self._whole_items} | self._split_best(state["best"])

    def from_items(self, items: Mapping, bad_step: np.ndarray, active: np.ndarray) -> dict:
        """Returns the state of a checkpoint's items; `bad_step` and `active` [seeds] are those of `flags`."""
        best = self._stack_best([items[name] for name in self._best_items])
        state = {name: items[name] for name in self._whole_items}
        return state | {"frozen": state.get("frozen", {}), "best": best} | self.flags(bad_step, active)

    def abstract_items(self) -> dict:
        """Returns shape, dtype and sharding of every array in a checkpoint's items."""
        layouts, state = self.shardings, self.shapes

        def described(tree, layouts):
            return jax.tree.map(
                lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout), tree, layouts
            )

        best = described(self._seed_shapes, sharding.tree_shardings(self._seed_shapes, self.mesh))
        items = {name: described(state[name], layouts[name]) for name in self._whole_items}
        return items | dict.fromkeys(self._best_items, best)

    @functools.cached_property
    def _whole_items(self):
        """Returns the names of the parts of the state that are saved whole; parts without arrays are not saved."""
        return [name for name in ("params", "opt_state", "frozen") if jax.tree.leaves(self.shapes[name])]

    @property
    def _best_items(self):
        return [f"best-{i}" for i in range(len(self.seeds))]

    @functools.cached_property
    def _split_best(self):
        layouts = self.abstract_items()

        def slice_of(best, i):
            return jax.tree.map(lambda leaf: leaf[i], best)

        return jax.jit(
            lambda best: {name: slice_of(best, i) for i, name in enumerate(self._best_items)},
            out_shardings={name: jax.tree.map(lambda leaf: leaf.sharding, layouts[name]) for name in self._best_items},
        )

    @functools.cached_property
    def _stack_best(self):
        return jax.jit(
            lambda parts: jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts),
            out_shardings=self.shardings["best"],
        )

    def parts(self) -> tuple[dict, dict]:
        """Returns the shapes of the (trained, frozen) parameters of one seed, adapters included."""
        return self._seed_shapes, self.shapes["frozen"]

    def place(self, params: Mapping, frozen: Mapping) -> tuple[dict, dict]:
        """Puts the (trained, frozen) parameters of one model on the mesh, as those of the only seed."""
        stacked = jax.tree.map(lambda leaf: leaf[None], params)
        return sharding.put(stacked, self.shardings["params"]), sharding.put(frozen, self.shardings["frozen"])

    @functools.cached_property
    def frozen(self) -> frozenset[str]:
        """Returns the paths of the parameters that are not trained."""
        params = self.model.shapes()
        return trainable.frozen_names(params, self.tuning)

    @functools.cached_property
    def _seed_shapes(self):
        """Returns the shapes of the trained parameters of one seed."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.shapes["best"])

    @functools.cached_property
    def shapes(self) -> dict:
        """Returns the shapes and dtypes of the state, without its values."""

        def make():
            trained, frozen = trainable.split_params(self.model.init(jax.random.key(0)), self.frozen)
            trained = parameters.merge_trees(trained, trainable.init_adapters(self.tuning, frozen, jax.random.key(0)))
            stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (number, *leaf.shape)), trained)
            opt_state = jax.vmap(self.optimizer.init)(stacked)
            flags = {"bad_step": jnp.zeros(number, jnp.int32), "active": jnp.zeros(number, bool)}
            return {"params": stacked, "opt_state": opt_state, "best": stacked, "frozen": frozen} | flags

        number = len(self.seeds)
        return jax.eval_shape(make)

    @functools.cached_property
    def shardings(self) -> dict:
        """Returns the shardings of every array of the state."""
        return {
            name: sharding.tree_shardings(tree, self.mesh, leading=0 if name == "frozen" else 1)
            if isinstance(tree, tuple | Mapping)
            else sharding.replicated(self.mesh)
            for name, tree in self.shapes.items()
        }


@jax.jit
def all_finite(params: dict) -> jax.Array:
    """Returns whether every parameter of a seed is a finite number, bool [seeds]; leaves of `params` [seeds, ...]."""
    leaves = jax.tree.leaves(params)
    return jnp.stack([jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in leaves]).all(0)
