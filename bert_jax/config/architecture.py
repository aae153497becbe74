"""Lists the switches of config.model that cannot be combined, and why; all others can be. No jax here."""

import dataclasses
from collections.abc import Callable, Mapping

from bert_jax import _moved
from bert_jax.config.model_keys import FAST_TURNS
from bert_jax.errors import UserError


@_moved.renamed_members(when="applies")
@dataclasses.dataclass(frozen=True)
class Refusal:
    """Describes a combination of switches that cannot work.

    Attributes:
      key: key of config.model that the message names first.
      applies: returns whether a mapping like config.model has the combination.
      reason: what stands in the way and what is expected; fields in braces are keys of config.model.
    """

    key: str
    applies: Callable[[Mapping], bool]
    reason: str


REFUSALS = (
    Refusal(
        "hidden_size",
        lambda m: not m["head_size"] and m["hidden_size"] % m["num_heads"] != 0,
        "it is not divisible by config.model.num_heads={num_heads}; expected a multiple, or config.model.head_size",
    ),
    Refusal(
        "num_kv_heads",
        lambda m: m["num_kv_heads"] and m["num_heads"] % m["num_kv_heads"] != 0,
        "each head of keys and values serves as many of the config.model.num_heads={num_heads} queries' heads; "
        "expected a divisor of {num_heads}",
    ),
    Refusal(
        "positions",
        lambda m: _has(m, "rotary") and _head_size(m) % 2 != 0,
        "rotary positions turn pairs of a head's units, and heads have an odd number of them (config.model.head_size, "
        "or hidden_size={hidden_size} / num_heads={num_heads}); expected an even number",
    ),
    Refusal(
        "rotary_base",
        lambda m: _has(m, "rotary") and m["rotary_base"] < 1,
        "it is what the wavelengths of rotary positions grow to, nearly; expected at least 1, such as 10000.0",
    ),
    Refusal(
        "local_rotary_base",
        lambda m: _has(m, "rotary") and 0 < m["local_rotary_base"] < 1,
        "as config.model.rotary_base, of layers with a window; expected at least 1, or 0 for rotary_base",
    ),
    Refusal(
        "rotary_scaling",
        lambda m: m["rotary_scaling"] != "none" and not _has(m, "rotary"),
        "config.model.positions={positions} has no rotary positions to scale; expected none, or rotary positions",
    ),
    Refusal(
        "rotary_factor",
        lambda m: m["rotary_factor"] != 1 and m["rotary_scaling"] == "none",
        "config.model.rotary_scaling=none has no factor; expected 1.0, or a kind of scaling",
    ),
    Refusal(
        "rotary_trained",
        lambda m: m["rotary_scaling"] in ("dynamic", "yarn", "llama3") and not m["rotary_trained"],
        "config.model.rotary_scaling={rotary_scaling} depends on it; expected the tokens of the longest rows that the "
        "model was trained on",
    ),
    Refusal(
        "rotary_mixed",
        lambda m: m["rotary_mixed"] != 1 and m["rotary_scaling"] != "ntk",
        "config.model.rotary_scaling={rotary_scaling} has no such exponent; expected 1.0, or rotary_scaling=ntk",
    ),
    Refusal(
        "rotary_fast_turns",
        lambda m: (
            m["rotary_scaling"] in FAST_TURNS
            and m["rotary_slow_turns"] >= (m["rotary_fast_turns"] or FAST_TURNS[m["rotary_scaling"]])
        ),
        "pairs of units are slowed in part between config.model.rotary_slow_turns={rotary_slow_turns} and this; "
        "expected more than that",
    ),
    Refusal(
        "rotary_base",
        lambda m: m["rotary_scaling"] == "yarn" and 1 in _scaled_bases(m),
        "with base 1 all pairs of units turn alike, and config.model.rotary_scaling=yarn tells them apart by their "
        "turns; expected more than 1",
    ),
    Refusal(
        "rotary_scaling",
        lambda m: m["rotary_scaling"] == "dynamic" and _head_size(m) == 2,
        "heads have one pair of units (config.model.head_size, or hidden_size={hidden_size} / num_heads={num_heads}), "
        "which no base slows; expected another scaling, or heads of at least 4 units",
    ),
    Refusal(
        "positions",
        lambda m: _has(m, "relative") and m["local_window"],
        "relative positions score all pairs of tokens, and config.model.local_window={local_window} asks for those of "
        "a window alone; expected local_window=0, or rotary or learned positions",
    ),
    Refusal(
        "layer_windows",
        lambda m: not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in m["layer_windows"]),
        "it names a number of tokens for each layer, one after the other; expected numbers from 0 on, such as (512,)",
    ),
    Refusal(
        "layer_windows",
        lambda m: m["layer_windows"] and m["local_window"],
        "config.model.local_window={local_window} names windows too; expected one of them",
    ),
    Refusal(
        "positions",
        lambda m: _has(m, "relative") and any(m["layer_windows"]),
        "relative positions score all pairs of tokens, and config.model.layer_windows={layer_windows} asks for those "
        "of windows alone; expected no windows, or rotary or learned positions",
    ),
    Refusal(
        "positions",
        lambda m: _has(m, "relative") and m["global_projections"],
        "relative positions have no scores of config.model.global_projections; expected False, or rotary or learned "
        "positions",
    ),
    Refusal(
        "global_projections",
        lambda m: m["global_projections"] and m["global_tokens"] == "none",
        "config.model.global_tokens=none leaves no token that they are for; expected False, or global_tokens=auto",
    ),
    Refusal(
        "attention_kernel",
        lambda m: _has(m, "relative") and m["attention_kernel"] not in ("auto", "xla", "row"),
        "this kernel has no place for the scores of config.model.positions={positions}; expected auto, xla or row",
    ),
    Refusal(
        "attention_kernel",
        lambda m: _has(m, "bias") and m["attention_kernel"] not in ("auto", "xla"),
        "this kernel has no place for the bias of config.model.positions={positions}; expected auto or xla",
    ),
    Refusal(
        "bias_buckets",
        lambda m: _has(m, "bias") and (m["bias_buckets"] < 4 or m["bias_buckets"] % 2 != 0),
        "half of the rows are for tokens before and half for those behind, and half of these for logarithms of "
        "distances; expected an even number from 4 on",
    ),
    Refusal(
        "bias_distance",
        lambda m: _has(m, "bias") and m["bias_distance"] <= m["bias_buckets"] // 4,
        "a fourth of config.model.bias_buckets={bias_buckets} are one distance each, and logarithms begin behind them; "
        "expected more than {bias_buckets} / 4",
    ),
    Refusal(
        "relative_buckets",
        lambda m: m["relative_buckets"] and (m["relative_buckets"] < 2 or _lacks_logarithms(m)),
        "half of the buckets hold one distance each, and the other half the logarithms of the distances up to "
        "config.model.relative_span={relative_span} (0: max_positions={max_positions}), which must be further; "
        "expected 0, or at least 2 and less than 2 (that - 1)",
    ),
    Refusal(
        "first_norm",
        lambda m: not m["first_norm"] and m["norm_place"] == "post",
        "with config.model.norm_place=post there is no norm before the first layer; expected True, or norm_place=pre",
    ),
    Refusal(
        "first_norm",
        lambda m: not m["first_norm"] and m["layer_groups"],
        "with config.model.layer_groups={layer_groups} the first layer's norm is that of others too; expected True",
    ),
    Refusal(
        "layer_groups",
        lambda m: m["layer_groups"] and m["num_layers"] % m["group_layers"] != 0,
        "config.model.num_layers={num_layers} is not a multiple of config.model.group_layers={group_layers}",
    ),
    Refusal(
        "layer_groups",
        lambda m: m["layer_groups"] > m["num_layers"] // max(1, m["group_layers"]),
        "there are {num_layers} layers in groups of config.model.group_layers={group_layers}; expected no more groups "
        "than that",
    ),
    Refusal(
        "group_layers",
        lambda m: m["group_layers"] > 1 and not m["layer_groups"],
        "without config.model.layer_groups each layer has its own parameters; expected 1, or layer_groups",
    ),
    Refusal(
        "conv_kernel_size",
        lambda m: m["conv_kernel_size"] and m["conv_kernel_size"] % 2 == 0,
        "the convolution reads as many tokens before as behind; expected an odd number, or 0 for none",
    ),
    Refusal(
        "conv_kernel_size",
        lambda m: m["conv_kernel_size"] and m["layer_groups"],
        "the convolution is the first layer's alone, and with config.model.layer_groups={layer_groups} its parameters "
        "are those of others too; expected 0",
    ),
    Refusal(
        "conv_kernel_size",
        lambda m: m["conv_kernel_size"] and m["attention"] == "causal",
        "the convolution reads the tokens behind, which config.model.attention=causal hides; expected 0",
    ),
    Refusal(
        "conv_groups",
        lambda m: m["conv_kernel_size"] and m["hidden_size"] % m["conv_groups"] != 0,
        "it does not divide config.model.hidden_size={hidden_size}",
    ),
    Refusal(
        "global_every",
        lambda m: m["local_window"] and m["global_every"] < 1,
        "with config.model.local_window={local_window} every n-th layer sees all tokens; expected at least 1",
    ),
    Refusal(
        "global_offset",
        lambda m: m["local_window"] and m["global_offset"] >= m["global_every"],
        "every n-th layer sees all tokens, with n = config.model.global_every={global_every}; expected a number below "
        "that",
    ),
    Refusal(
        "tied_decoder",
        lambda m: m["tied_decoder"] and not m["mlm_transform"] and m["embedding_size"] not in (0, m["hidden_size"]),
        "without config.model.mlm_transform the decoder reads hidden states of {hidden_size}, and the word embedding "
        "has config.model.embedding_size={embedding_size}; expected False, or mlm_transform=True",
    ),
)


def check(model: Mapping) -> None:
    """Raises UserError for the first combination of a mapping like config.model that cannot work."""
    for refusal in REFUSALS:
        if refusal.applies(model):
            reason = refusal.reason.format(**model)
            raise UserError(f"config.model.{refusal.key}: found {model[refusal.key]}, but {reason}")


def _has(model, kind):
    return kind in model["positions"].split("+")


def _head_size(model):
    return model["head_size"] or model["hidden_size"] // model["num_heads"]


def _scaled_bases(model):
    local = model["local_rotary_base"] if model["local_rotary_scaling"] and _has_windows(model) else 0
    return model["rotary_base"], local


def _has_windows(model):
    return model["local_window"] or any(model["layer_windows"])


def _lacks_logarithms(model):
    """Returns whether rows have distances beyond the buckets of one each, and the span ends before them."""
    single, span = model["relative_buckets"] // 2, model["relative_span"] or model["max_positions"]
    return span - 1 <= single < model["max_positions"] - 1
