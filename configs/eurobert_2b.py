"""Pre-trains EuroBERT 2.1B (Boizard et al. 2025, arXiv 2503.05500, section 2).

    python -m bert_jax.pretrain --config=eurobert_2b --config.data.corpus=DIR,DIR,... --workdir=DIR

The setting is that of 210m (configs/eurobert_210m.py) with 32 layers of 2,304, 18 heads of queries and 6 of keys and
values, and 6,144 in the gated MLP (checked in config.json of EuroBERT/EuroBERT-2.1B, and in
optimus/trainer/model/encoder/eurobert.py of Nicolas-BZRD/EuroBERT). Layers are scanned, and parameters are spread over
8 devices (--config.mesh.fsdp=1 on fewer). 2,107,590,912 parameters without the decoder. Not trained to the end by this
project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("eurobert_210m")
    config.model.hidden_size = 2304
    config.model.num_layers = 32
    config.model.num_heads = 18
    config.model.num_kv_heads = 6
    config.model.intermediate_size = 6144
    config.model.scan_layers = True
    config.mesh.fsdp = 8
    return config
