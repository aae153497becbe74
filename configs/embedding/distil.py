"""Trains an embedder to give texts the vectors of another one (Reimers & Gurevych 2020).

    python -m bert_jax.finetune --config=embedding/distil --config.init_from=MODEL --config.loss.teacher=TEACHER \
        --workdir=DIR --config.task.train=texts.jsonl --config.task.held_out=sts:stsb_dev.csv

The file has a column text. With --config.task.positive=COLUMN, its translation for instance, that text learns the
teacher's vector of `text` too, which is how the paper makes embedders of other languages. The teacher is any embedder
that bert_jax opens; where its vectors have another size, --config.task.embedding_size puts a linear map behind the
pooling. Its vectors of all texts are made once, at the start, and stay in memory.

Published: batches of 64 at 2e-5 with 10,000 steps of warm-up, Adam without bias correction and an epsilon of 1e-6, 5
epochs, 128 tokens, mean pooling (checked in sentence-transformers' examples/training/multilingual/make_multilingual.py
for a student of XLM-R Base). One epoch and 10 % warm-up here suit less text. Not measured here.
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "embedding"
    config.task.anchor = "text"
    config.task.positive = ""
    config.loss.name = "mse"
    config.data.batch_size = 64
    config.optimizer.learning_rate = 2e-5
    config.optimizer.epsilon = 1e-6
    config.optimizer.bias_correction = False
    config.train.num_epochs = 1.0
    return config
