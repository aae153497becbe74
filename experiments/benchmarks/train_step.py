"""Compares a training step with transformers' BertForPreTraining in torch, on the same CPU cores.

    python -m experiments.benchmarks.train_step            writes experiments/results/train_step.md
    python -m experiments.benchmarks.train_step --processor_time     for a busy machine: processor time of one thread
    python -m experiments.benchmarks.train_step --rounds=0           only compiles; torch.compile keeps what it compiled

All sides have the same sizes, rows, tokens and predicted tokens, parameters in float32, dropout 0.1 on hidden states
and attention weights, clipping by global norm, and AdamW (in torch the fused one, its fastest). bert_jax computes
logits of the predicted tokens alone. torch is measured twice: as `BertForPreTraining` is, which computes logits of
every token, and with the hidden states of the predicted tokens gathered before its head, which transformers does not
offer but three lines of torch do. The ratio to the second compares the same arithmetic.

Each of the two runs eagerly and under torch.compile, in float32 and, where the processor multiplies bfloat16 numbers,
under autocast to bfloat16; bert_jax in float32 and with config.model.dtype=bfloat16. torch.compile takes the forward
and the backward pass as one graph each (fullgraph=True); clipping and AdamW stay outside. torch's attention is SDPA
without a mask, as transformers itself calls it outside torch.compile where no row is padded.

Training with bert_jax tells malloc to keep freed memory (bert_jax/processes/host_memory.py); torch's process does so
too, as the environment variables MALLOC_ARENA_MAX=1, MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=2147483647 would.
Beside that, the eager steps in float32 are measured with malloc as installed. Huge pages, which training with bert_jax
also takes, are used by neither side.

The ways of one package, with one setting of malloc, are steps of one model in one process. The sides take turns
(turns.py), once all are compiled. Every round is recorded when it is measured: a run that is stopped keeps its rounds.
Needs jax, flax, optax, torch and transformers alone.
"""

import datetime
import functools
import itertools
import pathlib
import re
from collections.abc import Callable

import numpy as np

from experiments.benchmarks import torch_side, train_step_report, turns
from experiments.benchmarks.settings import VOCABULARY, model_settings, run_settings

# name: layers, hidden, heads, intermediate, rows, tokens a row, predicted tokens a row
SIZES = {
    "Base, short": (12, 768, 12, 3072, 8, 128, 19),
    "Base, long": (12, 768, 12, 3072, 2, 512, 76),
    "4 x 256": (4, 256, 4, 1024, 32, 128, 19),
}
SMALL = {"1 x 32": (1, 32, 2, 64, 4, 32, 5)}  # a quick check that it runs
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "train_step.jsonl"
LOGITS = ("every token", "predicted tokens")  # whose logits torch computes
KEPT, INSTALLED = MALLOC = ("keeps freed memory", "as installed")


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


def our_ways():
    """Returns the ways of our step by their names: see `torch_ways`."""
    ways = [
        {"package": "ours", "dtype": dtype, "mode": "compiled", "logits": LOGITS[1], "malloc": KEPT}
        for dtype in ("float32", "bfloat16")
    ]
    return {", ".join(way.values()): way for way in ways}


def our_steps(layers, hidden, heads, intermediate, rows, length, slots):
    """Returns (functions that run one step of `our_ways` and wait for it, by name, facts about the steps).

    The facts are the FLOPs of a step, and `bfloat16_share` of XLA's program of the step in bfloat16. Both dtypes train
    the same parameters, which are float32.
    """
    import jax

    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.model import flops
    from bert_jax.processes.host_memory import keep_freed_memory
    from bert_jax.training import step as step_lib

    keep_freed_memory()  # as the training loop does
    configs = {
        name: run_settings(model_settings(layers, hidden, heads, intermediate, dtype=way["dtype"]))
        for name, way in our_ways().items()
    }
    models = {name: model_lib.build(config.model, VOCABULARY) for name, config in configs.items()}
    first = next(iter(configs))
    # One device, as torch has one process, also where JAX is told to split the CPU into several.
    mesh = sharding.make_mesh(configs[first].mesh, jax.devices()[:1])
    key = step_lib.dropout_key(configs[first])
    state = step_lib.init_state(configs[first], models[first], mesh, 1000)
    programs = {name: step_lib.make_train_step(configs[name], models[name], mesh, 1000) for name in configs}
    batch, done = make_batch(rows, length, slots), 0

    def step(train_step):
        nonlocal state, done
        state, metrics = train_step(state, batch, np.int32(done), key)
        done += 1
        return float(metrics["loss"])

    steps = {name: functools.partial(step, train_step) for name, train_step in programs.items()}
    last = list(programs)[-1]
    steps[last]()  # compiles the step in bfloat16, whose program is then at hand
    share = bfloat16_share(programs[last].lower(state, batch, np.int32(0), key).compile().as_text())
    return steps, {"flops": flops.step_flops(models[first].spec, rows, length, slots), "bfloat16_share": share}


def bfloat16_share(text):
    """Returns the share of a program's FLOPs of matrix products whose operands are bfloat16; 0.0 without products.

    XLA may convert the operands of a product of bfloat16 numbers to float32 first: then it multiplies no faster.

    Args:
      text: what `as_text` of the compiled program returned.
    """
    from bert_jax.planning import hlo

    flops = {True: 0.0, False: 0.0}
    program = hlo.parse(text)
    for name, product, runs in program.instructions():
        if product.opcode == "dot":
            left, right = (program.computations[name][operand].arrays[0] for operand in product.operands)
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.attributes)
            terms = np.prod([left.dimensions[int(axis)] for axis in contracted[1].split(",")]) if contracted else 1
            flops[left.dtype == right.dtype == "bf16"] += runs * product.arrays[0].size * terms
    return float(flops[True] / max(1.0, sum(flops.values())))


def torch_ways(malloc, bfloat16):
    """Returns the ways of torch's step by their names, each a dict of its dtype, mode, logits and malloc.

    Args:
      malloc: one of MALLOC; with malloc as installed there are the eager steps in float32 alone.
      bfloat16: whether to include autocast to bfloat16.
    """
    dtypes = ("float32", "bfloat16") if bfloat16 and malloc == KEPT else ("float32",)
    modes = ("eager", "compiled") if malloc == KEPT else ("eager",)
    ways = [
        {"package": "torch", "dtype": dtype, "mode": mode, "logits": logits, "malloc": malloc}
        for logits, dtype, mode in itertools.product(LOGITS, dtypes, modes)
    ]
    return {", ".join(way.values()): way for way in ways}


def torch_steps(*sizes, malloc, bfloat16):
    """Returns (functions that run one step of `torch_ways` and wait for it, by name, None); sizes as in SIZES."""
    if malloc == KEPT:
        from bert_jax.processes.host_memory import keep_freed_memory

        keep_freed_memory()
    model, losses = torch_losses(*sizes, ways=torch_ways(malloc, bfloat16))
    steps = torch_side.train_steps(model, losses)
    return {name: functools.partial(_value, step) for name, step in steps.items()}, None


def _value(step):
    return float(step())


def torch_losses(layers, hidden, heads, intermediate, rows, length, slots, ways, **changes):
    """Returns (a transformers.BertForPreTraining in training, functions that return its loss, by the ways' names).

    Args:
      layers, hidden, heads, intermediate, rows, length, slots: as in SIZES.
      ways: what `torch_ways` returned.
      **changes: keys of the model's config.
    """
    import torch
    import transformers

    model = transformers.BertForPreTraining(torch_side.bert_config(layers, hidden, heads, intermediate, **changes))
    model.train()
    batch = {name: torch.from_numpy(array) for name, array in make_batch(rows, length, slots).items()}
    inputs = {name: batch[name].long() for name in ("input_ids", "token_type_ids")}
    positions, predicted, pairs = (
        batch[name].long() for name in ("masked_positions", "masked_labels", "next_sentence_label")
    )
    labels = torch.full((rows, length), -100).scatter_(1, positions, predicted)

    def of_every_token():
        return model(**inputs, labels=labels, next_sentence_label=pairs).loss

    def of_predicted_tokens():
        return gathered_loss(model, model.bert(**inputs), positions, predicted, pairs)

    def under_autocast(loss_of, enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            return loss_of()

    losses = dict(zip(LOGITS, (of_every_token, of_predicted_tokens), strict=True))
    by_name = {}
    for name, way in ways.items():
        loss_of = losses[way["logits"]]
        loss_of = torch.compile(loss_of, fullgraph=True) if way["mode"] == "compiled" else loss_of
        by_name[name] = functools.partial(under_autocast, loss_of, way["dtype"] == "bfloat16")
    return model, by_name


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


def measure(name, sizes, options):
    """Yields the record of a size after each round: a dict of what was measured so far; see train_step_report."""
    bfloat16 = turns.multiplies_bfloat16()
    ways = our_ways()
    makes: dict[str, Callable] = {"ours": our_steps}
    for malloc in MALLOC:
        ways |= torch_ways(malloc, bfloat16)
        makes[f"torch, malloc {malloc}"] = functools.partial(torch_steps, malloc=malloc, bfloat16=bfloat16)
    sides = [way | {"seconds": []} for way in ways.values()]
    rates = []
    record = {"name": name, "sizes": sizes, "steps": options.steps, "processor_time": options.processor_time}
    record |= {
        "surroundings": turns.surroundings(),
        "date": str(datetime.date.today()),
        "sides": sides,
        "matrix_rates": rates,
    }
    for seconds, rate, facts in turns.rounds_of(sizes, options.rounds, options.steps, **makes):
        for way, side in zip(ways, sides, strict=True):
            side["seconds"].append(seconds[way])
        rates.append(rate)
        yield record | facts["ours"]


def main():
    parser = turns.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=[*SIZES, *SMALL], help="names of sizes; default all but the tiny")
    parser.add_argument(
        "--record", type=pathlib.Path, default=RESULTS, help="JSONL file; its tables are written beside"
    )
    options = parser.parse_args()
    turns.prepare(options)
    for name, sizes in (SIZES | SMALL).items():
        if name not in (options.only or SIZES):
            continue
        record = None
        for record in measure(name, sizes, options):
            train_step_report.write(options.record, record)
        if record:
            print("\n".join(train_step_report.section(record)), flush=True)


if __name__ == "__main__":
    main()
