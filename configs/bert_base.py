"""Pre-trains BERT Base, MLM + NSP (Devlin et al. 2018, arXiv 1810.04805, sections 3.1 and A.2).

    python -m bert_jax.pretrain --config=bert_base --config.data.corpus=DIR --workdir=DIR

The corpus is made with the published vocabulary: --tokenizer=FOLDER/vocab.txt (30,522 entries, lower case).

Published setting: 256 rows, 1,000,000 steps, nine tenths of them at length 128 and the rest at 512; Adam 1e-4, beta
0.9/0.999, decay 0.01, 10,000 steps of warm-up, linear decay; dropout 0.1; at most 20 and 76 predictions a row; ten
differently masked copies of the text (checked in the model card of bert-base-uncased on the Hugging Face hub and in the
README of google-research/bert); no bias correction of Adam's moments, clipping at 1, parameters from a normal cut at
two deviations (checked in optimization.py and modeling.py there). Masks here are dynamic; the published run's are
--config.data.masking=static. Published scores (table 5): MNLI-m 84.4, QNLI 88.4, MRPC 86.7, SST-2 92.7, SQuAD 1.1 F1
88.5; 4 days on 4 Cloud TPUs (16 chips). Not trained to the end by this project.
"""

from bert_jax.config import base


def get_config():
    config = base()
    config.model.vocab_size = 30522
    config.data.phases = (
        {"share": 0.9, "sequence_length": 128, "max_predictions": 20},
        {"share": 0.1, "sequence_length": 512, "max_predictions": 76},
    )
    config.data.pair_repeats = 10
    config.data.workers = 4
    config.data.prefetch = 8
    config.optimizer.bias_correction = False
    config.train.checkpoint_every = 5_000
    config.train.keep_every = 100_000
    return config
