"""Pre-trains the encoder of gte-multilingual-base (Zhang et al. 2024, mGTE, arXiv 2407.19669, section 2.1).

    python -m bert_jax.pretrain --config=gte_multilingual_base --config.data.corpus=DIR,DIR,... --workdir=DIR

One corpus for each language (C4, mC4, Skypile, Wikipedia, CulturaX and others, 75 languages), all made with XLM-R's
vocabulary: --tokenizer=FOLDER that holds it (250,048 rows).

The setting is Base's (configs/gte_base.py) with one token type and that vocabulary (checked in code that checks
config.json of Alibaba-NLP/gte-multilingual-base): 250,000 steps of 8,192 rows of 2,048 tokens at rate 2e-4 with rotary
base 10,000, then 30,000 of 2,048 rows of 8,192 at 5e-5 with base 160,000 (checked in the model card of
Alibaba-NLP/gte-multilingual-mlm-base). The published embedder's base is 20,000, scaled with
config.model.rotary_scaling=ntk and a factor of 8, which makes 160,000 of it. How the languages are mixed is not
published: config.data.temperature. Published scores: GLUE 83.47, XTREME-R 64.44. 305,368,320 parameters. Not trained
to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("gte_base")
    config.model.vocab_size = 250048
    config.model.type_vocab_size = 1
    config.model.rotary_base = 160_000.0
    config.data.phases = (
        {"share": 25 / 28, "batch_size": 8192, "sequence_length": 2048, "model.rotary_base": 10_000.0},
        {
            "share": 3 / 28,
            "batch_size": 2048,
            "sequence_length": 8192,
            "optimizer.learning_rate": 5e-5,
            "optimizer.warmup_steps": 1_800,
        },
    )
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 15_000
    config.train.num_steps = 280_000
    return config
