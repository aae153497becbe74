"""Pre-trains XLM-R Base (Conneau et al. 2020, arXiv 1911.02116, section 3).

    python -m bert_jax.pretrain --config=xlm_r_base --config.data.corpus=DIR,DIR,... --workdir=DIR

One corpus for each language, all made with the published vocabulary: --tokenizer=FOLDER that holds its
sentencepiece.bpe.model (250,002 entries).

Published setting: RoBERTa's (configs/roberta_base.py) in 100 languages drawn in proportion to their size to the power
of 0.3, which data.temperature says (checked in the text of the paper, section 5.1), 8,192 rows, 1.5 M steps (checked in
copies of it). Rate, betas and warm-up are not published: RoBERTa's are taken. Published score: XNLI, trained in
English, 76.2 on average, English 85.8 (table 1). 277,453,056 parameters; 278,043,648 with the pooler that
XLMRobertaModel carries and this objective does not train (--config.model.pooler=True). Not trained to the end by this
project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("roberta_base")
    config.model.vocab_size = 250002
    config.data.temperature = 1 / 0.3
    config.train.num_steps = 1_500_000
    return config
