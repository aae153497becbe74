"""Pre-trains RoBERTa Base (Liu et al. 2019, arXiv 1907.11692, sections 4 and 5, table 9).

    python -m bert_jax.pretrain --config=roberta_base --config.data.corpus=DIR --workdir=DIR

The corpus is made with the published vocabulary: --tokenizer=FOLDER that holds its vocab.json (50,265 entries)
and merges.txt.

Published setting: full sentences without NSP, dynamic masks, 8,192 rows of 512, 500,000 steps; Adam 6e-4, beta
0.9/0.98, epsilon 1e-6, decay 0.01, 24,000 steps of warm-up, linear decay, no clipping; dropout 0.1 (the rate,
betas, decay and warm-up checked in the model cards of roberta-base and roberta-large on the Hugging Face hub; betas,
epsilon, decay, clipping and dropout in examples/roberta/config/pretraining/base.yaml of fairseq, which trains 125,000
steps of 2,048 rows). Its Adam corrects the bias of its moments and decays every parameter, biases and norms too
(fairseq/optim/adam.py), and parameters come from a normal that is not cut (init_bert_params in
fairseq/modules/transformer_sentence_encoder.py). Published scores: MNLI 87.6, SST-2 94.8. 124,055,040
parameters; 124,645,632 with the pooler that RobertaModel carries and this objective does not train
(--config.model.pooler=True). Not trained to the end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 50265
    config.model.position_offset = 2
    config.model.type_vocab_size = 1
    config.model.norm_epsilon = 1e-5
    config.model.initializer = "normal"
    config.model.pooler = False
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    config.data.sequence_length = 512
    config.data.batch_size = 8192
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 24_000
    config.optimizer.b2 = 0.98
    config.optimizer.decay_all = True
    config.optimizer.clip_norm = 0.0
    config.train.num_steps = 500_000
    config.train.keep_every = 100_000
    return config
