"""Pre-trains XLM-R Large (Conneau et al. 2020, arXiv 1911.02116, section 3).

    python -m bert_jax.pretrain --config=xlm_r_large --config.data.corpus=DIR,DIR,... --workdir=DIR

The setting is Base's (configs/xlm_r_base.py) with RoBERTa Large's sizes, rate and warm-up; layers are scanned.
Published: 1.5 M steps of 8,192 rows on 500 V100s; XNLI, trained in English, 80.9 on average, English 89.1 (checked in
the text of the paper, table 1). 558,840,832 parameters; 559,890,432 with the pooler that XLMRobertaModel carries. Not
trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("roberta_large")
    base = load_recipe("xlm_r_base")
    config.model.vocab_size = base.model.vocab_size
    config.data.temperature = base.data.temperature
    config.train.num_steps = base.train.num_steps
    return config
