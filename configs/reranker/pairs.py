"""Trains a reranker, which reads query and document together, on documents that are relevant or not.

    python -m bert_jax.finetune --config=reranker/pairs --config.init_from=MODEL --workdir=DIR \
        --config.task.train=judged.jsonl

Each record has the columns query, document and label (1 relevant, 0 not); or query, document and label as lists; or
query, positive and negatives (--config.task.negatives=COLUMN,COLUMN, or one column of lists). config.task.query and its
like name others. The loss is the binary cross-entropy of each document, or with --config.loss.name=listwise, listnet,
lambdarank, ... that of a query's documents together; margin_mse and kl learn a teacher's scores (config.task.score).

Score: nDCG@10 of the held-out queries' documents; average precision where queries have one document each.

Published: the cross-entropy of each pair (Nogueira & Cho 2019, monoBERT); sentence-transformers'
BinaryCrossEntropyLoss with rate 2e-5, 10 % warm-up, one epoch and batches of 32 (checked in its examples/cross_encoder/
training/ms_marco/training_ms_marco_bce.py; rerankers/training_gooaq_bce.py has 64, five mined negatives for each answer
and loss.positive_weight=5). Not measured here.
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "reranking"
    config.data.sequence_length = 256
    config.train.num_epochs = 1.0
    return config
