"""Pre-trains Ettin's encoder of 150M parameters (Weller et al. 2025, arXiv 2507.11412).

    python -m bert_jax.pretrain --config=ettin_150m --config.data.corpus=DIR --workdir=DIR

The corpus is made with the published vocabulary: --tokenizer=FOLDER that holds its tokenizer.json (ModernBERT's, 50,368
rows). Each phase had data of its own, the last two of better sources; here all phases read the same corpora.

Published setting: the architecture of ModernBERT Base (configs/modernbert_base.py). 1.7 trillion tokens in 4,608 rows
of 1,024 with 30 % masks, rotary base 10,000, rate 8e-4 after 3 billion tokens of warm-up, then constant. 250 billion in
rows of 7,999 (8,192 here) with base 160,000, on global and local layers, over which the rate falls as 1 - sqrt to half.
50 billion more with 15 % masks, from 4e-4 to 0.04 of it. StableAdamW with bias correction, beta 0.9/0.98, epsilon 1e-6,
decay 1e-5 a step (checked in the files encoder_base.yaml of base, its de_decay and its prolong_decay, in
pretraining/configs/standard of JHU-CLSP/ettin-encoder-vs-decoder). The files also name a growing batch, which
ModernBERT's code reads where rows are packed alone, and theirs were not: a step had some 2.8 million tokens (1.7
trillion over the 599,525 steps that the names of its checkpoints count), and has 4.7 million here. Published: 470 hours
on 4 H100s (pretraining/README.md there). 149,014,272 parameters. Not trained to the end by this project.
"""

from bert_jax.config import by_tokens, load_recipe

SHORT = {"sequence_length": 1024, "model.rotary_base": 10_000.0}
FALLING = {"optimizer.schedule": "trapezoidal", "optimizer.decay_shape": "sqrt"}
EXTENSION = FALLING | {"optimizer.decay_steps": 6_623, "optimizer.final_fraction": 0.5}  # the whole phase
DECAY = FALLING | {
    "mask_rate": 0.15,
    "optimizer.learning_rate": 4e-4,
    "optimizer.weight_decay": 1e-5 / 4e-4,
    "optimizer.decay_steps": 1_325,  # the whole phase
    "optimizer.final_fraction": 0.04,
}


def get_config():
    config = load_recipe("modernbert_base")
    config.model.local_rotary_base = 0.0  # that of the global layers
    config.data.phases = by_tokens(
        {"tokens": 1_700e9, "batch_size": 4608, **SHORT},
        {"tokens": 250e9, "batch_size": 4608, "sequence_length": 8192, **EXTENSION},
        {"tokens": 50e9, "batch_size": 4608, "sequence_length": 8192, **DECAY},
    )
    config.optimizer.warmup_steps = 636  # 3 billion tokens
    config.train.num_tokens = 2_000_000_000_000
    return config
