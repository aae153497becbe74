"""Pre-trains a small BERT in minutes on two CPU cores; `make quickstart` runs it on the documentation of Python.

    python -m bert_jax.prepare --input=python-docs --output=DIR --tokenizer=train:wordpiece:4096 --eval_share=0.05
    python -m bert_jax.pretrain --config=quickstart --config.data.corpus=DIR --workdir=WORKDIR

Not a published setting: 2 layers of 128 and masked tokens alone, since next-sentence pairs teach a run this short
little. What gets it off the plateau of word frequencies in a few thousand small steps: rows filled from one
document, more masks, a high rate that falls only at the end, no dropout, and an initialisation as wide for 128
units as 0.02 is for 768 and more. What it reaches is in README.md.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.hidden_size = 128
    config.model.num_layers = 2
    config.model.num_heads = 4
    config.model.intermediate_size = 256
    config.model.max_positions = 64
    config.model.hidden_dropout = 0.0
    config.model.attention_dropout = 0.0
    config.model.initializer_range = 0.06
    config.model.pooler = False
    config.objective.next_sentence = False
    config.data.format = "doc_sentences"
    config.data.sequence_length = 64
    config.data.batch_size = 16
    config.data.mask_rate = 0.25
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "trapezoidal"
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 1000
    config.train.num_steps = 3000
    config.train.log_every = 100
    config.train.eval_every = 1000
    config.train.eval_batch_size = 64
    config.train.eval_batches = 8
    config.train.checkpoint_every = 1000
    return config
