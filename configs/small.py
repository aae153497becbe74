"""Pre-trains a BERT of 4 layers of 256 on a few books' worth of text and two CPU cores: the smallest worth fine-tuning.

    python -m bert_jax.prepare --input='books/*.txt,wiki/*.txt.gz' --output=DIR --tokenizer=train:wordpiece:8192
    python -m bert_jax.pretrain --config=small --config.data.corpus=DIR --workdir=WORKDIR

Not a published setting. As in `quickstart`: masked tokens alone, more of them, a high rate that falls only in the last
thousand steps, no dropout, a wider initialisation; train.num_steps may be raised while it runs.
experiments/results/pretraining_helps.md says what it reached, and what that was worth in fine-tuning.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("quickstart")
    config.model.hidden_size = 256
    config.model.num_layers = 4
    config.model.intermediate_size = 1024
    config.model.max_positions = 128
    config.model.initializer_range = 0.04
    config.data.format = "full_sentences"
    config.data.sequence_length = 128
    config.data.batch_size = 32
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 400
    config.optimizer.b2 = 0.98
    config.train.num_steps = 9000
    config.train.checkpoint_every = 250
    return config
