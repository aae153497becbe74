"""Pre-trains mmBERT Base (Marone et al. 2025, arXiv 2509.06888, section 3).

    python -m bert_jax.pretrain --config=mmbert_base --config.data.corpus=DIR,DIR,... --workdir=DIR

One corpus for each language or source, in the order in which the phases add them, all made with the published
vocabulary: --tokenizer=FOLDER that holds its tokenizer.json (256,000 rows, Gemma 2's).

Published setting: the architecture of ModernBERT Base (configs/modernbert_base.py). Three mixtures, each flatter and
with fewer masks than the one before: 2.3 trillion tokens of 60 languages, temperature 0.7 and 30 % masks; 600 billion
of 110 languages, 0.5 and 15 %; 100 billion of 1,833 languages, 0.3 and 5 % (checked in the README of JHU-CLSP/mmBERT,
which says 2.0 trillion, and in reviews of the paper). The temperature there is the power of a language's size; ours is
one over it. Rows of 1,024, 384 to 4,608 of them over the first 60 billion tokens, with rotary base 10,000; then rows of
8,192, 4,608 of them, with base 160,000 on global and local layers; StableAdamW with bias correction, beta 0.9/0.95,
epsilon 1e-8, decay 8e-5 a step; rate 8e-4 after 3 billion tokens of warm-up, constant, and over the last phase falling
as 1 - sqrt to 0.02 of it (checked in configs/mmBERT-base.yaml, -ext.yaml and -decay.yaml of JHU-CLSP/mmBERT, whose
first file has 25 % masks). The corpora here are the user's: `first_corpora` of the phases counts languages alone, and
has to count other sources too; shares are multiples of 1/4096 of the rows, so that languages too small for one go
together into a corpus. The published model is a merge of three decay phases (Yadav et al. 2023, TIES), of which this is
one. Published: about 40 days on 8 H100s. 306,939,648 parameters. Not trained to the end by this project.
"""

from bert_jax.config import batch_warmup, by_tokens, load_recipe

SHORT = {"sequence_length": 1024, "model.rotary_base": 10_000.0}
LONG = {"sequence_length": 8192, "batch_size": 4608}
FIRST = {"first_corpora": 60, "temperature": 1 / 0.7, "mask_rate": 0.3}
SECOND = {"first_corpora": 110, "temperature": 1 / 0.5, "mask_rate": 0.15}
THIRD = {"temperature": 1 / 0.3, "mask_rate": 0.05}
DECAY = {
    "optimizer.schedule": "trapezoidal",
    "optimizer.decay_steps": 2_650,  # the whole phase
    "optimizer.decay_shape": "sqrt",
    "optimizer.final_fraction": 0.02,
}


def get_config():
    config = load_recipe("modernbert_base")
    config.model.vocab_size = 256000
    config.model.local_rotary_base = 0.0  # that of the global layers
    config.data.phases = by_tokens(
        *batch_warmup(384, 4608, tokens=60e9, stages=3, multiple=128, **SHORT, **FIRST),
        {"tokens": 2_240e9, "batch_size": 4608, **SHORT, **FIRST},
        {"tokens": 600e9, **LONG, **SECOND},
        {"tokens": 100e9, **LONG, **THIRD, **DECAY},
    )
    config.optimizer.warmup_steps = 7_630  # 3 billion tokens of the first batch size
    config.optimizer.b2 = 0.95
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 8e-5 / 8e-4  # a share of the rate, as all decay is here
    config.train.num_tokens = 3_000_000_000_000
    return config
