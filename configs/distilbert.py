"""Pre-trains DistilBERT (Sanh et al. 2019, arXiv 1910.01108, sections 2 and 3).

    python -m bert_jax.pretrain --config=distilbert --config.data.corpus=DIR --workdir=DIR \
        [--config.init_from=TEACHER --config.distillation.teacher=TEACHER]

TEACHER is a BERT Base with the corpus's vocabulary: a run's workdir, a Hugging Face directory, or a name on the hub, by
default google-bert/bert-base-uncased. The corpus is made with --tokenizer=TEACHER (30,522 entries, lower case).

Published setting: 6 layers that start as the teacher's 0, 2, 4, 7, 9 and 11, no token types, no pooler; soft targets at
temperature 2 on all tokens, weights 5 (soft), 2 (MLM) and 1 (cosine); dynamic masks without NSP; Adam 5e-4, epsilon
1e-6, beta 0.9/0.98 with bias correction, no decay, clipping at 5, 5 % warm-up, linear decay, three passes over the text
(checked in README.md, train.py, distiller.py and scripts/extract_distilbert.py of transformers'
examples/research_projects/distillation); batches of up to 4,000 rows (checked in copies of the paper, section 3).
There, positions are fixed sinusoids (sinusoidal_pos_embds in training_configs/distilbert-base-uncased.json), unless the
student starts from a teacher's weights, whose learned table it then takes; here, and in the released model (its
config.json), they are learned. Rare tokens are masked more often there (XLM's smoothing, 0.7), for which there is no
key here, and the length is given in passes: three over English Wikipedia and books are about 6,000 steps. Published
scores: MNLI 82.1, QNLI 89.2, QQP 88.5, SST-2 91.3, MRPC 87.5, CoLA 51.3, RTE 59.9, STS-B 86.9 on dev sets, SQuAD 1.1 F1
86.9 after a second distillation (the same README). 66,362,880 parameters. Not trained to the end by this project.
"""

from bert_jax.config import base

_TEACHER = "google-bert/bert-base-uncased"


def get_config():
    config = base()
    config.init_from = _TEACHER
    config.init_layers = (0, 2, 4, 7, 9, 11)
    config.model.vocab_size = 30522
    config.model.num_layers = 6
    config.model.type_vocab_size = 0
    config.model.pooler = False
    config.objective.name = "distillation"
    config.objective.next_sentence = False
    config.distillation.teacher = _TEACHER
    config.distillation.positions = "all"
    config.data.format = "full_sentences"
    config.data.batch_size = 4096
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 300
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 5.0
    config.train.num_steps = 6_000
    config.train.eval_every = 500
    return config
