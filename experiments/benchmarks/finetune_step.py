"""Compares a fine-tuning step with transformers' BertForSequenceClassification in torch, on the same CPU cores.

    python -m experiments.benchmarks.finetune_step            writes experiments/results/finetune_step.md

Both sides have the same sizes, rows and tokens, two labels, float32, dropout 0.1 on hidden states, attention weights
and the classifier's input, clipping by global norm, and AdamW (in torch the fused one, its fastest); torch's attention
is SDPA. The sides take turns (turns.py).
"""

import pathlib
import statistics

import numpy as np

from experiments.benchmarks import torch_side, turns
from experiments.benchmarks.settings import CLIP_NORM, DROPOUT, EPSILON, VOCABULARY, model_settings

# name: layers, hidden, heads, intermediate, rows, tokens a row
SIZES = {"BERT-Base": (12, 768, 12, 3072, 16, 128)}
SMALL = {"2 x 64": (2, 64, 2, 128, 8, 32)}  # a quick check that it runs
LEARNING_RATE = 2e-5
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "finetune_step.md"


def make_batch(rows, length):
    """Returns a batch of random ids as the model takes it; every row is full."""
    random = np.random.default_rng(0)
    return {
        "input_ids": random.integers(1000, VOCABULARY, (rows, length)).astype(np.int32),
        "attention_mask": np.ones((rows, length), np.int32),
        "token_type_ids": np.zeros((rows, length), np.int32),
        "labels": random.integers(0, 2, rows).astype(np.int32),
    }


def our_step(layers, hidden, heads, intermediate, rows, length):
    """Returns (a function that runs one step and waits for it, FLOPs of the step)."""
    import jax

    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.config import finetuning as finetune_config
    from bert_jax.finetuning.step import Learner
    from bert_jax.processes.host_memory import keep_freed_memory

    keep_freed_memory()  # as the training loop does
    model_config = model_settings(layers, hidden, heads, intermediate)
    config = finetune_config.base()
    config.optimizer.update(
        learning_rate=LEARNING_RATE, schedule="linear", warmup_share=0.1, epsilon=EPSILON, weight_decay=0.01,
        clip_norm=CLIP_NORM,
    )  # fmt: skip
    task = model_lib.Task("sequence_classification", 2, dropout=DROPOUT)
    model = model_lib.build(model_config, VOCABULARY, next_sentence=False, language_model=False, task=task)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    learner = Learner(config, model, "single_label", (0,), mesh, 1000)
    state, _, _ = learner.layout.init({})
    batch = {name: array[None] for name, array in make_batch(rows, length).items()}
    batch["weights"] = np.ones((1, rows), np.float32)
    train_step, keys, done = learner.train_step, learner.dropout_keys(), 0

    def step():
        nonlocal state, done
        state, metrics = train_step(state, batch, np.int32(done), keys)
        done += 1
        return float(metrics["loss"][0])

    return step, learner.flops(batch)


def torch_step(layers, hidden, heads, intermediate, rows, length):
    """Returns the same for torch; the FLOPs are not counted."""
    import torch
    import transformers

    config = torch_side.bert_config(layers, hidden, heads, intermediate, num_labels=2)
    model = transformers.BertForSequenceClassification(config).train()
    batch = {name: torch.from_numpy(array).long() for name, array in make_batch(rows, length).items()}

    step = torch_side.train_step(
        model,
        lambda: model(**batch).loss,
        LEARNING_RATE,
        make_schedule=lambda optimizer: transformers.get_linear_schedule_with_warmup(optimizer, 100, 1000),
    )
    return lambda: float(step()), None


def main():
    parser = turns.parser(__doc__)
    parser.add_argument("--small", action="store_true", help="a tiny model, and no file is written")
    options = parser.parse_args()
    turns.prepare(options)
    lines = [
        "# A fine-tuning step",
        "",
        "`python -m experiments.benchmarks.finetune_step`; what is compared is said there.",
        "",
        "| model | torch, ms (best) | ours, ms (best) | torch, tokens/s | ours, tokens/s "
        "| ratio, median of rounds (all) | ours, share of XLA's matrix rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sizes in (SMALL if options.small else SIZES).items():
        rows, length = sizes[4:]
        seconds, rates, flops = turns.measure(sizes, options.rounds, options.steps, our_step, torch=torch_step)
        shares = [flops / second / rate for second, rate in zip(seconds["ours"], rates, strict=True)]
        sides = [seconds["torch"], seconds["ours"]]
        cells = [
            f"{name}: {rows} x {length}",
            *map(turns.times_cell, sides),
            *(f"{rows * length / statistics.median(side):.0f}" for side in sides),
            turns.ratios_cell(*sides),
            f"{statistics.median(shares):.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", turns.closing_line(options)]
    print("\n".join(lines))
    if not options.small:
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
