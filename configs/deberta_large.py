"""Pre-trains DeBERTa Large, v1 (He et al. 2020, arXiv 2006.03654, section 5.1).

    python -m bert_jax.pretrain --config=deberta_large --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/deberta_base.py) with 24 layers of 1,024 and 16 heads (checked in config.json of
microsoft/deberta-large); layers are scanned. Published scores: MNLI 91.3/91.1, SST-2 96.5, QNLI 95.3, CoLA 69.5, RTE
91.0, SQuAD 1.1 95.5/90.1 F1/EM, 2.0 90.7/88.0 (README of microsoft/DeBERTa). 405,163,008 parameters, and no pooler. Not
trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("deberta_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 4096
    config.model.scan_layers = True
    return config
