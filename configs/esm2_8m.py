"""Pre-trains ESM-2 8M on proteins (Lin et al. 2023, Science 379, 1123; supplementary A.2).

    python -m bert_jax.prepare --input='proteins/*.fasta.gz' --output=DIR --tokenizer=amino-acids --drop_duplicates
    python -m bert_jax.pretrain --config=esm2_8m --config.data.corpus=DIR --workdir=DIR

Published setting: 500,000 steps of 2 million tokens; Adam with beta 0.9/0.98, epsilon 1e-8, decay 0.01; rate 4e-4 after
2,000 steps of warm-up, falling by a line to a tenth of it over 90 % of the training (these were read in passages of the
supplement that public code and data sheets quote, several agreeing: NVIDIA's ESM-2 recipes, and a scheduler's
docstring). The architecture is that of facebook/esm2_t6_8M_UR50D, whose config.json was read in copies. Recalled, not
read: 15 % of the residues predicted, 80 % of them masked and 10 % at random; rows of 1,024, to which longer proteins
are cropped; no clipping of gradients is said. That Adam corrects the bias of its moments, decays every parameter and
draws fresh ones from BERT's normal is fairseq's way, on which ESM is built (see configs/roberta_base.py).

Here rows are packed with whole proteins (2,048 of 1,024 are 2.1 million tokens), and longer proteins are split into
rows rather than cropped. The sampling of UniRef90 members by UniRef50 clusters is replaced by your FASTA file.
Published perplexity on held-out clusters of UniRef50: 10.45 (recalled). 7,408,960 parameters, and 103,393 of the head.
Not trained to the end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 33
    config.model.mask_id = 32
    config.model.hidden_size = 320
    config.model.num_layers = 6
    config.model.num_heads = 20
    config.model.intermediate_size = 1280
    config.model.max_positions = 1026
    config.model.type_vocab_size = 0
    config.model.token_dropout = True
    config.model.positions = "rotary"
    config.model.norm_place = "pre"
    config.model.embedding_norm = False
    config.model.norm_epsilon = 1e-5
    config.model.hidden_dropout = 0.0
    config.model.attention_dropout = 0.0
    config.model.pooler = False
    config.objective.next_sentence = False
    config.data.format = "doc_sentences"
    config.data.sequence_length = 1024
    config.data.packing = True
    config.data.batch_size = 2048
    config.data.phases = (
        {"share": 0.9},
        {
            "share": 0.1,
            "optimizer.learning_rate": 4e-5,
            "optimizer.warmup_steps": 0,
            "optimizer.schedule": "constant",
        },
    )
    config.data.workers = 8
    config.data.prefetch = 8
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 2_000
    config.optimizer.final_fraction = 0.1
    config.optimizer.b2 = 0.98
    config.optimizer.epsilon = 1e-8
    config.optimizer.decay_all = True
    config.optimizer.clip_norm = 0.0
    config.train.num_steps = 500_000
    config.train.keep_every = 100_000
    return config
