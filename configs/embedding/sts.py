"""Trains an embedder on pairs of texts with a graded similarity: the STS benchmark (Cer et al. 2017).

    python -m bert_jax.finetune --config=embedding/sts --config.init_from=MODEL --workdir=DIR

Score: Spearman's correlation of the grades and the cosines of the vectors. TFDS fetches the data (glue/stsb). Files of
one's own: --config.task.train=train.csv --config.task.held_out=dev.csv, with --config.task.anchor, positive and score
naming their columns.

Published: Sentence-BERT trained a regression of cosines on the STS benchmark for 4 epochs in batches of 16 at 2e-5 with
10 % warm-up (Reimers & Gurevych 2019, sections 3.1 and 4.2); CoSENT ranks the cosines instead, with a temperature of
0.05 (sentence-transformers' CoSENTLoss). Not measured here.
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "embedding"
    config.task.train = "tfds:glue/stsb:train"
    config.task.held_out = "tfds:glue/stsb:validation"
    config.task.anchor = "sentence1"
    config.task.positive = "sentence2"
    config.task.score = "label"
    config.loss.name = "cosent"
    config.data.batch_size = 16
    config.train.num_epochs = 4.0
    return config
