"""Pre-trains multilingual BERT, cased (Devlin et al. 2018, arXiv 1810.04805; multilingual.md of google-research/bert).

    python -m bert_jax.pretrain --config=mbert --config.data.corpus=DIR,DIR,... --workdir=DIR

One corpus for each language, all made with the published vocabulary: --tokenizer=FOLDER that holds the vocab.txt of
bert-base-multilingual-cased (119,547 entries) and its config, which keeps case. The uncased model's vocabulary has
105,879 entries (--config.model.vocab_size=105879), which its documentation calls 110k, as it does the cased one's.

The setting is Base's (configs/bert_base.py); languages are drawn in proportion to their size to the power of 0.7, which
data.temperature says (checked in multilingual.md; the vocabularies' sizes in config.json of both). Published: MLM and
NSP on the Wikipedias of 104 languages; XNLI, trained in English: English 82.1, Spanish 74.6, Chinese 69.1, German 72.3,
Arabic 66.4, Urdu 58.5 (README of transformers' examples/research_projects/distillation). 177,853,440 parameters with
the pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("bert_base")
    config.model.vocab_size = 119547
    config.data.temperature = 1 / 0.7
    return config
