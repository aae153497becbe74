"""Pre-trains DeBERTa XLarge, v2 (He et al. 2020, arXiv 2006.03654; README of microsoft/DeBERTa, "What's new in v2").

    python -m bert_jax.pretrain --config=deberta_v2_xlarge --config.data.corpus=DIR --workdir=DIR

The corpus is made with the published vocabulary: --tokenizer=FOLDER that holds its spm.model (128,100 rows,
SentencePiece).

What v2 changes: 24 layers of 1,536 and 24 heads, distances in 256 log buckets, position projections shared with the
content's, a norm of the table of distances, a convolution over 3 tokens beside the first layer (checked in
experiments/language_model/deberta_xlarge.json of microsoft/DeBERTa). The rest of the setting is v1's
(configs/deberta_base.py), n-gram masks of up to 3 words too (checked in mlm.sh there); XLarge's rate and batch are not
published: 1.5e-4 and 2,048 rows are those of the 1.5 B model (checked in copies of the paper, table 8). Layers are
scanned, and parameters are spread over 8 devices (--config.mesh.fsdp=1 on fewer). Published scores: MNLI 91.7/91.6,
SST-2 97.5, QNLI 95.8, CoLA 71.1, SQuAD 1.1 95.8/90.8 F1/EM, 2.0 91.4/88.9 (README of microsoft/DeBERTa). 884,593,152
parameters, and no pooler. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("deberta_base")
    config.model.vocab_size = 128100
    config.model.hidden_size = 1536
    config.model.num_layers = 24
    config.model.num_heads = 24
    config.model.intermediate_size = 6144
    config.model.relative_buckets = 256
    config.model.relative_shared = True
    config.model.relative_norm = True
    config.model.key_bias = True
    config.model.conv_kernel_size = 3
    config.model.conv_activation = "gelu"
    config.model.scan_layers = True
    config.mesh.fsdp = 8
    config.optimizer.learning_rate = 1.5e-4
    return config
