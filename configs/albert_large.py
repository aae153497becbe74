"""Pre-trains ALBERT Large (Lan et al. 2019, arXiv 1909.11942, table 1).

    python -m bert_jax.pretrain --config=albert_large --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/albert_base.py), with layers of 1,024. Published scores of v2: MNLI 86.5, SST-2 94.9,
SQuAD 1.1 91.8/85.2 F1/EM, 2.0 84.9/81.8; of v1: MNLI 83.5, SST-2 91.7 (README of google-research/albert). 17,683,968
parameters with the pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("albert_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 4096
    config.model.scan_layers = True
    return config
