"""Pre-trains Ettin's encoder of 32M parameters (Weller et al. 2025, arXiv 2507.11412).

    python -m bert_jax.pretrain --config=ettin_32m --config.data.corpus=DIR --workdir=DIR

The setting is that of the 150M (configs/ettin_150m.py) with 10 layers of 384, 6 heads and 576 in the gated MLP; rate
3e-3 after 4 billion tokens of warm-up, 1.5e-3 where the last phase begins; decay 3e-4 a step (checked in the files
encoder_tiny.yaml of tiny, its de_decay and its prolong_decay, in pretraining/configs/standard of
JHU-CLSP/ettin-encoder-vs-decoder). Published: 212 hours on 4 H100s. 31,883,136 parameters. Not trained to the end by
this project.
"""

from bert_jax.config import load_recipe

LOWER = {"optimizer.learning_rate": 1.5e-3, "optimizer.weight_decay": 3e-4 / 1.5e-3}


def get_config():
    config = load_recipe("ettin_150m")
    config.model.hidden_size = 384
    config.model.num_layers = 10
    config.model.num_heads = 6
    config.model.intermediate_size = 576
    *earlier, decay = config.data.phases
    config.data.phases = (*earlier, decay | LOWER)
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 3e-4 / 3e-3  # a share of the rate, as all decay is here
    config.optimizer.warmup_steps = 848
    return config
