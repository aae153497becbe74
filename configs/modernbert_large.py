"""ModernBERT Large (Warner et al. 2024, arXiv 2412.13663, section 3, table 3).

    python -m bert_jax.pretrain --config=modernbert_large --config.data.corpus=DIR --workdir=DIR \
        [--config.init_from=BASE --config.init_grow=True]

The setting is Base's (configs/modernbert_base.py) with 28 layers of 1,024, 16 heads and 2,624 in the gated MLP, 448 to
4,928 rows over the first 10 billion tokens, and rate 5e-4 after 2 billion tokens of warm-up. BASE, a run of
modernbert_base or answerdotai/ModernBERT-base, is what the published model grew from: its parameters are tiled.
Published: after 900 billion tokens the run went back and on at rate 5e-5 and decay 1e-6, which the rows of 8,192 had
too (rate and warm-up checked in copies of section 3; batches, later rates and decay recalled); here it is one run at
5e-4 and 1e-5. Published scores: GLUE 90.4 on average (recalled). 394,781,696 parameters. Not trained to the end by
this project.
"""

from bert_jax.config import batch_warmup, by_tokens, load_recipe


def get_config():
    config = load_recipe("modernbert_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 28
    config.model.num_heads = 16
    config.model.intermediate_size = 2624
    config.data.phases = by_tokens(
        *batch_warmup(448, 4928, tokens=10e9, stages=3, multiple=64, sequence_length=1024),
        {"tokens": 1_709e9, "batch_size": 4928, "sequence_length": 1024},
        {"tokens": 300e9, "batch_size": 64, "sequence_length": 8192},
    )
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 1e-5 / 5e-4  # a share of the rate, as all decay is here
    config.optimizer.warmup_steps = 2_300
    return config
