"""Trains an embedder on pairs of texts that belong together, such as questions and passages that answer them.

    python -m bert_jax.finetune --config=embedding/pairs --config.init_from=MODEL --workdir=DIR \
        --config.task.train=pairs.jsonl

Each record has the columns anchor and positive (--config.task.anchor=question --config.task.positive=passage names
others); --config.task.negatives=negative adds hard negatives. Every other positive and negative of a batch is a
negative, whatever the devices, so larger batches are harder and better; --config.loss.gradcache_rows=32 holds any batch
in the memory of 32 examples. No batch has a text twice.

Score: nDCG@10 of the held-out anchors among the held-out positives; --config.task.held_out=ir:DIR names a retrieval
task in BEIR's layout instead.

Published: sentence-transformers' MultipleNegativesRankingLoss with its scale of 20, rate 2e-5, 10 % warm-up and one
epoch (checked in its losses/MultipleNegativesRankingLoss.py and examples/sentence_transformer/training/prompts/
training_nq_prompts.py, which has batches of 256 without a text twice). Not measured here.
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "embedding"
    config.loss.name = "info_nce"
    config.data.batch_size = 64
    config.train.num_epochs = 1.0
    return config
