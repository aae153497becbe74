"""Trains an embedder on many weakly related pairs, the first of two stages: E5 (Wang et al. 2022, section 4).

    python -m bert_jax.finetune --config=embedding/e5_weak --config.init_from=MODEL --workdir=DIR \
        --config.task.train=posts=posts.jsonl,titles=titles.jsonl

Each record has the columns anchor and positive: a title and its text, a post and its answer. Texts have the prompts
"query: " and "passage: ", which models that are made so need ever after. Batches are as large as the data allows:
loss.gradcache_rows holds any batch in the memory of 64 examples. embedding/bge is the second stage.

Published for BERT-Base: 20,000 steps of 32,768 pairs at 2e-4 (1e-4 for Large), 1,000 steps of warm-up, 128 tokens,
temperature 0.01 (section 5.1 and appendix; recalled). Not measured here.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("embedding/pairs")
    config.task.anchor_prompt = "query: "
    config.task.positive_prompt = "passage: "
    config.loss.temperature = 0.01
    config.loss.gradcache_rows = 64
    config.data.batch_size = 32_768
    config.data.sequence_length = 128
    config.optimizer.learning_rate = 2e-4
    config.optimizer.learning_rate_range = (1e-5, 3e-4)
    config.optimizer.warmup_steps = 1_000
    config.train.num_steps = 20_000
    return config
