"""Pre-trains Ettin's encoder of 400M parameters (Weller et al. 2025, arXiv 2507.11412).

    python -m bert_jax.pretrain --config=ettin_400m --config.data.corpus=DIR --workdir=DIR

The setting is that of the 150M (configs/ettin_150m.py) with 28 layers of 1,024, 16 heads and 2,624 in the gated MLP;
rate 5e-4 after 2 billion tokens of warm-up, 2.5e-4 where the last phase begins; decay 1e-5 a step (checked in the files
encoder_large.yaml of large, its de_decay and its prolong_decay, in pretraining/configs/standard of
JHU-CLSP/ettin-encoder-vs-decoder). Published: 950 hours on 4 H100s. 394,781,696 parameters. Not trained to the end by
this project.
"""

from bert_jax.config import load_recipe

LOWER = {"optimizer.learning_rate": 2.5e-4, "optimizer.weight_decay": 1e-5 / 2.5e-4}


def get_config():
    config = load_recipe("ettin_150m")
    config.model.hidden_size = 1024
    config.model.num_layers = 28
    config.model.num_heads = 16
    config.model.intermediate_size = 2624
    *earlier, decay = config.data.phases
    config.data.phases = (*earlier, decay | LOWER)
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 1e-5 / 5e-4  # a share of the rate, as all decay is here
    config.optimizer.warmup_steps = 424
    return config
