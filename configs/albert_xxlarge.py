"""Pre-trains ALBERT XXLarge (Lan et al. 2019, arXiv 1909.11942, table 1).

    python -m bert_jax.pretrain --config=albert_xxlarge --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/albert_base.py), with 12 layers of 4,096; v1 has no dropout here either, and was trained
for 1.5 M steps. Published scores of v2: MNLI 90.6, SST-2 96.8, SQuAD 1.1 94.6/89.1 F1/EM, 2.0 89.8/86.9; of v1: MNLI
90.8, SST-2 96.9 (README of google-research/albert). 222,595,584 parameters with the pooler. Not trained to the end by
this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("albert_base")
    config.model.hidden_size = 4096
    config.model.num_layers = 12
    config.model.num_heads = 64
    config.model.intermediate_size = 16384
    config.model.scan_layers = True
    return config
