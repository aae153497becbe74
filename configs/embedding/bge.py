"""Trains an embedder on pairs with mined negatives, the second of two stages: BGE (Xiao et al. 2024, section 4).

    bert-jax mine --model=FIRST --input=pairs.jsonl --output=mined.jsonl --negatives=7 --skip=2 --depth=200
    python -m bert_jax.finetune --config=embedding/bge --config.init_from=FIRST --workdir=DIR \
        --config.task.train=mined.jsonl

FIRST is a model of the first stage, such as embedding/e5_weak or embedding/pairs. Each record has the columns anchor,
positive and negatives, a list. Several named sets are trained on in batches of their own
(--config.data.set_batches=apart).

Published: 7 negatives, temperature 0.02, rate 1e-5 with 10 % warm-up, pooling the [CLS] (FlagEmbedding,
examples/finetune/embedder/encoder_only/base.sh; checked there), negatives mined in ranks 2 to 200 (its hn_mine;
recalled). Its
batch size is an example's. With --config.loss.name=kl the scores of a cross-encoder are learned instead, as that script
does: mine --rerank=RERANKER writes them. Not measured here.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("embedding/pairs")
    config.task.negatives = ("negatives",)
    config.task.pooling = "cls"
    config.loss.temperature = 0.02
    config.data.sequence_length = 512
    config.data.batch_size = 64
    config.optimizer.learning_rate = 1e-5
    return config
