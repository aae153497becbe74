"""Compiles a training step and an evaluation step for a mesh.

The state of a run is a plain dict: `params`, `opt_state`, and `bad_step`, the first step whose loss or gradient norm
was not finite (-1 while all were). `bad_step` stays on the device, so that no step waits for the host to look.
Where the model scans its layers, parameters and moments are stacked while the run lasts; `saved` and `restored` convert
to and from the layout of checkpoints, where each layer has a subtree.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.config.keys import SCHEDULE
from bert_jax.config.mesh import BATCH_AXES
from bert_jax.config.run_phases import in_phase, phases
from bert_jax.model import Model, stack_layers, unstack_layers
from bert_jax.model.layouts import active_mesh
from bert_jax.model.stack import cast_layers
from bert_jax.objectives import Objective
from bert_jax.training import compiler, throughput
from bert_jax.training.optimizer import make_optimizer, run_schedule, setting


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """Holds the objective and the optimizer of a run on a mesh: makes its state and compiles its steps.

    Attributes:
      objective: the losses to minimise, and the model.
      optimizer: maps gradients to updates.
      schedule: maps a step to its learning rate, for the log.
      mesh: the mesh of state and batch.
      seed: the run's seed, of initialisation and dropout.
      microbatches: number of parts of a batch whose gradients are summed before an update.
      split_optimizer: whether devices with the same parameters hold a part each of the optimizer's state.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: Callable
    mesh: Mesh
    seed: int = 0
    microbatches: int = 1
    split_optimizer: bool = False

    @classmethod
    def from_config(
        cls,
        config,
        model: Model,
        mesh: Mesh,
        num_steps: int,
        teacher: Model | None = None,
        schedule: Callable | None = None,
    ) -> "Learner":
        """Builds objective and optimizer of a pre-training config.

        Args:
          config: reads seed, optimizer, train.microbatches, mesh.optimizer_state and what objectives.make reads.
          model: the model.
          mesh: the mesh of state and batch.
          num_steps: number of steps of the whole run.
          teacher: the model to learn from, of distillation.
          schedule: the learning rate by step; None for the config's.
        """
        objective = objective_lib.make(config, model, teacher)
        network = objective.network if setting(config.optimizer, "decoupled") else None
        schedule = schedule or run_schedule(config, num_steps)
        optimizer = make_optimizer(config.optimizer, num_steps, network=network, schedule=schedule)
        split = sharding.splits_optimizer_state(config.mesh.get("optimizer_state", "auto"), mesh)
        return cls(objective, optimizer, schedule, mesh, config.seed, config.train.microbatches, split)

    def in_microbatches(self, number: int) -> "Learner":
        """Returns a learner with the same objective and optimizer that divides a batch into so many parts."""
        return self if number == self.microbatches else dataclasses.replace(self, microbatches=number)

    @property
    def model(self) -> Model:
        """Returns the main model that is trained."""
        return self.objective.model

    @property
    def dropout_key(self) -> jax.Array:
        """Returns the run's dropout key, a scalar PRNG key: the same at every step, and after a restart."""
        return keys(self.seed)[1]

    @functools.cached_property
    def state_shardings(self) -> dict:
        """Returns the shardings of every array of the state."""
        shapes = jax.eval_shape(self._new_state, keys(self.seed)[0])
        return sharding.state_shardings(shapes, self.mesh, self.split_optimizer)

    def init_state(self) -> dict:
        """Draws parameters and makes zero moments where they lie: no array is ever whole on one device."""
        return jax.jit(self._new_state, out_shardings=self.state_shardings)(keys(self.seed)[0])

    def abstract_state(self) -> dict:
        """Returns shape, dtype and sharding of every array of the state."""
        return jax.tree.map(_placed, jax.eval_shape(self._new_state, keys(self.seed)[0]), self.state_shardings)

    def train_step(self) -> jax.stages.Wrapped:
        """Returns a compiled function (state, batch, step, key) -> (state, metrics); it consumes the state.

        `step` is an int32 scalar and `key` the `dropout_key`. Where the objective has a teacher, the teacher's
        parameters are the last argument, as they lie on the mesh. Metrics are device scalars of this step:
        loss, learning_rate, grad_norm (of all gradients, before clipping), for each task of the objective
        TASK_loss and perhaps TASK_accuracy, and for packed rows throughput.padding_shares. Losses and gradients
        are sums over the whole batch divided by its counts, whatever the number of microbatches and shards.
        """
        objective = self.objective

        def train_step(state, batch, step, key, teacher_params=None):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return step_on_mesh(state, batch, step, key, teacher_params)

        def step_on_mesh(state, batch, step, key, teacher_params):
            counts = objective.counts(batch)
            step_key = jax.random.fold_in(key, step)

            params = state["params"]
            grads, sums = self.gradient_and_sums(params, batch, step_key, counts, teacher_params)
            if self.split_optimizer:  # each device needs the sum of what its part of the moments takes
                layouts = sharding.split_over_data(self.state_shardings["params"], grads)
                grads = jax.lax.with_sharding_constraint(grads, layouts)
            updates, opt_state = self.optimizer.update(grads, state["opt_state"], params)
            grad_norm = optax.tree.norm(grads)
            loss = objective.mean_loss(sums, counts)
            bad = (state["bad_step"] < 0) & ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
            state = {
                "params": optax.apply_updates(params, updates),
                "opt_state": opt_state,
                "bad_step": jnp.where(bad, step, state["bad_step"]),
            }
            metrics = {"loss": loss, "learning_rate": self.schedule(step), "grad_norm": grad_norm}
            metrics |= objective.metrics(sums, counts)
            return state, metrics | throughput.padding_shares(batch, batch["input_ids"].shape[1:])

        replicated = sharding.replicated(self.mesh)
        return jax.jit(
            train_step,
            in_shardings=(
                self.state_shardings,
                sharding.batch_sharding(self.mesh),
                replicated,
                replicated,
                *self.teacher_shardings,
            ),
            out_shardings=(self.state_shardings, replicated),
            compiler_options=compiler.options_for(self.mesh),
            donate_argnums=0,
        )

    def gradient_and_sums(
        self, params: Mapping, batch: Mapping, step_key: jax.Array, counts: dict, teacher_params, activations=False
    ) -> tuple[Mapping, dict]:
        """Returns the gradient of a step's mean loss and the objective's sums over the batch.

        Args:
          params: the parameters.
          batch: arrays [batch, ...].
          step_key: PRNG key of the step, a scalar.
          counts: the objective's counts of the batch.
          teacher_params: the teacher's parameters; None without a teacher.
          activations: whether the sums include those of squared hidden states.
        """

        def loss_of(params, rows, key, counts, step_key, teacher_params):
            sums = self.objective.sums(
                params, rows, key, step_key=step_key, teacher=teacher_params, activations=activations
            )
            return self.objective.mean_loss(sums, counts), sums

        whole = WholeParameters(self.state_shardings["params"], jnp.dtype(self.model.spec.dtype))
        others = (counts, step_key, teacher_params)
        return gradient_and_sums(loss_of, params, batch, step_key, self.microbatches, others, whole)

    def saved(self, state: dict) -> dict:
        """Returns the function `saved` of a state of this learner, or of parts of it."""
        return saved(state, self.mesh, self.split_optimizer)

    def restored(self, state: dict) -> dict:
        """Returns the function `restored` of a state, or of parts of it, for this learner."""
        return restored(state, self.model, self.mesh, self.split_optimizer)

    @property
    def teacher_shardings(self) -> tuple[None, ...]:
        """Returns one None, for arguments that stay where they lie, if the objective has a teacher; else ()."""
        return (None,) if self.objective.facts.teacher else ()

    def eval_step(self) -> jax.stages.Wrapped:
        """Returns the compiled evaluation of the objective's held-out metrics; see `compile_evaluation`."""
        return compile_evaluation(self.objective.evaluated, self.mesh)

    def _new_state(self, key):
        params = self.objective.init(key)
        if self.model.spec.scan_layers:
            params = stack_layers(params)
        return {"params": params, "opt_state": self.optimizer.init(params), "bad_step": jnp.full((), -1, jnp.int32)}


def phase_learners(config, mesh: Mesh, teacher: Model | None = None) -> list[Learner]:
    """Returns the learner of each phase of a pre-training run; phases with the same model and optimizer share one.

    All have the same state. Their models differ in what a phase sets, such as rotary bases, and their optimizers in
    weight decay; the learning rate is one function of the step.

    Args:
      config: a pre-training config, with model.vocab_size filled in.
      mesh: the mesh of state and batch.
      teacher: the model to learn from, of distillation.
    """
    run_phases = phases(config)
    num_steps = run_phases[-1].stop
    schedule, learners, learner_of = run_schedule(config, num_steps), [], {}
    for phase in run_phases:
        key = tuple(sorted((name, value) for name, value in phase.settings.items() if name not in SCHEDULE))
        if key not in learner_of:
            settings = in_phase(config, phase)
            heads = objective_lib.heads(config.objective)
            model = model_lib.build(settings.model, settings.model.vocab_size, **heads)
            learner_of[key] = Learner.from_config(settings, model, mesh, num_steps, teacher, schedule)
        learners.append(learner_of[key])
    return learners


def compile_evaluation(objective: Objective, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns a compiled function (params, batch) -> sums over the batch, without dropout.

    The sums are device scalars: TASK_loss_sum, TASK_correct and TASK_count of each task of the objective.
    """

    def eval_step(params, batch):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            sums = objective.sums(params, batch)
        counts = objective.counts(batch)
        return counts | {f"{key}_sum" if key.endswith("_loss") else key: value for key, value in sums.items()}

    return jax.jit(
        eval_step,
        in_shardings=(None, sharding.batch_sharding(mesh)),  # parameters stay where they lie
        out_shardings=sharding.replicated(mesh),
    )


def init_state(config, model: Model, mesh: Mesh, num_steps: int) -> dict:
    """Returns Learner.init_state of a config."""
    return Learner.from_config(config, model, mesh, num_steps).init_state()


def abstract_state(config, model: Model, mesh: Mesh, num_steps: int) -> dict:
    """Returns Learner.abstract_state of a config."""
    return Learner.from_config(config, model, mesh, num_steps).abstract_state()


def state_shardings(config, model: Model, mesh: Mesh, num_steps: int) -> dict:
    """Returns Learner.state_shardings of a config."""
    return Learner.from_config(config, model, mesh, num_steps).state_shardings


def make_train_step(
    config, model: Model, mesh: Mesh, num_steps: int, teacher: Model | None = None
) -> jax.stages.Wrapped:
    """Returns Learner.train_step of a config."""
    return Learner.from_config(config, model, mesh, num_steps, teacher).train_step()


def make_eval_step(config, model: Model, mesh: Mesh, objective: Objective | None = None) -> jax.stages.Wrapped:
    """Returns `compile_evaluation` of `objective`, or of the one that a config names."""
    return compile_evaluation(objective or objective_lib.make(config, model).evaluated, mesh)


def saved(state: dict, mesh: Mesh, split_optimizer: bool = False) -> dict:
    """Converts the state, or parts of it, to the layout of checkpoints: a subtree for each layer.

    Stacked layers are taken apart on the devices, which hold them twice for as long as the result is kept. Shapes with
    shardings are converted like arrays. `split_optimizer` is as in `Learner`.
    """
    return _rearranged(unstack_layers, state, mesh, split_optimizer)


def restored(state: dict, model: Model, mesh: Mesh, split_optimizer: bool = False) -> dict:
    """Converts what `saved` returned, or parts of it, to the layout that this model is trained in."""
    return _rearranged(stack_layers, state, mesh, split_optimizer) if model.spec.scan_layers else state


def _rearranged(function, state, mesh, split_optimizer):
    shapes = jax.eval_shape(function, state)
    if jax.tree.structure(shapes) == jax.tree.structure(state):
        return state
    shardings = sharding.state_shardings(shapes, mesh, split_optimizer)
    if isinstance(jax.tree.leaves(state)[0], jax.ShapeDtypeStruct):
        return jax.tree.map(_placed, shapes, shardings)
    return jax.jit(function, out_shardings=shardings)(state)


@jax.jit
def all_finite(params: dict) -> jax.Array:
    """Returns whether every parameter is finite, a bool scalar: updates may overflow where gradients did not."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def dropout_key(config) -> jax.Array:
    """Returns the dropout key of a config's run, a scalar PRNG key: the same at every step and after a restart."""
    return keys(config.seed)[1]


@dataclasses.dataclass(frozen=True)
class WholeParameters:
    """Says how each device of a mesh can take all parameters, and leave its part of their gradients.

    Attributes:
      shardings: shardings of the parameters, a tree like them.
      dtype: the dtype that layers compute in, which their kernels are gathered in.
      limit: the most parameters, with a teacher's, that a device takes whole where a mesh splits them. Each takes 2 to
        4 bytes, and 4 for its gradient: by default at most 4 GiB, of the 16 of the smallest chips.
    """

    shardings: Mapping
    dtype: jnp.dtype
    limit: int = 1 << 29

    def gather(self, params: Mapping) -> Mapping:
        """Returns all parameters, of a device's parts of them, inside a shard_map; kernels in the compute dtype."""
        if jax.lax.axis_size("fsdp") == 1:
            return params
        return jax.tree.map(_gathered, cast_layers(params, self.dtype), self.shardings)

    def reduce(self, gradients: Mapping) -> dict:
        """Returns a device's part of the sum of all devices' gradients, each of all parameters."""
        return jax.tree.map(_reduced, gradients, self.shardings)


def gradient_and_sums(
    loss_of: Callable,
    params: Mapping,
    batch: Mapping,
    key: jax.Array,
    microbatches: int,
    others: tuple = (),
    whole: WholeParameters | None = None,
):
    """Returns the gradient of a loss over a batch and what else `loss_of` sums, computed in microbatches.

    Args:
      loss_of: (params, rows, key, *others) -> (loss, sums), both sums over the rows.
      params: the parameters to differentiate by.
      batch: arrays [batch, ...].
      key: dropout key.
      microbatches: number of parts, of which one is in memory at a time; 0 is 1.
      others: further arguments of `loss_of`, trees of arrays that every device has.
      whole: lets each device of a mesh add up the gradients of its own rows, so that the devices' sums are added after
        the last part, once, instead of after each. It does so unless the mesh has a tensor axis, rows do not divide,
        or the parameters are split and more than `whole` allows. The rows that `loss_of` is called with then have
        row_numbers, see `Model.apply`, by which parts drop what the whole batch would. None for a loss that knows no
        row numbers: each part has a key of its own, and all devices compute it together.
    """
    gradient = jax.grad(loss_of, has_aux=True)
    if microbatches <= 1:
        return gradient(params, batch, key, *others)
    mesh, rows = active_mesh(), len(next(iter(batch.values())))
    if whole is None:
        return _accumulated(gradient, params, batch, key, microbatches, others)
    if mesh is None or not _add_up_alone(mesh, rows, microbatches, whole, (params, others)):
        return _accumulated(gradient, params, batch, key, microbatches, others, first=0)
    rows_of_device = rows // sharding.num_shards(mesh, BATCH_AXES)

    def own(params, batch, key, others):
        def gradient_of(gathered, *arguments):  # float32 again, so that gradients are too
            return gradient(jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), gathered, params), *arguments)

        first = jax.lax.axis_index(BATCH_AXES) * rows_of_device
        gradients, sums = _accumulated(gradient_of, whole.gather(params), batch, key, microbatches, others, first)
        return whole.reduce(gradients), jax.lax.psum(sums, BATCH_AXES)

    layouts = jax.tree.map(lambda place: place.spec, whole.shardings)
    in_specs = (layouts, P(BATCH_AXES), P(), P())
    return jax.shard_map(own, in_specs=in_specs, out_specs=(layouts, P()), check_vma=False)(params, batch, key, others)


def keys(seed: int) -> jax.Array:
    """Returns a run's two keys [2]: initialisation and dropout. They are threefry's, which `vmap` does not change."""
    return jax.random.split(jax.random.key(seed, impl="threefry2x32"))


def _placed(leaf, layout):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)


def _add_up_alone(mesh, rows, microbatches, whole, arguments):
    """Returns whether each device adds up the gradients of its own rows, see `gradient_and_sums`."""
    shards = sharding.num_shards(mesh, BATCH_AXES)
    if shards == 1 or mesh.size > shards or rows % (shards * microbatches):
        return False
    return mesh.shape["fsdp"] == 1 or sum(leaf.size for leaf in jax.tree.leaves(arguments)) <= whole.limit


def _gathered(leaf, place):
    axis = _split_axis(place)
    return leaf if axis is None else jax.lax.all_gather(leaf, "fsdp", axis=axis, tiled=True)


def _reduced(gradient, place):
    axis = _split_axis(place)
    if axis is None:
        return jax.lax.psum(gradient, BATCH_AXES)
    return jax.lax.psum(jax.lax.psum_scatter(gradient, "fsdp", scatter_dimension=axis, tiled=True), "data")


def _split_axis(place):
    """Returns the axis of an array that a sharding splits over fsdp, inside a shard_map; None for none."""
    if jax.lax.axis_size("fsdp") == 1:
        return None
    return next((i for i, axes in enumerate(place.spec) if axes == "fsdp" or axes and "fsdp" in axes), None)


def _accumulated(gradient, params, batch, key, microbatches, others, first=None):
    """Sums gradients and metrics over `microbatches` parts of the batch, with one part in memory at a time.

    `first`: number of the batch's first row among those of all devices; None for a loss that knows no row numbers.
    """

    def parts(rows):
        # Every n-th row, so that a part takes as many rows from each device's shard and none has to move.
        return rows.reshape(-1, microbatches, *rows.shape[1:]).swapaxes(0, 1)

    def add(total, part):
        index, rows = part
        if first is None:
            return jax.tree.map(jnp.add, total, gradient(params, rows, jax.random.fold_in(key, index), *others)), None
        places = jnp.arange(len(next(iter(rows.values()))), dtype=jnp.int32)
        rows = rows | {"row_numbers": first + index + microbatches * places}
        return jax.tree.map(jnp.add, total, gradient(params, rows, key, *others)), None

    split = (jnp.arange(microbatches, dtype=jnp.int32), jax.tree.map(parts, batch))
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda rows: rows[0], split[1]), key, *others)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    return jax.lax.scan(add, zeros, split)[0]
