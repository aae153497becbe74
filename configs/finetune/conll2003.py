"""Fine-tunes on CoNLL-2003: names of persons, places and others in English news (Tjong Kim Sang & De Meulder 2003).

    python -m bert_jax.finetune --config=finetune/conll2003 --config.init_from=MODEL --workdir=DIR

Score: F1 of whole entities, as conlleval counts them. TFDS fetches the data; --config.task.test=tfds:conll2003:test
adds predictions for the test set. Local files: --config.task.train=eng.train --config.task.held_out=eng.testa
--config.task.test=eng.testb. MODEL should know capital letters.

Published: BERT-Base 96.4 F1 on the held-out set and 92.4 on the test set, BERT-Large 96.6 and 92.8 (table 7, means of
5 runs; with as much context of the document as fits, where this recipe reads sentence by sentence). Appendix A.3
recommends what config.search has, RoBERTa a warm-up of 6 %. BERT's Adam has no bias correction, in fine-tuning either
(--config.optimizer.bias_correction=False); here it has, which is steadier on little data (Zhang et al. 2021, section
4). (BERT: arXiv 1810.04805, scores and settings read in copies of the paper; its Adam in optimization.py of
google-research/bert. Not measured here.)
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "token_classification"
    config.task.train = "tfds:conll2003:train"
    config.task.held_out = "tfds:conll2003:dev"
    config.task.text = "tokens"
    config.task.label = "ner"
    config.data.sequence_length = 192
    config.optimizer.learning_rate = 5e-5
    config.search = {
        "data": {"batch_size": (16, 32)},
        "optimizer": {"learning_rate": (5e-5, 3e-5, 2e-5), "warmup_share": (0.06, 0.1)},
        "train": {"num_epochs": (2.0, 3.0, 4.0)},
    }
    return config
