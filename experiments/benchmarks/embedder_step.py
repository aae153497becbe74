"""Compares a training step of an embedder with sentence-transformers', on the same CPU cores.

    python -m experiments.benchmarks.embedder_step                       prints a Markdown table
    python -m experiments.benchmarks.embedder_step --processor_time      for a busy machine

Both sides embed pairs of texts by the mean of the last layer, and learn by InfoNCE over the batch with a scale of 20
(there MultipleNegativesRankingLoss), in float32, with dropout 0.1 on hidden states and attention weights, clipping by
global norm, and AdamW (in torch the fused one). The sides take turns (turns.py).
"""

import tempfile

import numpy as np

from experiments.benchmarks import torch_side, turns
from experiments.benchmarks.settings import CLIP_NORM, DROPOUT, LEARNING_RATE, VOCABULARY

# name: layers, hidden, heads, intermediate, pairs, tokens a text
SIZES = {"6 x 384": (6, 384, 12, 1536, 64, 64)}


def make_ids(pairs, length):
    """Returns random token ids of anchors and positives, int32 [2, pairs, length]; every row is full."""
    return np.random.default_rng(0).integers(1000, VOCABULARY, (2, pairs, length)).astype(np.int32)


def our_learner(layers, hidden, heads, intermediate, pairs, length, gradcache_rows=0):
    """Returns (learner, a state, a batch of arrays [1, pairs, ...]).

    Args:
      layers, hidden, heads, intermediate: sizes of the model.
      pairs: anchors of a batch, each with its positive.
      length: tokens of a text.
      gradcache_rows: config.loss.gradcache_rows.
    """
    import jax

    from bert_jax import config as config_lib
    from bert_jax import model as model_lib
    from bert_jax import sharding
    from bert_jax.config import finetuning as finetune_config
    from bert_jax.finetuning.step import Learner

    settings = config_lib.base().model.to_dict() | {"pooler": False, "hidden_dropout": DROPOUT}
    settings |= {"hidden_size": hidden, "num_layers": layers, "num_heads": heads, "intermediate_size": intermediate}
    settings |= {"attention_dropout": DROPOUT, "max_positions": 512}
    head = model_lib.Task("embedding", hidden, "mean", 0.0)
    model = model_lib.build(settings, VOCABULARY, next_sentence=False, language_model=False, task=head)
    config = finetune_config.base()
    config.task.name, config.loss.gradcache_rows = "embedding", gradcache_rows
    config.optimizer.update(learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM, warmup_steps=0)
    learner = Learner(config, model, "info_nce", [0], sharding.make_mesh(config.mesh, jax.devices()[:1]), 1000)
    anchors, others = make_ids(pairs, length)
    texts = np.arange(2 * pairs, dtype=np.int32)
    batch = {
        "input_ids": anchors, "attention_mask": np.ones_like(anchors), "token_type_ids": np.zeros_like(anchors),
        "skipped": np.zeros(pairs, np.int32), "weights": np.ones(pairs, np.float32),
        "labels": np.zeros(pairs, np.float32), "texts": texts[:pairs], "known": texts[pairs:, None],
        "groups": np.full(pairs, -1, np.int32), "other_texts": texts[pairs:, None], "other_input_ids": others[:, None],
        "other_attention_mask": np.ones_like(others)[:, None], "other_token_type_ids": np.zeros_like(others)[:, None],
        "other_skipped": np.zeros((pairs, 1), np.int32),
    }  # fmt: skip
    return learner, learner.layout.init({})[0], {name: array[None] for name, array in batch.items()}


def our_step(*sizes):
    """Returns (a function that runs one step and waits for it, FLOPs of the step); sizes as of `our_learner`."""
    from bert_jax import sharding
    from bert_jax.processes.host_memory import keep_freed_memory

    keep_freed_memory()  # as the training loop does
    learner, state, batch = our_learner(*sizes)
    keys, done = learner.dropout_keys(), 0

    def step():
        nonlocal state, done
        state, metrics = learner.train_step(state, sharding.put(batch, learner.batch_sharding), np.int32(done), keys)
        done += 1
        return float(metrics["loss"][0])

    return step, learner.flops(batch)


def their_step(layers, hidden, heads, intermediate, pairs, length):
    """Returns the same for sentence-transformers; the FLOPs are not counted."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses, modules

    config = torch_side.bert_config(layers, hidden, heads, intermediate)
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(VOCABULARY - 5))]
        transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
        encoder = modules.Transformer(folder)
        model = SentenceTransformer(modules=[encoder, modules.Pooling(hidden, "mean")], device="cpu").train()
    loss_of = losses.MultipleNegativesRankingLoss(model, scale=20.0)
    ids = torch.from_numpy(make_ids(pairs, length)).long()
    features = [{"input_ids": rows, "attention_mask": torch.ones_like(rows)} for rows in ids]

    step = torch_side.train_step(model, lambda: loss_of([dict(side) for side in features], None), epsilon=1e-8)
    return lambda: float(step()), None


def main():
    options = turns.parser(__doc__).parse_args()
    turns.prepare(options)
    print("| model | sentence-transformers, ms (best) | ours, ms (best) | ratio, median of rounds (all) |")
    print("|---|---|---|---|")
    for name, sizes in SIZES.items():
        seconds, _, _ = turns.measure(sizes, options.rounds, options.steps, our_step, theirs=their_step)
        cells = [
            f"{name}: {sizes[4]} pairs of {sizes[5]} tokens",
            *(turns.times_cell(seconds[side]) for side in ("theirs", "ours")),
            turns.ratios_cell(seconds["theirs"], seconds["ours"]),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{turns.closing_line(options)}")


if __name__ == "__main__":
    main()
