"""Pre-trains BERT Large, MLM + NSP (Devlin et al. 2018, arXiv 1810.04805, sections 3.1 and A.2).

    python -m bert_jax.pretrain --config=bert_large --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/bert_base.py) with 24 layers of 1,024 and 16 heads. Layers are scanned, which compiles
in a fraction of the time, and compute again what is no matrix product, so that 16 rows of 512 fit a TPU v5e of 16 GB
(experiments/results/plan.md); with more memory, --config.model.remat=none is faster. Published scores, GLUE test
(table 1): MNLI 86.7/85.9, QQP 72.1, QNLI 92.7, SST-2 94.9, CoLA 60.5, STS-B 86.5, MRPC 89.3, RTE 70.1, average
82.1; SQuAD 1.1 dev 84.1 EM, 90.9 F1 (single model); 4 days on 16 Cloud TPUs (64 chips). Not trained to the end
by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("bert_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 4096
    config.model.scan_layers = True
    config.model.remat = "dots_no_batch"
    return config
