"""Trains an embedder on triplets of NLI: supervised SimCSE (Gao, Yao & Chen 2021, section 4).

    python -m bert_jax.finetune --config=embedding/nli --config.init_from=MODEL --workdir=DIR \
        --config.task.train=nli_for_simcse.csv --config.task.held_out=sts:stsb_dev.csv

The file has the columns sent0, sent1 and hard_neg, as the paper's authors publish it; the contradictions of the other
premises of a batch are negatives too. sts:FILE has graded pairs (sentence1, sentence2, score).

Published: batches of 512 for BERT-Base at 5e-5, a line to 0 without warm-up, no weight decay, 3 epochs, 32 tokens,
temperature 0.05, pooling the [CLS] (checked in README.md, run_sup_example.sh and train.py of princeton-nlp/SimCSE,
whose other settings are the defaults of transformers' Trainer). There the pooler's layer stands on the [CLS], in use
too; here there is none. STS-B and six other sets of the kind 81.57 on average (README). Not measured here.
Sentence-BERT's classifier of pairs over (u, v, |u - v|) instead: --config.loss.name=softmax with a column of labels.
"""

from bert_jax.config.finetuning import base


def get_config():
    config = base()
    config.task.name = "embedding"
    config.task.anchor = "sent0"
    config.task.positive = "sent1"
    config.task.negatives = ("hard_neg",)
    config.task.pooling = "cls"
    config.loss.name = "info_nce"
    config.data.batch_size = 512
    config.data.sequence_length = 32
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_share = 0.0
    config.optimizer.weight_decay = 0.0
    config.optimizer.epsilon = 1e-8
    return config
