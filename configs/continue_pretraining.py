"""Continues any BERT or RoBERTa on the text of a domain (DAPT: Gururangan et al. 2020, arXiv 2004.10964).

    python -m bert_jax.prepare --input='papers/*.txt' --output=NEW --tokenizer=MODEL [--add_tokens=1000]
    python -m bert_jax.prepare --input='wiki/*.txt' --output=OLD --tokenizer=MODEL
    python -m bert_jax.pretrain --config=continue_pretraining --config.init_from=MODEL --config.data.corpus=NEW \
        --config.data.old_corpus=OLD --workdir=DIR

MODEL (a run's workdir, a Hugging Face directory or a name on the hub) gives parameters, architecture and vocabulary.
The held-out part of OLD, text like that which MODEL learned from, shows what is forgotten: eval_old/mlm_loss beside
eval/mlm_loss, and a table of both before and after, kept in DIR/adaptation.json. Without OLD there is no such table.

Published setting, for RoBERTa Base: 2,048 rows of 512, 12,500 steps, 5e-4 (checked in ADAPTIVE_PRETRAINING.md of
allenai/dont-stop-pretraining); betas, epsilon, decay and bias correction are those of RoBERTa's own pre-training, as
are full sentences and dynamic masks; 6 % of the steps warm up. MODEL's length bounds data.sequence_length. On little
text or few devices --config.train.num_steps=..., --config.data.batch_size=... and a rate of 1e-4 or less. Not trained
to the end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model_from_init = True
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    config.data.sequence_length = 512
    config.data.batch_size = 2048
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 750
    config.optimizer.b2 = 0.98
    config.train.num_steps = 12_500
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    return config
