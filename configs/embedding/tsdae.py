"""Trains an embedder on texts alone, which it rebuilds from their vectors: TSDAE (Wang, Reimers & Gurevych 2021).

    python -m bert_jax.finetune --config=embedding/tsdae --config.init_from=MODEL --workdir=DIR \
        --config.task.train=sentences.csv --config.task.held_out=sts:stsb_dev.csv

The file has a column text. Tokens are deleted from each text (loss.deletion), and a decoder with the layers of MODEL
predicts the whole text from the vector of what is left; MODEL is a masked language model. The decoder is not kept.
Nothing of texts alone can be held out, so a held-out set is needed: sts:FILE or ir:DIR.

Published: 60 % of the tokens deleted, batches of 8, a constant rate of 3e-5, 100,000 steps (Wang et al. 2021, section
4.2; recalled); batches of 8, 3e-5, one epoch, pooling the [CLS], a decoder with the encoder's weights (checked in
sentence-transformers' examples/.../TSDAE/train_askubuntu_tsdae.py, which warms up over 10 % of the steps, and whose
noise keeps 60 % of the words). Not measured here.
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "embedding"
    config.task.anchor = "text"
    config.task.positive = ""
    config.task.pooling = "cls"
    config.loss.name = "denoising"
    config.data.batch_size = 8
    config.optimizer.learning_rate = 3e-5
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_share = 0.0
    config.optimizer.weight_decay = 0.0
    config.train.num_epochs = 1.0
    return config
