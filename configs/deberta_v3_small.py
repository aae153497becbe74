"""Pre-trains DeBERTa Small, v3 (He et al. 2021, arXiv 2111.09543, section 4).

    python -m bert_jax.pretrain --config=deberta_v3_small --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/deberta_v3_base.py) with 6 layers, 3 of them in the generator (checked in
experiments/language_model/rtd_small.json of microsoft/DeBERTa). Published scores: MNLI 88.3/87.7, SQuAD 2.0 82.9/80.4
F1/EM (README of microsoft/DeBERTa). 141,304,320 parameters, and no pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("deberta_v3_base")
    config.model.num_layers = 6
    config.generator.num_layers = 3
    return config
