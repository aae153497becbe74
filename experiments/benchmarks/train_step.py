"""Compares a training step with transformers' BertForPreTraining in torch, on the same CPU cores.

    python -m experiments.benchmarks.train_step            prints a Markdown table

Both sides have the same sizes, rows, tokens and predicted tokens, float32, dropout 0.1 on hidden states and attention
weights, clipping by global norm, and AdamW (in torch the fused one, its fastest). Each side is a process of its own.
They take turns while the other one sleeps, so that other load of the machine affects both. Needs jax, flax, optax,
torch and transformers alone.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from importlib import metadata

import numpy as np

from experiments.benchmarks.settings import CLIP_NORM, EPSILON, LEARNING_RATE, VOCABULARY, model_settings, run_settings

# name: layers, hidden, heads, intermediate, rows, tokens a row, predicted tokens a row
SIZES = {
    "4 x 256": (4, 256, 4, 1024, 32, 128, 19),
    "Base, short": (12, 768, 12, 3072, 8, 128, 19),
    "Base, long": (12, 768, 12, 3072, 2, 512, 76),
}
DROPOUT = 0.1


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


def torch_step(layers, hidden, heads, intermediate, rows, length, slots):
    """Returns the same for torch; the FLOPs are not counted."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=intermediate, hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.BertForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, eps=EPSILON, weight_decay=0.01, fused=True)
    batch = {name: torch.from_numpy(array) for name, array in make_batch(rows, length, slots).items()}
    labels = torch.full((rows, length), -100)
    labels.scatter_(1, batch["masked_positions"].long(), batch["masked_labels"].long())
    inputs = {name: batch[name].long() for name in ("input_ids", "attention_mask", "token_type_ids")}
    inputs |= {"labels": labels, "next_sentence_label": batch["next_sentence_label"].long()}

    def step():
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step, None


def matrix_rate():
    """Returns the FLOP/s that XLA reaches in a float32 product of two 2048 x 2048 matrices."""
    import jax
    import jax.numpy as jnp

    size = 2048
    matrix, multiply = jnp.ones((size, size)), jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    return 2 * size**3 / min(timed(lambda: multiply(matrix, matrix).block_until_ready()) for _ in range(5))


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def serve(make, sizes, with_rate, connection):
    """Runs one side's process: answers each number of steps with their seconds, FLOPs and the matrix rate."""
    step, flops = make(*sizes)
    for _ in range(2):
        step()
    while steps := connection.recv():
        seconds = [timed(step) for _ in range(steps)]
        connection.send((seconds, flops, matrix_rate() if with_rate else None))


def measure(sizes, rounds, steps, ours, theirs):
    """Seconds of a step of each side, round by round, with the step's FLOPs and the matrix rate of each round.

    `ours` and `theirs` make a side's step of `*sizes`, as our_step and torch_step do.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side, make in (("ours", ours), ("torch", theirs)):
        pipes[side], other = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(make, sizes, side == "ours", other), daemon=True))
        processes[-1].start()
    seconds, rates, flops = {"ours": [], "torch": []}, [], None
    for _ in range(rounds):
        for side, pipe in pipes.items():
            pipe.send(steps)
            rounds, counted, rate = pipe.recv()
            seconds[side].append(min(rounds))
            if rate:
                flops = counted
                rates.append(rate)
            time.sleep(0.5)  # torch's idle threads spin for a while
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return seconds, rates, flops


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps of each side in a round; the fastest counts")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    print(
        "| model | torch, ms (best) | ours, ms (best) | ours, tokens/s | ratio, median of rounds (all) "
        "| ours, GFLOP/s | XLA product, GFLOP/s | share |\n|---|---|---|---|---|---|---|---|"
    )
    for name, sizes in SIZES.items():
        rows, length, slots = sizes[4:]
        seconds, rates, flops = measure(sizes, options.rounds, options.steps, our_step, torch_step)
        ratios = [theirs / ours for theirs, ours in zip(seconds["torch"], seconds["ours"], strict=True)]
        shares = [flops / second / rate for second, rate in zip(seconds["ours"], rates, strict=True)]
        ours = statistics.median(seconds["ours"])
        cells = [
            f"{name}: {rows} x {length}, {slots} predicted a row",
            *(f"{statistics.median(s) * 1e3:.0f} ({min(s) * 1e3:.0f})" for s in (seconds["torch"], seconds["ours"])),
            f"{rows * length / ours:.0f}",
            f"**{statistics.median(ratios):.2f}** ({', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))})",
            f"{flops / ours / 1e9:.0f}",
            f"{statistics.median(rates) / 1e9:.0f}",
            f"{statistics.median(shares):.0%}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{options.rounds} rounds of {options.steps} steps a side; {surroundings()}.")


def surroundings():
    """Returns the machine and the package versions, for the table's heading."""
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "torch", "transformers"))
    return f"{os.cpu_count()} cores, {processor()}; Python {platform.python_version()}, {versions}"


def processor():
    """Returns the processor's name as Linux reports it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
