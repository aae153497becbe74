"""DeBERTa XSmall, v3 (He et al. 2021, arXiv 2111.09543, section 4).

    python -m bert_jax.pretrain --config=deberta_v3_xsmall --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/deberta_v3_base.py) with layers of 384 and 6 heads (checked in
experiments/language_model/rtd_xsmall.json of microsoft/DeBERTa; rate and batch of this size are not published, Base's
are taken). Published scores: MNLI 88.1/88.3, SQuAD 2.0 84.8/82.0 F1/EM (README of microsoft/DeBERTa). 70,682,112
parameters, and no pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("deberta_v3_base")
    config.model.hidden_size = 384
    config.model.num_heads = 6
    config.model.intermediate_size = 1536
    return config
