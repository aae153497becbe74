"""Pre-trains ModernBERT Large (Warner et al. 2024, arXiv 2412.13663, section 3, table 3).

    python -m bert_jax.pretrain --config=modernbert_large --config.data.corpus=DIR --workdir=DIR \
        [--config.init_from=BASE --config.init_grow=True]

The setting is Base's (configs/modernbert_base.py) with 28 layers of 1,024, 16 heads and 2,624 in the gated MLP, 448 to
4,928 rows over the first 10 billion tokens, and rate 5e-4 after 2 billion tokens of warm-up. BASE, a run of
modernbert_base or answerdotai/ModernBERT-base, is what the published model grew from: its parameters are tiled. "This
learning rate was too high and required a restart": after 900 billion tokens the run went back and on at rate 5e-5 and
decay 1e-6 a step, which the rows of 8,192 have too, 616 of them for 250 billion tokens, and 624 for the last 50
billion, over which the rate falls as 1 - sqrt (checked in modernbert-large-pretrain.yaml, -context-extension.yaml and
-learning-rate-decay.yaml, in yamls/modernbert of AnswerDotAI/ModernBERT; the 900 billion in quotations of the paper).
616 and 624 are 77 and 78 times the 8 GPUs: 16 devices keep them with --config.mesh.tensor=2, 32 with 4. No number of
microbatches divides both 77 and 78: with train.microbatches over 1, put other rows into data.phases, such as 640.
Published scores: GLUE 90.4 on average. 394,781,696 parameters. Not trained to the end by this project.
"""

from bert_jax.config import batch_warmup, by_tokens, load_recipe

SHORT = {"sequence_length": 1024, "model.rotary_base": 10_000.0}
LOWER = {"optimizer.learning_rate": 5e-5}  # and decay 1e-6 a step, which is the same share of the rate
DECAY = {
    "optimizer.schedule": "trapezoidal",
    "optimizer.decay_steps": 9_782,  # the whole phase
    "optimizer.decay_shape": "sqrt",
    "optimizer.final_fraction": 0.001,
}


def get_config():
    config = load_recipe("modernbert_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 28
    config.model.num_heads = 16
    config.model.intermediate_size = 2624
    config.data.phases = by_tokens(
        *batch_warmup(448, 4928, tokens=10e9, stages=3, multiple=64, **SHORT),
        {"tokens": 890e9, "batch_size": 4928, **SHORT},
        {"tokens": 819e9, "batch_size": 4928, **SHORT, **LOWER},
        {"tokens": 250e9, "batch_size": 616, "sequence_length": 8192, **LOWER},
        {"tokens": 50e9, "batch_size": 624, "sequence_length": 8192, **LOWER, **DECAY},
    )
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 1e-5 / 5e-4  # a share of the rate, as all decay is here
    config.optimizer.warmup_steps = 2_300
    return config
