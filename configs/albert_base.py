"""Pre-trains ALBERT Base, without dropout as v2 (Lan et al. 2019, arXiv 1909.11942, sections 3 and 4.1).

    python -m bert_jax.pretrain --config=albert_base --config.data.corpus=DIR --workdir=DIR

The corpus is made with the published vocabulary: --tokenizer=FOLDER that holds its spiece.model (30,000 entries,
SentencePiece, lower case).

Published setting: one layer's parameters for all, embeddings of 128, MLM on n-grams of up to 3 words plus sentence
order, rows of 512, 4,096 of them, 125,000 steps; LAMB 1.76e-3, beta 0.9/0.999, epsilon 1e-6, decay 0.01, clipping at 1,
no bias correction, 3,125 steps of warm-up, linear decay; a tenth of the rows of random length; 15 % masks, but at most
20 a row, which is 3.9 % of 512 tokens (checked in README.md, run_pretraining.py, optimization.py, lamb_optimizer.py and
create_pretraining_data.py of google-research/albert; --config.data.max_predictions=77 for the whole 15 %, which the
paper's text speaks of). That script masks 40 copies of the text; here masks are dynamic, over ten pairings. v1 has
dropout 0.1 (--config.model.hidden_dropout=0.1 --config.model.attention_dropout=0.1; its xxlarge none) and the exact
gelu, v2 no dropout and the tanh form (checked in the model cards' config.json). v2 read more data for longer: Base 10 M
steps, the others 3 M (README of google-research/albert; --config.train.num_steps=...; the rest of that schedule is not
published). Published scores of v2: MNLI 84.6, SST-2 92.9, SQuAD 1.1 90.2/83.2 F1/EM, 2.0 82.1/79.3; of v1: MNLI 81.6,
SST-2 90.3, SQuAD 1.1 89.3/82.3 (the same README). 11,683,584 parameters with the pooler. Not trained to the end by this
project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 30000
    config.model.embedding_size = 128
    config.model.embedding_projection = True
    config.model.layer_groups = 1
    config.model.activation = "gelu_tanh"
    config.model.hidden_dropout = 0.0
    config.model.attention_dropout = 0.0
    config.objective.next_sentence = False
    config.objective.sentence_order = True
    config.data.batch_size = 4096
    config.data.mask_unit = "ngram"
    config.data.max_predictions = 20
    config.data.pair_repeats = 10
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 1.76e-3
    config.optimizer.warmup_steps = 3_125
    config.optimizer.bias_correction = False
    config.train.num_steps = 125_000
    config.train.eval_every = 2_500
    config.train.keep_every = 25_000
    return config
