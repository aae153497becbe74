"""Compares a training step with transformers' BertForPreTraining in torch, on the same CPU cores.

    python -m experiments.benchmarks.train_step            prints a Markdown table
    python -m experiments.benchmarks.train_step --processor_time     for a busy machine: processor time of one thread

All sides have the same sizes, rows, tokens and predicted tokens, float32, dropout 0.1 on hidden states and attention
weights, clipping by global norm, and AdamW (in torch the fused one, its fastest). bert_jax computes logits of the
predicted tokens alone. torch is measured twice: as `BertForPreTraining` is, which computes logits of every token, and
with the hidden states of the predicted tokens gathered before its head, which transformers does not offer but three
lines of torch do. The second ratio compares the same arithmetic. Each side is a process of its own. They take turns
while the others sleep, so that other load of the machine affects all. Needs jax, flax, optax, torch and transformers
alone.
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
_ONE_THREAD = "BERT_JAX_BENCHMARK_ONE_THREAD"  # environment variable of the sides' processes


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

    torch.manual_seed(0)
    torch.set_num_threads(1 if _ONE_THREAD in os.environ else os.cpu_count())
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
    pairs = batch["next_sentence_label"].long()

    def loss_of():
        if not gathered:
            return model(**inputs, labels=labels, next_sentence_label=pairs).loss
        outputs = model.bert(**inputs)
        return gathered_loss(model, outputs, batch["masked_positions"].long(), batch["masked_labels"].long(), pairs)

    def step():
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step, None


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
    read = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
    words, next_sentence = model.cls(read, outputs.pooler_output)
    cross_entropy = torch.nn.functional.cross_entropy
    return cross_entropy(words.flatten(0, 1).float(), labels.flatten()) + cross_entropy(next_sentence.float(), pairs)


def matrix_rate():
    """Returns the FLOP/s that XLA reaches in a float32 product of two 2048 x 2048 matrices."""
    import jax
    import jax.numpy as jnp

    size = 2048
    matrix, multiply = jnp.ones((size, size)), jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    return 2 * size**3 / min(timed(lambda: multiply(matrix, matrix).block_until_ready()) for _ in range(5))


def timed(function):
    """Returns the seconds that a call takes: of a clock, or with --processor_time those of this process's threads."""
    clock = time.process_time if _ONE_THREAD in os.environ else time.perf_counter
    start = clock()
    function()
    return clock() - start


def serve(make, sizes, with_rate, connection):
    """Runs one side's process: answers each number of steps with their seconds, FLOPs and the matrix rate."""
    step, flops = make(*sizes)
    for _ in range(2):
        step()
    while steps := connection.recv():
        seconds = [timed(step) for _ in range(steps)]
        connection.send((seconds, flops, matrix_rate() if with_rate else None))


def measure(sizes, rounds, steps, ours, **others):
    """Returns the seconds of a step of each side, round by round, the step's FLOPs and the matrix rate of each round.

    Args:
      sizes: arguments of the functions that make a side's step.
      rounds: number of rounds, in each of which every side has its turn.
      steps: steps of a side in a round; the fastest counts.
      ours: makes our step, as `our_step` does.
      **others: make the steps of other sides, by their names, as `torch_step` does.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side, make in {"ours": ours, **others}.items():
        pipes[side], other = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(make, sizes, side == "ours", other), daemon=True))
        processes[-1].start()
    seconds, rates, flops = {side: [] for side in pipes}, [], None
    for _ in range(rounds):
        for side, pipe in pipes.items():
            pipe.send(steps)
            own, counted, rate = pipe.recv()
            seconds[side].append(min(own))
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
    parser.add_argument("--processor_time", action="store_true", help="seconds of processor time, torch on one thread")
    parser.add_argument("--only", choices=list(SIZES), help="one size; default all")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if options.processor_time:  # one thread of torch, which waits for others by spinning
        os.environ |= {_ONE_THREAD: "1", "OMP_NUM_THREADS": "1"}
    print(
        "| model | torch, logits of every token, ms (best) | torch, of predicted ones, ms (best) | ours, ms (best) "
        "| ours, tokens/s | ratio to the first, median of rounds (all) | ratio to the second | ours, GFLOP/s "
        "| XLA product, GFLOP/s | share |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, sizes in SIZES.items():
        if options.only not in (None, name):
            continue
        rows, length, slots = sizes[4:]
        seconds, rates, flops = measure(
            sizes, options.rounds, options.steps, our_step, torch=torch_step, gathered=gathered_step
        )
        shares = [flops / second / rate for second, rate in zip(seconds["ours"], rates, strict=True)]
        ours = statistics.median(seconds["ours"])
        cells = [
            f"{name}: {rows} x {length}, {slots} predicted a row",
            *(
                f"{statistics.median(seconds[side]) * 1e3:.0f} ({min(seconds[side]) * 1e3:.0f})"
                for side in ("torch", "gathered", "ours")
            ),
            f"{rows * length / ours:.0f}",
            *(ratios_cell(seconds[side], seconds["ours"]) for side in ("torch", "gathered")),
            f"{flops / ours / 1e9:.0f}",
            f"{statistics.median(rates) / 1e9:.0f}",
            f"{statistics.median(shares):.0%}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{options.rounds} rounds of {options.steps} steps a side; {surroundings()}.")


def ratios_cell(theirs, ours):
    """Returns the ratios of two sides' seconds round by round: their median, and all of them in order."""
    ratios = sorted(other / own for other, own in zip(theirs, ours, strict=True))
    return f"**{statistics.median(ratios):.2f}** ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"


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
