"""Pre-trains mmBERT Small (Marone et al. 2025, arXiv 2509.06888, section 3).

    python -m bert_jax.pretrain --config=mmbert_small --config.data.corpus=DIR,DIR,... --workdir=DIR

The setting is Base's (configs/mmbert_base.py) with states of 384 and 6 heads; 384 to 4,608 rows over the first 100
billion tokens, 4 billion of warm-up, and for the rows of 8,192 rate 4e-4, which falls by a line to 0.04 of it over the
last phase, and decay 4e-5 a step (checked in configs/mmBERT-small.yaml, -ext.yaml and -decay.yaml of JHU-CLSP/mmBERT).
Published: about 10 days on 8 H100s. 140,493,696 parameters. Not trained to the end by this project.
"""

from bert_jax.config import batch_warmup, by_tokens, load_recipe

SHORT = {"sequence_length": 1024, "model.rotary_base": 10_000.0}
LONG = {"sequence_length": 8192, "batch_size": 4608, "optimizer.learning_rate": 4e-4}
FIRST = {"first_corpora": 60, "temperature": 1 / 0.7, "mask_rate": 0.3}
SECOND = {"first_corpora": 110, "temperature": 1 / 0.5, "mask_rate": 0.15}
THIRD = {"temperature": 1 / 0.3, "mask_rate": 0.05}
DECAY = {
    "optimizer.schedule": "trapezoidal",
    "optimizer.decay_steps": 2_650,  # the whole phase
    "optimizer.final_fraction": 0.04,
}


def get_config():
    config = load_recipe("mmbert_base")
    config.model.hidden_size = 384
    config.model.num_heads = 6
    config.data.phases = by_tokens(
        *batch_warmup(384, 4608, tokens=100e9, stages=3, multiple=128, **SHORT, **FIRST),
        {"tokens": 2_200e9, "batch_size": 4608, **SHORT, **FIRST},
        {"tokens": 600e9, **LONG, **SECOND},
        {"tokens": 100e9, **LONG, **THIRD, **DECAY},
    )
    config.optimizer.warmup_steps = 10_173  # 4 billion tokens of the first batch size
    return config
