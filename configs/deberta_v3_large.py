"""Pre-trains DeBERTa Large, v3 (He et al. 2021, arXiv 2111.09543, section 4).

    python -m bert_jax.pretrain --config=deberta_v3_large --config.data.corpus=DIR --workdir=DIR

The setting is Base's (configs/deberta_v3_base.py) with 24 layers of 1,024 and 16 heads, 12 layers in the generator
(checked in experiments/language_model/rtd_large.json of microsoft/DeBERTa), and rate 3e-4 (checked in notes that quote
section 4.1; rtd.sh there shows 1e-4 and 256 rows on WikiText-103, as Base's). Layers are scanned. Published scores:
MNLI 91.8/91.9, SST-2 96.9, QNLI 96.0, CoLA 75.3, RTE 92.7, SQuAD 2.0 91.5/89.0 F1/EM (README of microsoft/DeBERTa).
434,012,160 parameters, and no pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("deberta_v3_base")
    config.model.hidden_size = 1024
    config.model.num_layers = 24
    config.model.num_heads = 16
    config.model.intermediate_size = 4096
    config.model.scan_layers = True
    config.generator.num_layers = 12
    config.optimizer.learning_rate = 3e-4
    return config
