"""Pre-trains DeBERTa Base, v3 (He et al. 2021, arXiv 2111.09543, sections 3 and 4).

    python -m bert_jax.pretrain --config=deberta_v3_base --config.data.corpus=DIR --workdir=DIR

The corpus is made with the published vocabulary: --tokenizer=FOLDER that holds its spm.model (128,100 rows,
SentencePiece).

Published setting: v2's attention (256 log buckets, shared projections, a norm of the table of distances) without its
convolution; replaced tokens with gradient-disentangled embeddings, a generator of the same width and half the layers
with an enhanced mask decoder; single tokens masked, all of which become the mask token; rows of 512, 10,000 steps of
warm-up; generator and discriminator trained by an optimizer each, clipped by itself at 1 (checked in
experiments/language_model/rtd_base.json and rtd.sh, and rtd_task.py of microsoft/DeBERTa: --decoupled_training); Adam
without bias correction, epsilon 1e-6, decay 0.01, linear decay, parameters from a normal that is not cut (checked in
optims/args.py, optims/xadam.py and deberta/nnmodule.py there); 8,192 rows, 500,000 steps, 5e-4, beta 0.9/0.98 (checked
in notes that quote section 4.1; the appendix has 6e-4, recalled), discriminator weight 50 (checked there in section
3.1, of the ablations; rtd.sh shows 256 rows, 1 M steps and 1e-4 on WikiText-103, rtd_task.py has weight 10
by default). There, the discriminator's step reads the generator's embeddings after the generator's step, the
detector's head adds the first token's state and a norm before its layer, and the decoder's positions are shared too;
here the head is ELECTRA's, and the generator's positions are its own. Published scores: MNLI 90.6/90.7, SQuAD 2.0
88.4/85.4 F1/EM (README of microsoft/DeBERTa). 183,831,552 parameters, and no pooler. Not trained to the end by this
project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 128100
    config.model.positions = "relative"
    config.model.relative_buckets = 256
    config.model.relative_shared = True
    config.model.relative_norm = True
    config.model.mask_decoder = "enhanced"
    config.model.type_vocab_size = 0
    config.model.norm_epsilon = 1e-7
    config.model.initializer = "normal"
    config.model.pooler = False
    config.objective.name = "rtd"
    config.objective.next_sentence = False
    config.objective.embedding_sharing = "gradient_disentangled"
    config.generator.num_layers = 6
    config.data.format = "full_sentences"
    config.data.batch_size = 8192
    config.data.mask_token_share = 1.0
    config.data.random_token_share = 0.0
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 5e-4
    config.optimizer.b2 = 0.98
    config.optimizer.bias_correction = False
    config.optimizer.decoupled = True
    config.train.num_steps = 500_000
    config.train.keep_every = 100_000
    return config
