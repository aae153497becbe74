"""One training step and one evaluation step, compiled for a mesh.

The state is a plain dict: `params`, `opt_state`, and `bad_step`, the first step whose loss or gradient norm was
not finite (-1 while all were). It is kept on the device, so that looking costs no synchronisation per step.
Where the model scans its layers, parameters and moments lie stacked for as long as the run lasts; they are `saved` and
`restored` layer by layer.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.model import Model, stack_layers, unstack_layers
from bert_jax.objectives import Objective
from bert_jax.training import padding
from bert_jax.training.optimizer import make_optimizer, make_schedule


def init_state(config, model: Model, mesh: Mesh, num_steps: int) -> dict:
    """Fresh parameters and moments, made where they lie: none is ever whole on one device.

    Args:
      config: the run's config; reads seed and optimizer.
      model: the model.
      mesh: where the state lies.
      num_steps: of the whole run.
    """
    make, shardings = _state_maker(config, model, mesh, num_steps)
    return jax.jit(make, out_shardings=shardings)(keys(config.seed)[0])


def abstract_state(config, model: Model, mesh: Mesh, num_steps: int) -> dict:
    """Shape, dtype and sharding of every array of the state."""
    make, shardings = _state_maker(config, model, mesh, num_steps)
    return jax.tree.map(_placed, jax.eval_shape(make, keys(config.seed)[0]), shardings)


def state_shardings(config, model: Model, mesh: Mesh, num_steps: int) -> dict:
    """The sharding of every array of the state."""
    return _state_maker(config, model, mesh, num_steps)[1]


def saved(state: dict, mesh: Mesh) -> dict:
    """The state, or parts of it, as checkpoints have it: each layer apart; shapes with shardings of shapes.

    Stacked layers are taken apart on the devices, which hold them twice for as long as the result is kept.
    """
    return _rearranged(unstack_layers, state, mesh)


def restored(state: dict, model: Model, mesh: Mesh) -> dict:
    """What `saved` gave, or parts of it, as this model is trained."""
    return _rearranged(stack_layers, state, mesh) if model.spec.scan_layers else state


def _rearranged(function, state, mesh):
    found = jax.eval_shape(function, state)
    if jax.tree.structure(found) == jax.tree.structure(state):
        return state
    shardings = sharding.tree_shardings(found, mesh)
    if isinstance(jax.tree.leaves(state)[0], jax.ShapeDtypeStruct):
        return jax.tree.map(_placed, found, shardings)
    return jax.jit(function, out_shardings=shardings)(state)


@jax.jit
def all_finite(params: dict) -> jax.Array:
    """Whether every parameter is a finite number: an update may overflow where loss and gradients did not."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def dropout_key(config) -> jax.Array:
    """The run's dropout key: the same for every step, and after a restart."""
    return keys(config.seed)[1]


def make_train_step(config, model: Model, mesh: Mesh, num_steps: int, teacher: Model | None = None) -> Callable:
    """A compiled function (state, batch, step, key) -> (state, metrics); it consumes the state it is given.

    `step` is an int32 scalar, `key` the run's `dropout_key`; a teacher's parameters follow them, as they lie on the
    mesh. The metrics are device scalars of this step: loss, learning_rate, grad_norm (before clipping), of each of the
    objective's tasks TASK_loss and, where there are right answers, TASK_accuracy (mlm, with pairs nsp or sop, ...), and
    of packed rows padding.shares. Losses and gradients are sums over the whole batch divided by its counts, whatever
    the number of microbatches and shards.

    Args:
      config: the run's config; reads what objective.make does, optimizer and train.microbatches.
      model: the model.
      mesh: the mesh of state and batch.
      num_steps: of the whole run.
      teacher: of distillation.
    """
    objective, microbatches = objective_lib.make(config, model, teacher), config.train.microbatches
    optimizer = make_optimizer(config.optimizer, num_steps)
    schedule = make_schedule(config.optimizer, num_steps)

    def train_step(state, batch, step, key, taught=None):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step_on_mesh(state, batch, step, key, taught)

    def step_on_mesh(state, batch, step, key, taught):
        counts = objective.counts(batch)
        step_key = jax.random.fold_in(key, step)

        def loss_of(params, rows, key):
            sums = objective.sums(params, rows, key, step_key=step_key, teacher=taught)
            return objective.mean_loss(sums, counts), sums

        params = state["params"]
        grads, sums = gradient_and_sums(loss_of, params, batch, step_key, microbatches)
        updates, opt_state = optimizer.update(grads, state["opt_state"], params)
        grad_norm = optax.tree.norm(grads)
        loss = objective.mean_loss(sums, counts)
        bad = (state["bad_step"] < 0) & ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
        state = {
            "params": optax.apply_updates(params, updates),
            "opt_state": opt_state,
            "bad_step": jnp.where(bad, step, state["bad_step"]),
        }
        metrics = {"loss": loss, "learning_rate": schedule(step), "grad_norm": grad_norm}
        metrics |= objective.metrics(sums, counts)
        return state, metrics | padding.shares(batch, batch["input_ids"].shape[1:])

    state_sharding = state_shardings(config, model, mesh, num_steps)
    replicated = sharding.replicated(mesh)
    where_it_lies = () if teacher is None else (None,)
    return jax.jit(
        train_step,
        in_shardings=(state_sharding, sharding.batch_sharding(mesh), replicated, replicated, *where_it_lies),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )


def make_eval_step(config, model: Model, mesh: Mesh, objective: Objective | None = None) -> Callable:
    """A compiled function (params, batch) -> sums over the batch, without dropout; device scalars.

    TASK_loss_sum, TASK_correct and TASK_count of each task of `objective`, by default the config's, which of
    distillation is the student's own.
    """
    asked = objective or objective_lib.make(config, model).evaluated

    def eval_step(params, batch):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            sums = asked.sums(params, batch)
        counts = asked.counts(batch)
        return counts | {f"{key}_sum" if key.endswith("_loss") else key: value for key, value in sums.items()}

    return jax.jit(
        eval_step,
        in_shardings=(None, sharding.batch_sharding(mesh)),  # parameters are taken where they lie
        out_shardings=sharding.replicated(mesh),
    )


def gradient_and_sums(loss_of: Callable, params: Mapping, batch: Mapping, key: jax.Array, microbatches: int):
    """Gradient of a loss over a batch, and what else `loss_of` sums, by way of `microbatches` parts of the batch.

    Args:
      loss_of: (params, rows, key) -> (loss, sums), both sums over the rows.
      params: to differentiate by.
      batch: arrays [batch, ...].
      key: of dropout.
      microbatches: parts; one is in memory at a time.
    """
    gradient = jax.grad(loss_of, has_aux=True)
    if microbatches == 1:
        return gradient(params, batch, key)
    return _accumulated(gradient, params, batch, key, microbatches)


def keys(seed: int) -> jax.Array:
    """A run's keys [2]: of initialisation, and of dropout. Threefry's, which `vmap` does not change."""
    return jax.random.split(jax.random.key(seed, impl="threefry2x32"))


def _placed(leaf, layout):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)


def _state_maker(config, model, mesh, num_steps):
    optimizer, objective = make_optimizer(config.optimizer, num_steps), objective_lib.make(config, model)

    def make(key):
        params = objective.init(key)
        if model.spec.scan_layers:
            params = stack_layers(params)
        return {"params": params, "opt_state": optimizer.init(params), "bad_step": jnp.full((), -1, jnp.int32)}

    return make, sharding.tree_shardings(jax.eval_shape(make, keys(config.seed)[0]), mesh)


def _accumulated(gradient: Callable, params: Mapping, batch: Mapping, key: jax.Array, microbatches: int):
    """Sums of gradients and metrics over `microbatches` parts of the batch, one part in memory at a time."""

    def parts(rows):
        # Every n-th row, so that a part takes as many rows from each device's shard and none has to move.
        return rows.reshape(-1, microbatches, *rows.shape[1:]).swapaxes(0, 1)

    def add(total, part):
        index, rows = part
        return jax.tree.map(jnp.add, total, gradient(params, rows, jax.random.fold_in(key, index))), None

    split = (jnp.arange(microbatches), jax.tree.map(parts, batch))
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda rows: rows[0], split[1]), key)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    return jax.lax.scan(add, zeros, split)[0]
