"""Pre-trains Ettin's encoder of 17M parameters (Weller et al. 2025, arXiv 2507.11412).

    python -m bert_jax.pretrain --config=ettin_17m --config.data.corpus=DIR --workdir=DIR

The setting is that of the 150M (configs/ettin_150m.py) with 7 layers of 256, 4 heads and 384 in the gated MLP; rate
3e-3 after 4 billion tokens of warm-up, 1.5e-3 where the last phase begins; decay 3e-4 a step (checked in the files
encoder_very_tiny.yaml of very_tiny, its de_decay and its prolong_decay, in pretraining/configs/standard of
JHU-CLSP/ettin-encoder-vs-decoder). Local layers keep rotary base 10,000 in the second phase. Published: 141 hours on 4
H100s. 16,797,440 parameters. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe

LOWER = {"optimizer.learning_rate": 1.5e-3, "optimizer.weight_decay": 3e-4 / 1.5e-3}


def get_config():
    config = load_recipe("ettin_150m")
    config.model.hidden_size = 256
    config.model.num_layers = 7
    config.model.num_heads = 4
    config.model.intermediate_size = 384
    pretraining, extension, decay = config.data.phases
    config.data.phases = (pretraining, extension | {"model.local_rotary_base": 10_000.0}, decay | LOWER)
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 3e-4 / 3e-3  # a share of the rate, as all decay is here
    config.optimizer.warmup_steps = 848
    return config
