"""Pre-trains EuroBERT 210m (Boizard et al. 2025, arXiv 2503.05500, sections 2 and 3).

    python -m bert_jax.pretrain --config=eurobert_210m --config.data.corpus=DIR,DIR,... --workdir=DIR

One corpus for each language, code or mathematics, all made with the published vocabulary: --tokenizer=FOLDER that holds
its tokenizer.json (128,256 rows, Llama 3's).

Published setting: RMSNorm, SwiGLU, rotary positions of base 250,000, no biases, no dropout, an untied decoder (checked
in config.json of EuroBERT/EuroBERT-210m); 4.8 trillion tokens with 50 % masks in rows of 2,048 with rotary base 10,000,
then 200 billion with 10 % in rows of up to 8,192 with base 250,000, 2,000 steps of warm-up, rate 1e-4, Adam with beta
0.9/0.95, epsilon 1e-5, decay 0.1 and clipping at 1 (checked in the text of the paper, section 2.3 and table 4, and in
optimus/trainer and docs/trainer.md of Nicolas-BZRD/EuroBERT); all that is chosen becomes the mask token; Adam has
bias correction; in the second phase a line to 0 (checked in its optimus/trainer/script/warmup_stable_decay_lr.py; the
paper says a cosine, optimizer.decay_shape=cosine). The batch, 4 million tokens here, is this project's choice: the
paper's table 4 has 9,437,184 (4,608 rows of 2,048, then 1,152 of 8,192), and 9,830,400 for 2.1B. Documents of the
second phase were cropped at random to 12 to 8,192 tokens, which rows of full sentences do not do. The mixture of the
corpora changes in that phase, whose own "weights", a number for each corpus, have to be put in data.phases. 211,766,016
parameters without the decoder. Not trained to the end by this project.
"""

from bert_jax.config import base, by_tokens


def get_config():
    config = base()
    config.model.vocab_size = 128256
    config.model.activation = "silu"
    config.model.mlp = "gated"
    config.model.max_positions = 8192
    config.model.type_vocab_size = 0
    config.model.positions = "rotary"
    config.model.rotary_base = 250_000.0
    config.model.norm = "rms_norm"
    config.model.norm_place = "pre"
    config.model.norm_epsilon = 1e-5
    config.model.initializer = "normal"  # optimus/trainer/model/model.py, _init_weights
    config.model.embedding_norm = False
    config.model.attention_bias = False
    config.model.mlp_bias = False
    config.model.hidden_dropout = 0.0
    config.model.attention_dropout = 0.0
    config.model.pooler = False
    config.model.mlm_transform = False
    config.model.decoder_bias = False
    config.model.tied_decoder = False
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    config.data.mask_token_share = 1.0
    config.data.random_token_share = 0.0
    config.data.sequence_length = 8192
    config.data.phases = by_tokens(
        {
            "tokens": 4_800e9,
            "batch_size": 2048,
            "sequence_length": 2048,
            "mask_rate": 0.5,
            "model.rotary_base": 10_000.0,
        },
        {"tokens": 200e9, "batch_size": 512, "sequence_length": 8192, "mask_rate": 0.1},
    )
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "trapezoidal"
    config.optimizer.warmup_steps = 2_000
    config.optimizer.decay_steps = 47_684  # the second phase
    config.optimizer.decay_shape = "linear"
    config.optimizer.b2 = 0.95
    config.optimizer.epsilon = 1e-5
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay_all = True  # optimus/trainer/pretrain.py: one AdamW for all parameters
    config.train.num_steps = 0
    config.train.num_tokens = 5_000_000_000_000
    config.train.logits_chunk = 2048  # at a time, of many predictions over a large vocabulary
    config.train.eval_batch_size = 64
    config.train.keep_every = 100_000
    return config
