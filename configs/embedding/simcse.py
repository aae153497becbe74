"""Trains an embedder on texts alone, each its own positive: unsupervised SimCSE (Gao, Yao & Chen 2021, section 3).

    python -m bert_jax.finetune --config=embedding/simcse --config.init_from=MODEL --workdir=DIR \
        --config.task.train=sentences.csv --config.task.held_out=sts:stsb_dev.csv

The file has a column text. Nothing of it can be held out, so a held-out set is needed: sts:FILE with graded pairs
(sentence1, sentence2, score), or ir:DIR in BEIR's layout.

Published: a million sentences of Wikipedia, one epoch in batches of 64 at 3e-5 for BERT-Base, a line to 0 without
warm-up, no weight decay, 32 tokens, temperature 0.05, dropout 0.1 (checked in README.md, run_unsup_example.sh and
train.py of princeton-nlp/SimCSE, whose other settings are the defaults of transformers' Trainer). There a tanh layer
stands on the [CLS] in training alone; here there is none. STS-B and six other sets of the kind 76.25 on average
(README). Not measured here.
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "embedding"
    config.task.anchor = "text"
    config.task.positive = ""
    config.task.pooling = "cls"
    config.loss.name = "info_nce"
    config.data.batch_size = 64
    config.data.sequence_length = 32
    config.optimizer.learning_rate = 3e-5
    config.optimizer.warmup_share = 0.0
    config.optimizer.weight_decay = 0.0
    config.optimizer.epsilon = 1e-8
    config.train.num_epochs = 1.0
    return config
