"""Fine-tunes on SQuAD 1.1: the stretch of a paragraph that answers a question (Rajpurkar et al. 2016).

    python -m bert_jax.finetune --config=finetune/squad1 --config.init_from=MODEL --workdir=DIR

Score: F1 and exact match of the official script, in percent. TFDS fetches the data; local files:
--config.task.train=train-v1.1.json --config.task.held_out=dev-v1.1.json.

Published: BERT-Base 88.5 F1 on the held-out set (table 5), BERT-Large 90.9 F1 and 84.1 exact match (table 2). 3
epochs in batches of 32 at 5e-5 (section 4.2); rows of 384 tokens, windows 128 apart (README of google-research/bert,
whose commands have 3e-5 and 2 epochs). BERT's Adam has no bias correction, in fine-tuning either
(--config.optimizer.bias_correction=False); here it has, which is steadier on little data (Zhang et al. 2021, section
4). (BERT: arXiv 1810.04805, scores and settings read in copies of the paper; its Adam in optimization.py of
google-research/bert. Not measured here.)
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "question_answering"
    config.task.train = "tfds:squad/v1.1:train"
    config.task.held_out = "tfds:squad/v1.1:validation"
    config.data.sequence_length = 384
    config.data.batch_size = 32
    config.optimizer.learning_rate = 5e-5
    config.train.num_epochs = 3.0
    config.search = {
        "data": {"batch_size": (16, 32)},
        "optimizer": {"learning_rate": (5e-5, 3e-5, 2e-5), "warmup_share": (0.06, 0.1)},
        "train": {"num_epochs": (2.0, 3.0, 4.0)},
    }
    return config
