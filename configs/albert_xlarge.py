"""Pre-trains ALBERT XLarge (Lan et al. 2019, arXiv 1909.11942, table 1).

    python -m bert_jax.pretrain --config=albert_xlarge --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/albert_base.py), with layers of 2,048 and, as the published models have, 16 heads (their
config.json; the paper's rule of 64 units a head would give 32). Published scores of v2: MNLI 87.9, SST-2 95.4, SQuAD
1.1 92.9/86.4 F1/EM, 2.0 87.9/84.1; of v1: MNLI 86.4, SST-2 92.4 (README of google-research/albert). 58,724,864
parameters with the pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("albert_base")
    config.model.hidden_size = 2048
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 8192
    config.model.scan_layers = True
    return config
