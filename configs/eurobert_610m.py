"""Pre-trains EuroBERT 610m (Boizard et al. 2025, arXiv 2503.05500, section 2).

    python -m bert_jax.pretrain --config=eurobert_610m --config.data.corpus=DIR,DIR,... --workdir=DIR

The setting is that of 210m (configs/eurobert_210m.py) with 26 layers of 1,152, 18 heads of queries and 6 of keys and
values, and 4,096 in the gated MLP (checked in optimus/trainer/model/encoder/eurobert.py of Nicolas-BZRD/EuroBERT).
Layers are scanned. 607,874,688 parameters without the decoder. Not trained to the end by this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("eurobert_210m")
    config.model.hidden_size = 1152
    config.model.num_layers = 26
    config.model.num_heads = 18
    config.model.num_kv_heads = 6
    config.model.intermediate_size = 4096
    config.model.scan_layers = True
    return config
