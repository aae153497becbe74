"""Compares Longformer's windows with full attention and with transformers' LongformerModel in torch.

    python -m experiments.benchmarks.longformer             writes experiments/results/longformer.md

Layers of the shape of allenai/longformer-base-4096 (768 units, 12 heads, windows of 512 tokens), float32, rows of 4,096
tokens whose first token is global, as in classification; forward, and forward and backward with a dropout of 0.1. The
same layers without windows and global tokens are "full attention". Each side has a process of its own and they take
turns (experiments/benchmarks/turns.py). The tables of words and positions cost nothing here: the vocabulary is small.
Memory is what the compiled forward and backward pass needs beside its arguments.
"""

import pathlib
import statistics

from experiments.benchmarks import turns
from experiments.benchmarks.settings import DROPOUT, model_settings

WIDTH, HEADS, UNITS, WINDOW, LENGTH, WORDS = 768, 12, 3072, 512, 4096, 1000
MEMORY_LENGTHS = (1024, 2048, 4096)
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "longformer.md"


def model_of(layers, window, length):
    """Returns the encoder, with windows and global tokens or, for a window of 0, without."""
    from bert_jax import model as model_lib

    switches = {"layer_windows": (window,), "global_tokens": "first", "global_projections": True} if window else {}
    settings = model_settings(
        layers, WIDTH, HEADS, UNITS, max_positions=length, type_vocab_size=1, norm_epsilon=1e-5, pooler=False,
        position_offset=2, vocab_size=WORDS, **switches,
    )  # fmt: skip
    return model_lib.build(settings, WORDS, next_sentence=False, language_model=False)


def functions(model):
    """Returns the forward pass, and the forward and backward pass, of parameters and a batch."""
    import jax
    import jax.numpy as jnp

    def forward(params, batch):
        return model.apply(params, batch)["hidden"]

    def loss(params, batch):
        return jnp.square(model.apply(params, batch, dropout_key=jax.random.key(0))["hidden"]).mean()

    return {"forward": forward, "training": jax.grad(loss)}


def batch_of(length):
    """Returns the arrays of one row."""
    import jax.numpy as jnp

    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: jnp.full((1, length), int(name != "token_type_ids") * (1 + 4 * (name == "input_ids")), jnp.int32)
            for name in names}  # fmt: skip


def ours(layers):
    """Returns steps of both encoders by name, and no facts."""
    import jax

    steps = {}
    for side, window in (("windows", WINDOW), ("full attention", 0)):
        model = model_of(layers, window, LENGTH)
        params, batch = jax.jit(model.init)(jax.random.key(0)), batch_of(LENGTH)
        for kind, function in functions(model).items():
            run = jax.jit(function).lower(params, batch).compile()
            steps[f"{kind}, {side}"] = lambda run=run, params=params, batch=batch: jax.block_until_ready(
                run(params, batch)
            )
    return steps, None


def theirs(layers):
    """Returns steps of transformers' encoder by name, and no facts."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(turns.num_threads())
    config = transformers.LongformerConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=UNITS, attention_window=WINDOW, max_position_embeddings=LENGTH + 2, type_vocab_size=1,
        layer_norm_eps=1e-5, hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT,
    )  # fmt: skip
    model = transformers.LongformerModel(config, add_pooling_layer=False)
    ids = torch.full((1, LENGTH), 5)
    first = torch.zeros_like(ids)
    first[:, 0] = 1
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "global_attention_mask": first}

    def forward():
        model.eval()
        with torch.no_grad():
            model(**arguments)

    def training():
        model.train()
        model.zero_grad(set_to_none=True)
        model(**arguments).last_hidden_state.square().mean().backward()

    return {"forward, transformers": forward, "training, transformers": training}, None


def memory(length, window):
    """Returns the bytes that a layer adds to a forward and backward pass at a length."""
    import jax

    def needed(layers):
        model = model_of(layers, window, length)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        run = jax.jit(functions(model)["training"]).lower(shapes, batch_of(length)).compile()
        return run.memory_analysis().temp_size_in_bytes

    return needed(2) - needed(1)


def main():
    flags = turns.parser(__doc__)
    flags.add_argument("--layers", type=int, default=2)
    flags.add_argument("--print", action="store_true", help="print the tables and leave the recorded ones as they are")
    options = flags.parse_args()
    turns.prepare(options)
    rounds = [
        seconds
        for seconds, _, _ in turns.rounds_of((options.layers,), options.rounds, options.steps, ours=ours, theirs=theirs)
    ]
    times = {name: [seconds[name] for seconds in rounds] for name in rounds[0]}
    clock = "processor time" if options.processor_time else "seconds on the clock"
    lines = [
        "# Longformer",
        "",
        f"`python -m experiments.benchmarks.longformer`: {options.layers} layers of {WIDTH} ({HEADS} heads, windows of "
        f"{WINDOW}), one row of {LENGTH:,} tokens with a global first token, float32, {clock}. "
        f"{turns.closing_line(options)}",
        "",
        "| | tokens/s with windows | tokens/s, full attention | tokens/s, LongformerModel in torch "
        "| windows over full, by round | windows over torch, by round |",
        "|---" * 6 + "|",
    ]
    for kind in ("forward", "training"):
        sides = [times[f"{kind}, {side}"] for side in ("windows", "full attention", "transformers")]
        speeds = " | ".join(f"{LENGTH / statistics.median(seconds):,.0f}" for seconds in sides)
        ratios = " | ".join(turns.ratios_cell(other, sides[0]) for other in sides[1:])
        lines.append(f"| {kind} | {speeds} | {ratios} |")
    lines += [
        "",
        "Memory that a layer adds to a forward and backward pass, by the compiler:",
        "",
        "| tokens a row | MiB with windows | MiB, full attention |",
        "|---" * 3 + "|",
    ]
    for length in MEMORY_LENGTHS:
        sizes = " | ".join(f"{memory(length, window) / 2**20:,.0f}" for window in (WINDOW, 0))
        lines.append(f"| {length:,} | {sizes} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.print:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
