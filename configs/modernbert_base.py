"""Pre-trains ModernBERT Base (Warner et al. 2024, arXiv 2412.13663, sections 2 and 3, table 3).

    python -m bert_jax.pretrain --config=modernbert_base --config.data.corpus=DIR --workdir=DIR

The corpus is made with the published vocabulary: --tokenizer=FOLDER that holds its tokenizer.json (50,368 rows).

Published setting: 22 layers, pre-norm, GeGLU, no biases but the decoder's, windows of 128 tokens on two layers of
three; 30 % masks; StableAdamW with bias correction, beta 0.9/0.98, epsilon 1e-6, decay 1e-5 a step, no clipping; 1,719
billion tokens in rows of 1,024, packed, 768 to 4,608 of them over the first 50 billion; rate 8e-4 after 3 billion
tokens of warm-up, then constant; rotary base 10,000. Then 250 billion tokens in 576 rows of 8,192 at 3e-4, and 50
billion more over which the rate falls from 3e-4 as 1 - sqrt to 0.001 of it, both with base 160,000 on global layers and
the moments of the run before, decay 1e-5 a step still. Dropout 0.1 of attention's output and no other; evaluation with
15 % masks. (All is checked in modernbert-base-pretrain.yaml, -context-extension.yaml and -learning-rate-decay.yaml, in
yamls/modernbert of AnswerDotAI/ModernBERT, branch pretraining_documentation.) Published as three runs, each branched
from the one before; here they are phases of one. The batch grows in three steps, there row by row. `python -m
bert_jax.plan --config=modernbert_base --schedule` lists and draws the course. Published: 194 hours on 8 H100s for the
rows of 1,024; GLUE 88.4 on average. 149,014,272 parameters. Not trained to the end by this project.
"""

from bert_jax.config import base, batch_warmup, by_tokens

LONG = {
    "batch_size": 576,
    "sequence_length": 8192,
    "optimizer.learning_rate": 3e-4,
    "optimizer.weight_decay": 1e-5 / 3e-4,
}
DECAY = {
    "optimizer.schedule": "trapezoidal",
    "optimizer.decay_steps": 10_597,  # the whole phase
    "optimizer.decay_shape": "sqrt",
    "optimizer.final_fraction": 0.001,
}
SHORT = {"sequence_length": 1024, "model.rotary_base": 10_000.0}


def get_config():
    config = base()
    config.model.vocab_size = 50368
    config.model.num_layers = 22
    config.model.intermediate_size = 1152
    config.model.mlp = "gated"
    config.model.max_positions = 8192
    config.model.type_vocab_size = 0
    config.model.positions = "rotary"
    config.model.rotary_base = 160_000.0
    config.model.local_rotary_base = 10_000.0
    config.model.local_window = 128
    config.model.global_every = 3
    config.model.norm_place = "pre"
    config.model.first_norm = False
    config.model.norm_bias = False
    config.model.attention_bias = False
    config.model.mlp_bias = False
    config.model.head_bias = False
    config.model.norm_epsilon = 1e-5
    config.model.hidden_dropout = 0.0
    config.model.attention_dropout = 0.0
    config.model.attention_output_dropout = 0.1
    config.model.scaled_initializer = True
    config.model.pooler = False
    config.model.scan_layers = True
    config.objective.next_sentence = False
    config.data.format = "doc_sentences"
    config.data.packing = True
    config.data.mask_rate = 0.3
    config.data.sequence_length = 8192
    config.data.phases = by_tokens(
        *batch_warmup(768, 4608, tokens=50e9, stages=3, multiple=256, **SHORT),
        {"tokens": 1_669e9, "batch_size": 4608, **SHORT},
        {"tokens": 250e9, **LONG},
        {"tokens": 50e9, **LONG, **DECAY},
    )
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.name = "stable_adamw"
    config.optimizer.learning_rate = 8e-4
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 3_815  # 3 billion tokens of the first batch size
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 1e-5 / 8e-4  # a share of the rate, as all decay is here
    config.optimizer.clip_norm = 0.0
    config.train.num_steps = 0
    config.train.num_tokens = 2_019_000_000_000
    config.train.logits_chunk = 2048  # at a time, of many predictions over a large vocabulary
    config.train.eval_batch_size = 64
    config.train.eval_mask_rate = 0.15
    config.train.keep_every = 100_000
    return config
