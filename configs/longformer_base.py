"""Makes a Longformer Base of RoBERTa Base (Beltagy et al. 2020, arXiv 2004.05150, section 5).

    python -m bert_jax.prepare --input='books/*.txt' --output=DIR --tokenizer=FacebookAI/roberta-base
    python -m bert_jax.pretrain --config=longformer_base --config.data.corpus=DIR --workdir=DIR

RoBERTa's 512 positions are repeated up to 4,096, each token sees a window of 512 tokens, and the maps of global tokens
start as copies of the others. Masked-language training has no global tokens and so trains none of these maps; the
published code copies them once more at its end. With --config.model.global_tokens=first the first token of each row is
a global one, and they are trained.

Published setting: 64 rows of 4,096 (2^18 tokens), Adam 3e-5, epsilon 1e-6, decay 0.01, 500 steps of warm-up, norms
clipped to 5; 3,000 steps at a constant rate, which its authors call enough (checked in
scripts/convert_model_to_long.ipynb of allenai/longformer), or as in the paper 65,000 with a polynomial decay of power
3, which is no schedule here. Adam is that of transformers 3.0.2, which corrects the bias of its moments (recalled). The
paper's bits per character of held-out text, from 1.846 for RoBERTa Base to 1.705
after 65,000 steps, are recalled from its table 5. 148,068,864 parameters; 148,659,456 with the pooler that
LongformerModel carries. Not trained to the end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.init_from = "FacebookAI/roberta-base"
    config.init_long = True
    config.init_positions = "tile"
    config.model.vocab_size = 50265
    config.model.max_positions = 4096
    config.model.position_offset = 2
    config.model.type_vocab_size = 1
    config.model.norm_epsilon = 1e-5
    config.model.initializer = "normal"
    config.model.layer_windows = (512,)
    config.model.global_tokens = "auto"
    config.model.global_projections = True
    config.model.pooler = False
    config.objective.next_sentence = False
    config.data.format = "full_sentences"
    config.data.sequence_length = 4096
    config.data.batch_size = 64
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 3e-5
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 500
    config.optimizer.epsilon = 1e-6
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 5.0
    config.train.num_steps = 3_000
    return config
