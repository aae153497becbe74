"""Pre-trains ELECTRA Base (Clark et al. 2020, arXiv 2003.10555, table 6).

    python -m bert_jax.pretrain --config=electra_base --config.data.corpus=DIR --workdir=DIR

The setting is Small's (configs/electra_small.py) with BERT Base's sizes, embeddings included, a generator of a third of
the width (256, 4 heads, 1,024 in the MLP), rows of 512, 256 of them, rate 2e-4 and 766,000 steps (checked in
configure_pretraining.py and flops_computation.py of google-research/electra; the released model is ELECTRA-Base++, by
its README, and read more data for 4 M steps, recalled: the README says so of Small++ alone, neither the paper's text
nor the repository's issues say it of Base, and the curves that its author shows, in issue 3, are of a Base on Wikipedia
and books). Published scores of that:
CoLA 67.7, SST-2 95.1, MRPC 89.5, MNLI 88.8, QNLI 93.2, RTE 82.7, SQuAD 1.1 EM 86.8, 2.0 80.5 (README of
google-research/electra). The discriminator has 108,891,648 parameters, and no pooler. Not trained to the end by this
project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("electra_small")
    config.model.embedding_size = 0
    config.model.hidden_size = 768
    config.model.num_heads = 12
    config.model.intermediate_size = 3072
    config.generator.hidden_size = 256
    config.generator.num_heads = 4
    config.generator.intermediate_size = 1024
    config.data.sequence_length = 512
    config.data.batch_size = 256
    config.optimizer.learning_rate = 2e-4
    config.train.num_steps = 766_000
    return config
