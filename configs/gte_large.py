"""Pre-trains the encoder of gte-large-en-v1.5 (Zhang et al. 2024, mGTE, arXiv 2407.19669, section 2.1 and table 13).

    python -m bert_jax.pretrain --config=gte_large --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/gte_base.py) with 24 layers of 1,024, 16 heads, 4,096 in the gated MLP and two token
types (checked in public copies of config.json of Alibaba-NLP/gte-large-en-v1.5, whose base of 160,000 is scaled with
config.model.rotary_scaling=ntk and a factor of 2): 300,000 steps of 4,096 rows of 512 tokens at rate 2e-4, 30,000 of
4,096 rows of 2,048 at 5e-5, both with rotary base 10,000, and 30,000 of 1,024 rows of 8,192 at 5e-5 with base 160,000
(checked in the model card of Alibaba-NLP/gte-en-mlm-large). Published scores: GLUE 87.58. 434,139,136 parameters. Not
trained to the end by this project.
"""

from bert_jax.config import load_recipe

LOWER = {"optimizer.learning_rate": 5e-5, "optimizer.warmup_steps": 1_800}
SHORT = {"batch_size": 4096, "model.rotary_base": 10_000.0}


def get_config():
    config = load_recipe("gte_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 4096
    config.model.type_vocab_size = 2
    config.model.rotary_base = 160_000.0
    config.data.phases = (
        {"share": 10 / 12, "sequence_length": 512, **SHORT},
        {"share": 1 / 12, "sequence_length": 2048, **SHORT, **LOWER},
        {"share": 1 / 12, "sequence_length": 8192, "batch_size": 1024, **LOWER},
    )
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 18_000
    config.train.num_steps = 360_000
    return config
