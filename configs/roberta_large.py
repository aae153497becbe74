"""Pre-trains RoBERTa Large (Liu et al. 2019, arXiv 1907.11692, sections 4 and 5, table 9).

    python -m bert_jax.pretrain --config=roberta_large --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/roberta_base.py) with 24 layers of 1,024 and 16 heads, rate 4e-4 and 30,000 steps of
warm-up (checked in the model card of roberta-large on the Hugging Face hub). Layers are scanned, which compiles in a
fraction of the time. Published scores: MNLI 90.2, SST-2 96.4. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("roberta_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 4096
    config.model.scan_layers = True
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 30_000
    return config
