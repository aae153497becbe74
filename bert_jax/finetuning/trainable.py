"""Chooses the parameters that fine-tuning trains, their learning rates, and those that start fresh.

Parameters are split into two nested dicts, trained and frozen ones. Adapters lie in the
first, beside the paths of the frozen kernels that they adapt: encoder/layers/0/attention/query/{lora_a,lora_b}.
"""

import re
import zlib
from collections.abc import Callable, Mapping

import jax

from bert_jax import _moved
from bert_jax.config import listed
from bert_jax.config.finetuning import frozen_layers
from bert_jax.errors import UserError
from bert_jax.model import Spec
from bert_jax.model.parameters import leaves_by_name, select_leaves, set_leaf
from bert_jax.model.stack import parameter_layers

_PLACES = {"gate": "mlp/gate", "up": "mlp/up", "down": "mlp/down"}  # others: attention/NAME


def check_tuning(config: Mapping, spec: Spec) -> None:
    """Raises UserError if config.tuning names layers or modules that the model does not have, or that layers share."""
    frozen, layers = frozen_layers(config["freeze"]), spec.num_layers
    if spec.layer_groups and (frozen is not None or config["reinit_layers"]):
        key = "reinit_layers" if config["reinit_layers"] else "freeze"
        raise UserError(
            f"config.tuning.{key}: found {config[key]}, but the model's layers share the parameters of "
            f"{spec.layer_groups} groups; expected a regular expression in freeze, or none"
        )
    if config["lora_rank"] and "gate" in listed(config["lora_targets"]) and spec.mlp != "gated":
        raise UserError(
            f"config.tuning.lora_targets: found gate, but the model has config.model.mlp={spec.mlp}; expected others"
        )
    if frozen is not None and frozen > layers:
        raise UserError(f"config.tuning.freeze: found {config['freeze']}; the model has {layers} layers")
    if config["reinit_layers"] > layers:
        raise UserError(f"config.tuning.reinit_layers: found {config['reinit_layers']}; the model has {layers}")


def frozen_names(params: Mapping, config: Mapping) -> frozenset[str]:
    """Returns the paths of the parameters that config.tuning.freeze and lora_rank keep as they are.

    Raises:
      UserError: the regular expression matches no parameter, or leaves none to train.
    """
    pattern = _frozen_pattern(config)
    names = list(leaves_by_name(params))
    frozen = frozenset(name for name in names if pattern and re.search(pattern, name))
    if pattern and not frozen:
        listed = f"{', '.join(names[:3])}, ... ({len(names)} in all)"
        raise UserError(f"config.tuning.freeze: {config['freeze']!r} matches no parameter; they are {listed}")
    if len(frozen) == len(names):
        raise UserError(f"config.tuning.freeze: {config['freeze']!r} leaves nothing to train; expected a narrower one")
    return frozen


def split_params(params: Mapping, frozen: frozenset[str]) -> tuple[dict, dict]:
    """Splits a tree of parameters into (trained, frozen)."""
    return select_leaves(params, lambda name: name not in frozen), select_leaves(params, lambda name: name in frozen)


def forward_passes(shapes: Mapping, frozen: frozenset[str]) -> float:
    """Returns the cost of a step in forward passes through the layers: 3 where everything is trained.

    The forward pass costs 1. Gradients with respect to activations cost the share of layers that they pass through,
    down to the lowest layer that is trained; gradients with respect to kernels cost the share of kernels trained.
    """
    sizes = {name: leaf.size for name, leaf in leaves_by_name(shapes).items()}
    kernels = {name: size for name, size in sizes.items() if re.search(r"^encoder/layers/\d+/.*kernel$", name)}
    layers = {int(name.split("/")[2]) for name in kernels}
    trained = [name for name in sizes if name not in frozen and name.startswith("encoder/")]
    lowest = min((int(name.split("/")[2]) if "/layers/" in name else 0 for name in trained), default=len(layers))
    trained_kernels = sum(size for name, size in kernels.items() if name not in frozen)
    return 1 + (len(layers) - lowest) / len(layers) + trained_kernels / sum(kernels.values())


def reinitialised_pattern(config: Mapping, spec: Spec) -> str:
    """Returns a regular expression of the parameters that start fresh though the model to start from has them.

    They are the top config.tuning.reinit_layers layers and, with any of them, the pooler (Zhang et al. 2021, section
    5).
    """
    count = config["reinit_layers"]
    if not count:
        return r"(?!)"
    layers = "|".join(str(layer) for layer in range(spec.num_layers - count, spec.num_layers))
    return rf"^(encoder/layers/({layers})|pooler)/"


def rate_multiplier(decay: float, spec: Spec, offset: int = 2) -> Callable[[str], float] | None:
    """Returns a function from a parameter's path to the factor of its learning rate; None where all factors are 1.

    Layer k of L, counted from 1 at the bottom, has decay ** (L + offset - k), and the embeddings decay ** (L + offset);
    pooler and heads have 1. With an offset of 2 that is ELECTRA's rule (`_get_layer_lrs` in model/optimization.py of
    google-research/electra); with 0 the top layer has the rate of the heads (Howard & Ruder 2018, section 3.2).

    Args:
      decay: config.optimizer.layer_decay.
      spec: the model's spec.
      offset: config.optimizer.layer_decay_offset.
    """
    if decay == 1.0:
        return None
    last_use = {source: layer for layer, source in enumerate(parameter_layers(spec))}

    def share(name):
        layer = re.search(r"(?:^|/)encoder/layers/(\d+)/", name)
        if layer:
            return decay ** (spec.num_layers + offset - 1 - last_use[int(layer[1])])
        if re.search(r"(?:^|/)encoder/(embeddings|relative\w*)/", name):
            return decay ** (spec.num_layers + offset)
        return decay**offset if re.search(r"(?:^|/)encoder/", name) else 1.0  # a norm behind the top layer

    return share


def init_adapters(config: Mapping, frozen: Mapping, key: jax.Array) -> dict:
    """Draws LoRA adapters of rank config.tuning.lora_rank for its lora_targets (Hu et al. 2021, section 4.1).

    Args:
      config: config.tuning.
      frozen: the frozen parameters, or their shapes; kernels [inputs, outputs].
      key: PRNG key; each adapter folds its name into it.

    Returns:
      a tree of lora_a [inputs, rank], normal with variance 1 / inputs, and lora_b [rank, outputs], zero; {} for a rank
      of 0.
    """
    rank = config["lora_rank"]
    adapters = {}
    for name, kernel in leaves_by_name(frozen).items():
        if not rank or not re.search(_adapted_pattern(config), name):
            continue
        inputs, outputs = kernel.shape
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        set_leaf(
            adapters, name.removesuffix("kernel") + "lora_a", jax.random.normal(own, (inputs, rank)) * inputs**-0.5
        )
        set_leaf(adapters, name.removesuffix("kernel") + "lora_b", jax.numpy.zeros((rank, outputs)))
    return adapters


def _frozen_pattern(config):
    freeze = "encoder" if config["lora_rank"] else config["freeze"]
    if freeze in ("encoder", "embeddings"):
        return {"encoder": r"^encoder/", "embeddings": r"^encoder/embeddings/"}[freeze]
    count = frozen_layers(freeze)
    if count is not None:
        layers = [rf"layers/{layer}/" for layer in range(count)]
        return rf"^encoder/({'|'.join(['embeddings/', *layers])})"
    return freeze


def _adapted_pattern(config):
    places = "|".join(_PLACES.get(name, f"attention/{name}") for name in listed(config["lora_targets"]))
    return rf"layers/\d+/({places})/kernel$"


def __getattr__(name):
    return _moved.find("finetuning.trainable", name)
