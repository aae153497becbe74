"""Trains an embedder whose vectors may be cut: losses at several widths (Kusupati et al. 2022), on pairs.

    python -m bert_jax.finetune --config=embedding/matryoshka --config.init_from=MODEL --workdir=DIR \
        --config.task.train=pairs.jsonl

As embedding/pairs, with the loss also of vectors cut to the widths of config.loss.matryoshka; scores of each width are
ndcg@10_128 and so on. --config.loss.matryoshka=64,32 names others, up to the size of the vectors.

Published: widths that halve, with equal weights (section 3). Not measured here.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("embedding/pairs")
    config.loss.matryoshka = (512, 256, 128, 64)
    return config
