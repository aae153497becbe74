"""Compares a training step with transformers' BertForPreTraining in torch, on the same CPU cores.

    python -m experiments.benchmarks.train_step            prints a Markdown table
    python -m experiments.benchmarks.train_step --processor_time     for a busy machine: processor time of one thread

All sides have the same sizes, rows, tokens and predicted tokens, float32, dropout 0.1 on hidden states and attention
weights, clipping by global norm, and AdamW (in torch the fused one, its fastest). bert_jax computes logits of the
predicted tokens alone. torch is measured twice: as `BertForPreTraining` is, which computes logits of every token, and
with the hidden states of the predicted tokens gathered before its head, which transformers does not offer but three
lines of torch do. The second ratio compares the same arithmetic. The sides take turns (turns.py). Needs jax, flax,
optax, torch and transformers alone.
"""

import statistics

import numpy as np

from experiments.benchmarks import torch_side, turns
from experiments.benchmarks.settings import VOCABULARY, model_settings, run_settings

# name: layers, hidden, heads, intermediate, rows, tokens a row, predicted tokens a row
SIZES = {
    "4 x 256": (4, 256, 4, 1024, 32, 128, 19),
    "Base, short": (12, 768, 12, 3072, 8, 128, 19),
    "Base, long": (12, 768, 12, 3072, 2, 512, 76),
}


def make_batch(rows, length, slots):
    """Returns a batch of random ids as the model takes it; every row is full, its second half is segment B."""
    random = np.random.default_rng(0)
    positions = [np.sort(random.choice(np.arange(1, length - 1), slots, replace=False)) for _ in range(rows)]
    batch = {
        "input_ids": random.integers(1000, VOCABULARY, (rows, length)),
        "attention_mask": np.ones((rows, length)),
        "token_type_ids": np.tile(np.arange(length) >= length // 2, (rows, 1)),
        "masked_positions": np.stack(positions),
        "masked_labels": random.integers(1000, VOCABULARY, (rows, slots)),
        "next_sentence_label": random.integers(0, 2, rows),
    }
    return {name: array.astype(np.int32) for name, array in batch.items()} | {
        "masked_weights": np.ones((rows, slots), np.float32)
    }


def our_step(layers, hidden, heads, intermediate, rows, length, slots):
    """Returns (a function that runs one step and waits for it, FLOPs of the step)."""
    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.model import flops
    from bert_jax.training import step as step_lib
    from bert_jax.training.runtime import keep_freed_memory

    keep_freed_memory()  # as the training loop does
    config = run_settings(model_settings(layers, hidden, heads, intermediate))
    model = model_lib.build(config.model, VOCABULARY)
    mesh = sharding.make_mesh(config.mesh)
    state = step_lib.init_state(config, model, mesh, 1000)
    train_step = step_lib.make_train_step(config, model, mesh, 1000)
    key, batch, done = step_lib.dropout_key(config), make_batch(rows, length, slots), 0

    def step():
        nonlocal state, done
        state, metrics = train_step(state, batch, np.int32(done), key)
        done += 1
        return float(metrics["loss"])

    return step, flops.step_flops(model.spec, rows, length, slots)


def torch_step(layers, hidden, heads, intermediate, rows, length, slots, gathered=False):
    """Returns the same for torch; the FLOPs are not counted.

    With `gathered` the head reads the hidden states of the predicted tokens alone, as ours does.
    """
    import torch
    import transformers

    config = torch_side.bert_config(layers, hidden, heads, intermediate)
    model = transformers.BertForPreTraining(config).train()
    batch = {name: torch.from_numpy(array) for name, array in make_batch(rows, length, slots).items()}
    labels = torch.full((rows, length), -100)
    labels.scatter_(1, batch["masked_positions"].long(), batch["masked_labels"].long())
    inputs = {name: batch[name].long() for name in ("input_ids", "attention_mask", "token_type_ids")}
    pairs = batch["next_sentence_label"].long()

    def loss_of():
        if not gathered:
            return model(**inputs, labels=labels, next_sentence_label=pairs).loss
        outputs = model.bert(**inputs)
        return gathered_loss(model, outputs, batch["masked_positions"].long(), batch["masked_labels"].long(), pairs)

    step = torch_side.train_step(model, loss_of)
    return lambda: float(step()), None


def gathered_step(*sizes):
    """Returns `torch_step` with logits of the predicted tokens alone."""
    return torch_step(*sizes, gathered=True)


def gathered_loss(model, outputs, positions, labels, pairs):
    """Returns the loss of a BertForPreTraining, its head applied to the predicted tokens alone.

    Args:
      model: the model.
      outputs: what model.bert returned.
      positions, labels: places and ids of the predicted tokens, int64 [rows, slots].
      pairs: next-sentence labels, int64 [rows].
    """
    import torch

    hidden = outputs.last_hidden_state
    predicted = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
    words, next_sentence = model.cls(predicted, outputs.pooler_output)
    cross_entropy = torch.nn.functional.cross_entropy
    return cross_entropy(words.flatten(0, 1).float(), labels.flatten()) + cross_entropy(next_sentence.float(), pairs)


def main():
    parser = turns.parser(__doc__)
    parser.add_argument("--only", choices=list(SIZES), help="one size; default all")
    options = parser.parse_args()
    turns.prepare(options)
    print(
        "| model | torch, logits of every token, ms (best) | torch, of predicted ones, ms (best) | ours, ms (best) "
        "| ours, tokens/s | ratio to the first, median of rounds (all) | ratio to the second | ours, GFLOP/s "
        "| XLA product, GFLOP/s | share |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, sizes in SIZES.items():
        if options.only not in (None, name):
            continue
        rows, length, slots = sizes[4:]
        seconds, rates, flops = turns.measure(
            sizes, options.rounds, options.steps, our_step, torch=torch_step, gathered=gathered_step
        )
        shares = [flops / second / rate for second, rate in zip(seconds["ours"], rates, strict=True)]
        median = statistics.median(seconds["ours"])
        cells = [
            f"{name}: {rows} x {length}, {slots} predicted a row",
            *(turns.times_cell(seconds[side]) for side in ("torch", "gathered", "ours")),
            f"{rows * length / median:.0f}",
            *(turns.ratios_cell(seconds[side], seconds["ours"]) for side in ("torch", "gathered")),
            f"{flops / median / 1e9:.0f}",
            f"{statistics.median(rates) / 1e9:.0f}",
            f"{statistics.median(shares):.0%}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{turns.closing_line(options)}")


if __name__ == "__main__":
    main()
