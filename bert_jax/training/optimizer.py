"""Builds learning-rate schedules and optimizers, as optax transformations."""

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from bert_jax.config.keys import PRETRAINING
from bert_jax.config.run_phases import schedules
from bert_jax.sharding import leading_axes, path_name


def make_schedule(config: Mapping, num_steps: int) -> Callable:
    """Returns the schedule: a function from the number of steps done, t, to the learning rate of the next step.

    It rises linearly from 0 at t = 0 to the peak at t = warmup_steps, and falls to final_fraction of the peak at
    t = num_steps: in a line, in half a cosine, or (trapezoidal) over the last decay_steps alone, whose decay_shape is
    a line, half a cosine, or 1 - sqrt(share passed) (Hägele et al. 2024, "Scaling laws and compute-optimal training
    beyond fixed training durations", section 3).

    Args:
      config: config.optimizer: learning_rate (the peak), schedule, warmup_steps, decay_steps, decay_shape,
        final_fraction.
      num_steps: number of steps of the whole run.
    """
    peak, (warmup, begin) = config["learning_rate"], turning_steps(config, num_steps)
    final = peak * config["final_fraction"]
    left = max(1, num_steps - warmup)
    if config["schedule"] == "linear":
        decay = optax.linear_schedule(peak, final, left)
    elif config["schedule"] == "cosine":
        decay = optax.cosine_decay_schedule(peak, left, alpha=config["final_fraction"])
    elif config["schedule"] == "trapezoidal":
        decay = _falls(config["decay_shape"], peak, final, begin - warmup, warmup + left - begin)
    else:
        decay = optax.constant_schedule(peak)
    if warmup:
        decay = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])
    return _promoting(decay)


def turning_steps(config: Mapping, num_steps: int) -> tuple[int, int]:
    """Returns the step at which the rate has risen to its peak, and the step from which it falls; arguments as above.

    A constant rate falls from num_steps on.
    """
    warmup = config["warmup_steps"]
    left = max(1, num_steps - warmup)
    if config["schedule"] == "constant":
        return warmup, warmup + left
    if config["schedule"] != "trapezoidal":
        return warmup, warmup
    return warmup, warmup + left - min(left, config["decay_steps"] or max(1, num_steps // 10))


def run_schedule(config, num_steps: int) -> Callable:
    """Returns the learning rate of a pre-training run by step, whose phases may begin schedules of their own.

    Args:
      config: a pre-training config; reads optimizer, data.phases and the run's length.
      num_steps: number of steps of the run, where no phase begins another schedule.
    """
    if "data" not in config:  # a benchmark's settings, which have no phases
        return make_schedule(config["optimizer"], num_steps)
    first, *later = schedules(config)
    if not later:
        return make_schedule(first.settings, num_steps)
    parts = [make_schedule(part.settings, part.stop - part.start) for part in (first, *later)]
    return _promoting(optax.join_schedules(parts, [part.start for part in later]))


def setting(config: Mapping, name: str) -> Any:
    """Returns config.optimizer.NAME, or the key's default where the config lacks it."""
    return config.get(name, PRETRAINING[f"optimizer.{name}"].default)


def make_optimizer(
    config: Mapping,
    num_steps: int,
    share: Callable[[str], float] | None = None,
    network: Callable[[str], str] | None = None,
    schedule: Callable | None = None,
) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov & Hutter 2019), LAMB (You et al. 2020, algorithm 2) or StableAdamW, after clipping.

    Weight decay applies to kernels and embeddings, and with decay_all to biases and norms too. LAMB's trust ratio is
    one number per parameter array of each layer; biases and norms have none, as in the published code. StableAdamW's
    divisor of the rate is one number per array too, biases and norms included: see `_scale_by_stable_adam`.

    Args:
      config: config.optimizer; bias_correction and decay_all may be absent, and have their defaults then.
      num_steps: number of steps of the whole run.
      share: maps a parameter's path to its share of the learning rate; None for all of it everywhere.
      network: maps a parameter's path to the network whose gradients are clipped by one norm, as if each network had
        an optimizer of its own; None for the norm of all gradients.
      schedule: the learning rate by step; None for `make_schedule` of the config.
    """
    steps = [_clip(config["clip_norm"], network)] if config["clip_norm"] else []
    adam = {"b1": config["b1"], "b2": config["b2"], "eps": config["epsilon"]}
    corrected = setting(config, "bias_correction")
    decays_all = setting(config, "decay_all")
    decayed = (lambda params: jax.tree.map(lambda _: True, params)) if decays_all else is_weight
    decay = optax.add_decayed_weights(config["weight_decay"], mask=decayed)
    if config["name"] == "stable_adamw":
        steps.append(_scale_by_stable_adam(**adam, decay=decay, corrected=corrected))
    else:
        steps += [_scale_by_adam(**adam, corrected=corrected), decay]
    if config["name"] == "lamb":
        steps.append(optax.masked(optax.stateless(_trusted), is_weight))
    if share:
        steps.append(optax.stateless(lambda updates, _: _scaled(updates, share)))
    steps.append(optax.scale_by_learning_rate(schedule or make_schedule(config, num_steps)))
    chain = optax.chain(*steps)
    return optax.GradientTransformation(chain.init, _promoting(chain.update))


def is_weight(params):
    """Returns which leaves are kernels, embeddings or adapters: a tree of bools like `params`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(r"/(kernel|embedding|lora_a|lora_b)$", path_name(path)) is not None, params
    )


def _falls(shape, peak, final, begin, length):
    """Returns a schedule that is the peak until step `begin`, and then falls for `length` steps."""
    if shape == "linear":
        return optax.linear_schedule(peak, final, length, transition_begin=begin)

    def decay(t):
        passed = jnp.clip((t - begin) / length, 0.0, 1.0)
        left = 1 - jnp.sqrt(passed) if shape == "sqrt" else (1 + jnp.cos(jnp.pi * passed)) / 2
        return final + (peak - final) * left

    return decay


def _clip(largest, network):
    """Returns the clipping of gradients to a global norm: that of all gradients, or of each network by itself."""
    if network is None:
        return optax.clip_by_global_norm(largest)

    def clipped(updates, _):
        squares: dict = {}
        for path, update in jax.tree_util.tree_leaves_with_path(updates):
            squares.setdefault(network(path_name(path)), []).append(jnp.square(update).sum())
        scales = {name: largest / jnp.maximum(jnp.sqrt(sum(parts)), largest) for name, parts in squares.items()}
        return jax.tree_util.tree_map_with_path(lambda path, x: x * scales[network(path_name(path))], updates)

    return optax.stateless(clipped)


def _scale_by_adam(b1, b2, eps, corrected):
    """Returns optax.scale_by_adam, or with corrected=False the same state without the correction of its moments.

    Uncorrected, update t is (1 - b1^t) / sqrt(1 - b2^t) times as large: with BERT's betas 3.2 at first, 6.6 after a
    dozen steps, and near 1 after some 3 / (1 - b2) (google-research/bert, optimization.py, AdamWeightDecayOptimizer).
    """
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    if corrected:
        return adam

    def update(updates, state, params=None):
        moments = cast(optax.ScaleByAdamState, adam.update(updates, state, params)[1])
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), moments.mu, moments.nu), moments

    return optax.GradientTransformation(adam.init, update)


def _scale_by_stable_adam(b1, b2, eps, decay, corrected):
    """Returns Adam with weight decay, each array's update divided by max(1, RMS of gradient / sqrt(second moment)).

    Wortsman et al. 2023, "Stable and low-precision training for large-scale vision-language models", algorithm 2, as
    in optimi, which ModernBERT was trained with: the RMS is the mean over the array of g^2 / max(v, eps^2), where v is
    the bias-corrected second moment after this step, and dividing the rate divides weight decay too. The state is
    Adam's. Weight decay is multiplied by the rate, as everywhere here; ModernBERT's 1e-5 is multiplied by the rate over
    its peak of 8e-4 (optimi's decouple_lr), which is 0.0125 here.

    Args:
      b1, b2, eps: Adam's hyperparameters.
      decay: adds decayed weights to updates; has no state.
      corrected: whether moments are bias-corrected.
    """
    adam = _scale_by_adam(b1, b2, eps, corrected)

    def update(gradients, state, params):
        updates, state = adam.update(gradients, state, params)
        updates, _ = decay.update(updates, decay.init(params), params)
        moments = cast(optax.ScaleByAdamState, state)
        seconds = optax.tree.bias_correction(moments.nu, b2, moments.count) if corrected else moments.nu

        def stabilised(path, update, gradient, second):
            axes = tuple(range(leading_axes(path_name(path)), update.ndim))
            ratios = jnp.square(gradient) / jnp.maximum(second, eps**2)
            return update / jnp.maximum(1.0, jnp.sqrt(ratios.mean(axes, keepdims=True)))

        return jax.tree_util.tree_map_with_path(stabilised, updates, gradients, seconds), state

    return optax.GradientTransformation(adam.init, update)


def _trusted(updates, params):
    """Multiplies the update of each layer's array by ||parameter|| / ||update||, or by 1 where either is zero."""

    def scaled(path, update, param):
        axes = tuple(range(leading_axes(path_name(path)), update.ndim))
        param_norm, update_norm = (jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (param, update))
        zero = (param_norm == 0) | (update_norm == 0)
        return update * jnp.where(zero, 1.0, param_norm / jnp.where(zero, 1.0, update_norm))

    return jax.tree_util.tree_map_with_path(scaled, updates, params)


def _scaled(updates, share):
    return jax.tree_util.tree_map_with_path(lambda path, update: update * share(path_name(path)), updates)


def _promoting(function):
    """Runs `function` with standard dtype promotion, also under strict promotion: optax mixes int32 and float32."""

    def wrapped(*args):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return wrapped
