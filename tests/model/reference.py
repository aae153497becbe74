"""Computes the encoder for one sequence in float64 numpy: slow, plain, and independent of bert_jax.model.

Every switch is one line or two where the papers say so; there is no padding, no batch, no scan and no kernel.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def forward(config, params, ids, types, chosen=()):
    """Returns (hidden states of the embeddings and of each layer, logits [sequence, vocabulary]) for one sequence.

    Args:
      config: every key of config.model.
      params: the model's parameters in float64.
      ids, types: int [sequence].
      chosen: positions of the global tokens.
    """
    config = config | {"chosen": [*chosen, *[0] * (config["global_tokens"] == "first" and not chosen)]}
    encoder, places = params["encoder"], np.arange(len(ids))
    tables = encoder["embeddings"]
    x = tables["word"]["embedding"][ids]
    if config["token_dropout"]:
        masked = ids == config["mask_id"]
        x = np.where(masked[:, None], 0, x * (1 - 0.15 * 0.8) / (1 - masked.mean()))
    if config["embedding_scale"]:
        x = x * math.sqrt(x.shape[-1])
    if "learned" in config["positions"]:
        x = x + tables["position"]["embedding"][places + config["position_offset"]]
    if config["type_vocab_size"]:
        x = x + tables["token_type"]["embedding"][types]
    if config["embedding_norm"]:
        x = _norm(config, tables["norm"], x)
    if "projection" in tables:
        x = _linear(tables["projection"], x)
    states, before = [x], x
    for i in range(config["num_layers"]):
        before, x = x, _layer(config, encoder, i, x, x)
        states.append(x)
    read = x
    if config["mask_decoder"] == "enhanced":
        read = before + params["mask_decoder"]["position"]["embedding"][places]
        for _ in range(2):
            read = _layer(config, encoder, config["num_layers"] - 1, before, read)
    if config["norm_place"] == "pre":
        states[-1], read = _norm(config, encoder["norm"], x), _norm(config, encoder["norm"], read)
    return states, _decoded(config, params, read)


def _decoded(config, params, x):
    head, word = params.get("mlm", {}), params["encoder"]["embeddings"]["word"]["embedding"]
    if config["mlm_transform"]:
        activation = ACTIVATIONS[config["head_activation"] or config["activation"]]
        x = _norm(config, head["norm"], activation(_linear(head["transform"], x)))
    logits = x @ (word if config["tied_decoder"] else head["decoder"]["embedding"]).T
    return logits + head["bias"] if config["decoder_bias"] else logits


def _layer(config, encoder, i, x, stream):
    """Runs layer i: `stream` attends to x and receives the layer's outputs."""
    params, pre = encoder["layers"][str(_source(config, i))], config["norm_place"] == "pre"
    first = pre and (config["first_norm"] or i > 0)
    keys, queries = (_norm(config, params["attention_norm"], y) if first else y for y in (x, stream))
    mixed = _attention(config, encoder, params["attention"], i, queries, keys)
    mixed = _norm(config, params["attention_output_norm"], mixed) if config["output_norm"] else mixed
    h = stream + mixed / config["residual_scale"]
    h = h if pre else _norm(config, params["attention_norm"], h)
    mixed = _mlp(config, params["mlp"], _norm(config, params["mlp_norm"], h) if pre else h)
    mixed = _norm(config, params["mlp_output_norm"], mixed) if config["output_norm"] else mixed
    h = h + mixed / config["residual_scale"]
    h = h if pre else _norm(config, params["mlp_norm"], h)
    if i == 0 and config["conv_kernel_size"]:
        mixed = ACTIVATIONS[config["conv_activation"]](_convolution(config, params["conv"], x))
        h = _norm(config, params["conv"]["norm"], h + mixed)
    return h


def _source(config, i):
    """Returns the number of the parameters that layer i uses."""
    groups, inner = config["layer_groups"], config["group_layers"]
    if not groups:
        return i
    rounds = config["num_layers"] // inner
    return int((i // inner) / (rounds / groups)) * inner + i % inner


def _window(config, i):
    if config["layer_windows"]:
        return config["layer_windows"][i % len(config["layer_windows"])]
    local = config["local_window"] and (i - config["global_offset"]) % config["global_every"]
    return config["local_window"] if local else 0


def _attention(config, encoder, params, i, queries, keys):
    """Returns what all tokens see, or with maps of global tokens' own what the others see, and these by their maps."""
    mixed = _mixed(config, encoder, params, i, queries, keys, ("query", "key", "value"))
    if config["global_projections"]:
        names = ("global_query", "global_key", "global_value")
        mixed[config["chosen"]] = _mixed(config, encoder, params, i, queries, keys, names)[config["chosen"]]
    return _linear(params["output"], mixed)


def _mixed(config, encoder, params, i, queries, keys, names):
    length, heads = len(keys), config["num_heads"]
    groups, size = config["num_kv_heads"] or heads, config["head_size"] or config["hidden_size"] // heads
    window = _window(config, i)
    query, key, value = (_linear(params[name], x) for name, x in zip(names, (queries, keys, keys), strict=True))
    query, key = (_query_key_norm(config, params, name, x, size) for name, x in (("query", query), ("key", key)))
    query = query.reshape(length, heads, size)
    key, value = (x.reshape(length, groups, size) for x in (key, value))
    if "rotary" in config["positions"]:
        base = config["local_rotary_base"] if window and config["local_rotary_base"] else config["rotary_base"]
        speeds, factor = _speeds(config, base, size, length, window)
        speeds = speeds.astype(np.float16).astype(np.float64) if config["rotary_half"] else speeds
        query, key = factor * _rotated(query, speeds), factor * _rotated(key, speeds)
    key, value = (np.repeat(x, heads // groups, 1) for x in (key, value))
    scores, terms = np.einsum("qhd,khd->hqk", query, key), 1
    if "relative" in config["positions"]:
        named = config["relative_terms"].split("+")
        scores, terms = scores + _distances(config, encoder, params, query, key, named), 1 + len(named)
    distance = np.arange(length)[:, None] - np.arange(length)
    scores = scores / math.sqrt((config["score_size"] or size) * terms)
    if "bias" in config["positions"]:
        rows = [[_bias_row(config, a - b) for b in range(length)] for a in range(length)]
        scores = scores + encoder["position_bias"]["embedding"][np.array(rows)].transpose(2, 0, 1)
    seen = np.abs(distance) <= window // 2 if window else np.full((length, length), True)
    seen[config["chosen"], :] = seen[:, config["chosen"]] = True
    if config["attention"] == "causal":
        seen = seen & (distance >= 0)
    weights = np.exp(np.where(seen, scores, -np.inf))
    weights = weights / weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, value).reshape(length, -1)


def _query_key_norm(config, params, name, x, size):
    """Norms queries or keys [sequence, units], each head's units by themselves or all of them together."""
    if config["query_key_norm"] == "none":
        return x
    parts = x.reshape(len(x), -1, size) if config["query_key_norm_over"] == "head" else x
    kind = {"norm": f"{config['query_key_norm']}_norm"}
    return _norm({**config, **kind}, params[f"{name}_norm"], parts).reshape(x.shape)


def _distances(config, encoder, params, query, key, terms):
    """Returns the scores of distances, [heads, query, key] (He et al. 2021, DeBERTa, equation 4)."""
    (length, heads, size), shared = query.shape, config["relative_shared"]
    table = encoder["relative"]["embedding"]
    table = _norm(config, encoder["relative_norm"], table) if config["relative_norm"] else table
    rows = [[_row(config, a - b) for b in range(length)] for a in range(length)]
    scores = 0.0
    if "c2p" in terms:
        places = _linear(params["key" if shared else "position_key"], table)
        places = np.repeat(places.reshape(len(table), -1, size), heads // (places.shape[1] // size), 1)
        scores = scores + np.einsum("qhd,qkhd->hqk", query, places[np.array(rows)])
    if "p2c" in terms:
        places = _linear(params["query" if shared else "position_query"], table).reshape(len(table), heads, size)
        scores = scores + np.einsum("khd,qkhd->hqk", key, places[np.array(rows)])
    return scores


def _row(config, distance):
    """Returns the table's row for a distance, or for the bucket of its logarithm (DeBERTa v2)."""
    span, buckets = config["relative_span"] or config["max_positions"], config["relative_buckets"]
    half, single = buckets or span, buckets // 2
    if buckets and abs(distance) > single:
        logarithm = math.log(abs(distance) / single) / math.log((span - 1) / single)
        distance = int(math.copysign(math.ceil(logarithm * (single - 1)) + single, distance))
    return min(max(distance + half, 0), 2 * half - 1)


def _bias_row(config, distance):
    """Returns the row of the biases for a query so far behind a key (Raffel et al. 2020, section 2.1)."""
    half = config["bias_buckets"] // 2
    single, row = half // 2, abs(distance)
    if row >= single:
        logarithm = math.log(row / single) / math.log(config["bias_distance"] / single)
        row = min(single + int(logarithm * (half - single)), half - 1)
    return row + half * (distance < 0)


def _speeds(config, base, size, length, local):
    """Returns each pair's radians from one token to the next, and what queries and keys are multiplied by."""
    half, kind, slower = size // 2, config["rotary_scaling"], config["rotary_factor"]
    pairs, trained = np.arange(half), config["rotary_trained"]
    speeds = base ** (-pairs / half)
    if kind == "none" or (local and not config["local_rotary_scaling"]):
        return speeds, 1.0
    if kind == "linear":
        return speeds / slower, 1.0
    if kind == "ntk":
        return speeds / slower ** (((pairs + 1) / half) ** config["rotary_mixed"]), 1.0
    if kind == "dynamic":
        stretch = slower * max(length, trained) / trained - slower + 1
        return (base * stretch ** (size / (size - 2))) ** (-pairs / half), 1.0
    few, many = config["rotary_slow_turns"], config["rotary_fast_turns"] or {"yarn": 32, "llama3": 4}[kind]
    if kind == "yarn":
        last, first = (half * math.log(trained / (2 * math.pi * turns), base) for turns in (few, many))
        first, last = max(math.floor(first), 0), min(math.ceil(last), size - 1)
        slowed = np.clip((pairs - first) / max(last - first, 0.001), 0, 1)
        factor = config["rotary_attention_factor"] or 0.1 * math.log(slower) + 1
    else:
        slowed, factor = 1 - np.clip((trained * speeds / (2 * math.pi) - few) / (many - few), 0, 1), 1.0
    return speeds * (slowed / slower + 1 - slowed), factor


def _rotated(x, speeds):
    """Rotates [sequence, heads, size]; a unit of the first half and one of the second form a pair (Su et al. 2021)."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * speeds
    first, second = x[..., :half], x[..., half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], -1
    )


def _mlp(config, params, x):
    activation, up = ACTIVATIONS[config["activation"]], _linear(params["up"], x)
    inside = activation(_linear(params["gate"], x)) * up if config["mlp"] == "gated" else activation(up)
    return _linear(params["down"], inside)


def _convolution(config, params, x):
    """Convolves each group of units over the same group of the neighbouring tokens (DeBERTa v2)."""
    kernel, width = params["kernel"], config["hidden_size"] // config["conv_groups"]
    around = np.pad(x, ((len(kernel) // 2,) * 2, (0, 0)))
    convolved = np.zeros_like(x)
    for first in range(0, config["hidden_size"], width):
        units = slice(first, first + width)
        for tap, weights in enumerate(kernel):
            convolved[:, units] += around[tap : tap + len(x), units] @ weights[:, units]
    return convolved + params["bias"]


def _linear(params, x):
    return x @ params["kernel"] + params.get("bias", 0.0)


def _norm(config, params, x):
    if config["norm"] == "layer_norm":
        x = x - x.mean(-1, keepdims=True)
    scale = params["scale"] + config["zero_centered_scale"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["norm_epsilon"]) * scale + params.get("bias", 0.0)
