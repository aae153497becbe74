"""Trains sparse vectors over the vocabulary on pairs that belong together (SPLADE v2: Formal et al. 2021).

    python -m bert_jax.finetune --config=embedding/splade --config.init_from=MODEL --workdir=DIR \
        --config.task.train=pairs.jsonl

As embedding/pairs, but MODEL is a masked language model, whose head gives each text the weights of the vocabulary's
tokens. loss.flops_anchor and loss.flops_other weigh what these cost a search: larger ones leave fewer tokens, which the
log tells as anchor_terms and other_terms. bert_jax.SparseEmbedder and sentence-transformers' SparseEncoder read the
result.

Published: weights of 5e-5 for queries and 3e-5 for documents, rate 2e-5, 10 % warm-up, one epoch of batches of 16 with
DistilBERT Base (checked in docs/sparse_encoder/training_overview.md of sentence-transformers, an example on Natural
Questions; that on MS MARCO, examples/sparse_encoder/training/ms_marco/train_splade_msmarco_mnrl.py, has 1e-3 for
documents). The weights grow with the square of the step over the first third, as in its callbacks (checked there). Not
measured here.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("embedding/pairs")
    config.task.pooling = "splade"
    config.task.normalize = False
    config.loss.similarity = "dot"
    config.loss.temperature = 1.0
    config.loss.flops_anchor = 5e-5
    config.loss.flops_other = 3e-5
    config.loss.flops_growth = 1 / 3
    config.data.batch_size = 16
    return config
