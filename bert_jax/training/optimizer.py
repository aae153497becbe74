"""Learning-rate schedules and optimizers, as optax transformations."""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from bert_jax.sharding import leading_axes, path_name


def make_schedule(config: Mapping, num_steps: int) -> Callable:
    """Learning rate of the step that follows `t` steps.

    It rises linearly from 0 at t = 0 to the peak at t = warmup_steps, and falls to final_fraction of the peak at
    t = num_steps: in a line, in half a cosine, or (trapezoidal) in a line over the last decay_steps alone.

    Args:
      config: config.optimizer: learning_rate (the peak), schedule, warmup_steps, decay_steps, final_fraction.
      num_steps: of the whole run.
    """
    peak, warmup = config["learning_rate"], config["warmup_steps"]
    final = peak * config["final_fraction"]
    left = max(1, num_steps - warmup)
    if config["schedule"] == "linear":
        decay = optax.linear_schedule(peak, final, left)
    elif config["schedule"] == "cosine":
        decay = optax.cosine_decay_schedule(peak, left, alpha=config["final_fraction"])
    elif config["schedule"] == "trapezoidal":
        length = min(left, config["decay_steps"] or max(1, num_steps // 10))
        decay = optax.linear_schedule(peak, final, length, transition_begin=left - length)
    else:
        decay = optax.constant_schedule(peak)
    if warmup:
        decay = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])
    return _promoting(decay)


def make_optimizer(
    config: Mapping, num_steps: int, share: Callable[[str], float] | None = None
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) or LAMB (You et al. 2020, algorithm 2), after clipping by global norm.

    Weight decay is for kernels and embeddings, not for biases or norms. LAMB's trust ratio is one number per
    parameter array of each layer; biases and norms take none, as in the published code.

    Args:
      config: config.optimizer.
      num_steps: of the whole run.
      share: of the learning rate, by a parameter's path; None for all of it everywhere.
    """
    steps = [optax.clip_by_global_norm(config["clip_norm"])] if config["clip_norm"] else []
    steps += [
        optax.scale_by_adam(b1=config["b1"], b2=config["b2"], eps=config["epsilon"]),
        optax.add_decayed_weights(config["weight_decay"], mask=is_weight),
    ]
    if config["name"] == "lamb":
        steps.append(optax.masked(optax.stateless(_trusted), is_weight))
    if share:
        steps.append(optax.stateless(lambda updates, _: _scaled(updates, share)))
    steps.append(optax.scale_by_learning_rate(make_schedule(config, num_steps)))
    chain = optax.chain(*steps)
    return optax.GradientTransformation(chain.init, _promoting(chain.update))


def is_weight(params):
    """Which leaves are kernels, embeddings and adapters: a tree of bools like `params`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(r"/(kernel|embedding|lora_a|lora_b)$", path_name(path)) is not None, params
    )


def _trusted(updates, params):
    """Updates times ||parameter|| / ||update||, of each array of a single layer; 1 where either is zero."""

    def scaled(path, update, param):
        axes = tuple(range(leading_axes(path_name(path)), update.ndim))
        of_param, of_update = (jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (param, update))
        zero = (of_param == 0) | (of_update == 0)
        return update * jnp.where(zero, 1.0, of_param / jnp.where(zero, 1.0, of_update))

    return jax.tree_util.tree_map_with_path(scaled, updates, params)


def _scaled(updates, share):
    return jax.tree_util.tree_map_with_path(lambda path, update: update * share(path_name(path)), updates)


def _promoting(function):
    """`function`, which mixes int32 and float32, also where strict promotion is on: optax relies on it."""

    def wrapped(*args):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return wrapped
