"""Pre-trains ELECTRA Large (Clark et al. 2020, arXiv 2003.10555, table 6).

    python -m bert_jax.pretrain --config=electra_large --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/electra_base.py) with 24 layers of 1,024 and 16 heads, a generator of a quarter of the
width (256), 2,048 rows, 25 % masks and 400,000 steps, which the paper calls ELECTRA-400K (checked in
configure_pretraining.py and flops_computation.py of google-research/electra; the released model is the paper's
ELECTRA-1.75M, by the README there). Layers are scanned.
Published scores of the released model: CoLA 69.1, SST-2 96.9, MRPC 90.8, MNLI 90.9, QNLI 95.0, RTE 88.0, SQuAD 1.1 EM
89.7, 2.0 88.1 (README of google-research/electra). The discriminator has 334,092,288 parameters, and no pooler. Not
trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("electra_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 4096
    config.model.scan_layers = True
    config.data.batch_size = 2048
    config.data.mask_rate = 0.25
    config.data.workers = 8
    config.train.num_steps = 400_000
    return config
