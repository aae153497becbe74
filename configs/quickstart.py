"""A small BERT that trains in minutes on two CPU cores; `make quickstart` runs it on the documentation of Python.

    python -m bert_jax.prepare --input=python-docs --output=DIR --tokenizer=train:wordpiece:8192
    python -m bert_jax.pretrain --config=quickstart --config.data.corpus=DIR --workdir=WORKDIR

Not a published setting: MLM + NSP as in BERT (configs/bert_base.py), with 4 layers of 256, short rows, a high rate
and no dropout, since a run this short sees little text twice. What it reaches is in README.md.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.hidden_size = 256
    config.model.num_layers = 4
    config.model.num_heads = 4
    config.model.intermediate_size = 1024
    config.model.max_positions = 128
    config.model.hidden_dropout = 0.0
    config.model.attention_dropout = 0.0
    config.data.sequence_length = 128
    config.data.batch_size = 32
    config.data.pair_repeats = 4
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.01
    config.train.num_steps = 1000
    config.train.log_every = 50
    config.train.eval_every = 250
    config.train.eval_batches = 16
    config.train.checkpoint_every = 500
    return config
