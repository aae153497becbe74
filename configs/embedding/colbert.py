"""Trains a vector for each token, which are compared by late interaction (ColBERT: Khattab & Zaharia 2020).

    python -m bert_jax.finetune --config=embedding/colbert --config.init_from=MODEL --workdir=DIR \
        --config.task.train=pairs.jsonl

As embedding/pairs, but the score of an anchor and another text is the sum, over the anchor's tokens, of the largest
similarity with one of the text's: MaxSim. Anchors are filled up to 32 tokens with [MASK], punctuation of other texts
has no vector, and markers tell anchors from other texts. --config.task.negatives=negative adds hard negatives.
bert_jax.MultiVectorEmbedder, PyLate and sentence-transformers' MultiVectorEncoder read the result.

Score: nDCG@10 of the held-out anchors among the held-out positives; --config.task.held_out=ir:DIR names a retrieval
task in BEIR's layout instead.

Published: vectors of 128 numbers, queries of 32 tokens, rate 3e-6, batches of 32 (checked in ColBERT's code,
colbert/infra/config/settings.py; Khattab & Zaharia 2020, section 4.1 recalled), documents of 220 tokens there and of
180 in PyLate, whose settings these are: temperature 1 and one epoch with the defaults of transformers' Trainer (checked
in pylate/losses/contrastive.py and examples/train/contrastive.py, BERT-Base on the triplets of MS MARCO). ColBERTv2's
distillation from a cross-encoder (Santhanam et al. 2022, section 3.2) is not in it. Not measured here.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("embedding/pairs")
    config.task.pooling = "tokens"
    config.task.embedding_size = 128
    config.loss.temperature = 1.0
    config.data.sequence_length = 180
    config.data.batch_size = 32
    config.optimizer.learning_rate = 3e-6
    config.optimizer.warmup_share = 0.0
    config.optimizer.weight_decay = 0.0
    config.optimizer.epsilon = 1e-8
    return config
