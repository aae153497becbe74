"""Trains an embedder in two stages: BGE's (Xiao et al. 2024, section 4), on weak pairs and then with hard negatives.

    python -m bert_jax.finetune --config=embedding/bge --config.init_from=MODEL --workdir=DIR \
        --config.task.train=weak=weak.jsonl,labelled=mined.jsonl

The first phase learns from the set `weak`, with the columns anchor and positive, as embedding/e5_weak does: an anchor
against the positives of a large batch. The second starts from it and learns from the set `labelled`, whose records
have a list of negatives besides. A model finds them for its own second stage where the stages are run one by one:
embedding/e5_weak or embedding/pairs into FIRST, and then

    bert-jax mine --model=FIRST --input=pairs.jsonl --output=mined.jsonl --negatives=7 --skip=2 --depth=200
    python -m bert_jax.finetune --config=embedding/bge --config.phases="()" --config.init_from=FIRST --workdir=DIR \
        --config.task.train=mined.jsonl

Published of the second stage: 7 negatives, temperature 0.02, rate 1e-5 with 10 % warm-up, pooling the [CLS]
(FlagEmbedding, examples/finetune/embedder/encoder_only/base.sh; checked there), negatives mined in ranks 2 to 200 (its
hn_mine; recalled). Its batch size is an example's. With --config.loss.name=kl the scores of a cross-encoder are learned
instead, as that script does: mine --rerank=RERANKER writes them. The first stage has E5's published batch, rate and
steps (embedding/e5_weak), for BGE's depend on its devices. Not measured here.
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
    weak = load_recipe("embedding/e5_weak")
    first = {
        "sets": ("weak",),
        "task.negatives": (),
        "loss.temperature": weak.loss.temperature,
        "loss.gradcache_rows": weak.loss.gradcache_rows,
        "data.sequence_length": weak.data.sequence_length,
        "data.batch_size": weak.data.batch_size,
        "optimizer.learning_rate": weak.optimizer.learning_rate,
        "optimizer.learning_rate_range": weak.optimizer.learning_rate_range,
        "optimizer.warmup_steps": weak.optimizer.warmup_steps,
        "train.num_steps": weak.train.num_steps,
    }
    config.phases = (first, {"sets": ("labelled",)})
    return config
