"""Pre-trains the encoder of gte-base-en-v1.5 (Zhang et al. 2024, mGTE, arXiv 2407.19669, section 2.1 and table 13).

    python -m bert_jax.pretrain --config=gte_base --config.data.corpus=DIR --workdir=DIR

The corpus (C4, English) is made with BERT's uncased vocabulary: --tokenizer=FOLDER that holds it (30,528 rows: the last
six have no token).

Published setting: BERT's layers with rotary positions, GeGLU whose down map alone has a bias, dropout 0.1 of states and
none of attention, no token types (checked in Alibaba-NLP/new-impl and in code that reads config.json of
Alibaba-NLP/gte-base-en-v1.5); 30 % masks; 70,000 steps of 4,096 rows of 2,048 tokens at rate 5e-4 with rotary base
10,000, then 20,000 of 1,024 rows of 8,192 at 5e-5 with base 500,000, from text with fewer short documents (checked in
the model card of Alibaba-NLP/gte-en-mlm-base). The card says nothing of optimizer, warm-up and decay: AdamW, with
bias correction, a rate that falls on a line in either stage after 6 % of its steps, and packed rows are this project's
choice. Copies of the embedder's config.json have base 500,000 alone, or beside config.model.rotary_scaling=ntk with a
factor of 2. Published scores: GLUE 85.61. 136,776,192 parameters. Not trained to the end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 30528
    config.model.mlp = "gated"
    config.model.mlp_up_bias = False
    config.model.max_positions = 8192
    config.model.type_vocab_size = 0
    config.model.positions = "rotary"
    config.model.rotary_base = 500_000.0
    config.model.attention_dropout = 0.0
    config.model.initializer = "normal"  # new-impl, modeling.py, _init_weights
    config.model.pooler = False
    config.model.scan_layers = True
    config.objective.next_sentence = False
    config.data.format = "doc_sentences"
    config.data.packing = True
    config.data.mask_rate = 0.3
    config.data.sequence_length = 8192
    config.data.phases = (
        {"share": 7 / 9, "batch_size": 4096, "sequence_length": 2048, "model.rotary_base": 10_000.0},
        {
            "share": 2 / 9,
            "batch_size": 1024,
            "sequence_length": 8192,
            "optimizer.learning_rate": 5e-5,
            "optimizer.warmup_steps": 1_200,
        },
    )
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 4_200
    config.train.num_steps = 90_000
    config.train.logits_chunk = 2048  # at a time, of many predictions over a large vocabulary
    config.train.eval_batch_size = 64
    config.train.keep_every = 10_000
    return config
