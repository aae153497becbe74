"""Pre-trains DeBERTa Base, v1 (He et al. 2020, arXiv 2006.03654, sections 3 and 4, appendix A).

    python -m bert_jax.pretrain --config=deberta_base --config.data.corpus=DIR --workdir=DIR

The corpus is made with RoBERTa's vocabulary: --tokenizer=FOLDER that holds its vocab.json (50,265 entries) and
merges.txt.

Published setting: relative positions in queries and keys, a row for each distance up to 512; absolute ones in the
enhanced mask decoder alone; no token types, norms with epsilon 1e-7, dropout 0.1 (checked in config.json of
microsoft/deberta-base and masked_language_model.py of microsoft/DeBERTa); Adam without bias correction, beta 0.9/0.999,
epsilon 1e-6, decay 0.01, clipping at 1, linear decay, parameters from a normal that is not cut (checked in
optims/args.py, optims/xadam.py and deberta/nnmodule.py there); n-gram masks of up to 3 words, 10,000 steps of warm-up,
1,000,000 steps of rows of 512 (checked in mlm.sh, which shows them with 256 rows at 1e-4 on WikiText-103); 2,048 rows,
rate 2e-4, 10 days on 4 DGX-2 (checked in copies of the paper, table 8). Published scores: MNLI 88.8/88.5, SQuAD 2.0
86.2/83.1 F1/EM (README and model cards of microsoft/DeBERTa). 138,601,728 parameters, and no pooler. Not trained to the
end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 50265
    config.model.positions = "relative"
    config.model.key_bias = False
    config.model.mask_decoder = "enhanced"
    config.model.type_vocab_size = 0
    config.model.norm_epsilon = 1e-7
    config.model.initializer = "normal"
    config.model.pooler = False
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    config.data.batch_size = 2048
    config.data.mask_unit = "ngram"
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 2e-4
    config.optimizer.bias_correction = False
    config.train.keep_every = 100_000
    return config
