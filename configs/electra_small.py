"""Pre-trains ELECTRA Small (Clark et al. 2020, arXiv 2003.10555, sections 3 and 3.2, table 6).

    python -m bert_jax.pretrain --config=electra_small --config.data.corpus=DIR --workdir=DIR

The corpus is made with BERT's vocabulary: --tokenizer=FOLDER/vocab.txt (30,522 entries, lower case).

Published setting: replaced tokens, discriminator weight 50, tied embeddings of 128; a generator of all 12 layers and a
quarter of the width (64, one head, 256 in the MLP); rows of 128, 128 of them, 1,000,000 steps; 15 % masks, 85 % of
which become the mask token and the rest stay; Adam 5e-4, beta 0.9/0.999, epsilon 1e-6, no bias correction, decay 0.01,
clipping at 1, 10,000 steps of warm-up, linear decay, dropout 0.1 (checked in configure_pretraining.py,
pretrain/pretrain_helpers.py, run_pretraining.py and model/optimization.py of google-research/electra). The released
model (ELECTRA-Small++) read rows of 512 for 4 M steps with a generator of its own width. There, rows are two segments
of running text, without a task of pairs; here, full sentences, so that the second token type is learned in fine-tuning
alone. Published scores of the same run on OpenWebText, slightly over 4 days on a V100: CoLA 56.8, SST-2 88.3, MRPC
87.4, MNLI 78.9, QNLI 87.9, RTE 68.5; of the released model: CoLA 57.0, SST-2 91.2, MNLI 81.3, QNLI 88.4, SQuAD 1.1 EM
75.8 (README of google-research/electra; medians of many seeds). The discriminator has 13,483,008 parameters, and no
pooler. Not trained to the end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 30522
    config.model.embedding_size = 128
    config.model.hidden_size = 256
    config.model.num_heads = 4
    config.model.intermediate_size = 1024
    config.model.pooler = False
    config.objective.name = "rtd"
    config.objective.next_sentence = False
    config.generator.hidden_size = 64
    config.generator.num_heads = 1
    config.generator.intermediate_size = 256
    config.data.format = "full_sentences"
    config.data.sequence_length = 128
    config.data.batch_size = 128
    config.data.mask_token_share = 0.85
    config.data.random_token_share = 0.0
    config.data.workers = 4
    config.data.prefetch = 8
    config.optimizer.learning_rate = 5e-4
    config.optimizer.bias_correction = False
    config.train.checkpoint_every = 5_000
    config.train.keep_every = 100_000
    return config
