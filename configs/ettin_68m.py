"""Pre-trains Ettin's encoder of 68M parameters (Weller et al. 2025, arXiv 2507.11412).

    python -m bert_jax.pretrain --config=ettin_68m --config.data.corpus=DIR --workdir=DIR

The setting is that of the 150M (configs/ettin_150m.py) with 19 layers of 512, 8 heads and 768 in the gated MLP; rate
3e-3 after 3 billion tokens of warm-up, 1.5e-3 where the last phase begins; decay 3e-4 a step (checked in the files
encoder_mini.yaml of mini, its de_decay and its prolong_decay, in pretraining/configs/standard of
JHU-CLSP/ettin-encoder-vs-decoder). Published: 300 hours on 4 H100s. 68,144,640 parameters. Not trained to the end by
this project.
"""

from bert_jax.config import load_recipe

LOWER = {"optimizer.learning_rate": 1.5e-3, "optimizer.weight_decay": 3e-4 / 1.5e-3}


def get_config():
    config = load_recipe("ettin_150m")
    config.model.hidden_size = 512
    config.model.num_layers = 19
    config.model.num_heads = 8
    config.model.intermediate_size = 768
    *earlier, decay = config.data.phases
    config.data.phases = (*earlier, decay | LOWER)
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 3e-4 / 3e-3  # a share of the rate, as all decay is here
    config.optimizer.warmup_steps = 636
    return config
