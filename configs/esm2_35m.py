"""Pre-trains ESM-2 35M on proteins (Lin et al. 2023, Science 379, 1123; supplementary A.2).

    python -m bert_jax.prepare --input='proteins/*.fasta.gz' --output=DIR --tokenizer=amino-acids --drop_duplicates
    python -m bert_jax.pretrain --config=esm2_35m --config.data.corpus=DIR --workdir=DIR

The setting is that of 8M (configs/esm2_8m.py, which says what of it was read), with 12 layers of 480, as the
config.json of facebook/esm2_t12_35M_UR50D has it (read in copies). 33,269,280 parameters. Not trained to the end by
this project.
"""

from bert_jax.config import load_recipe


def get_config():
    config = load_recipe("esm2_8m")
    config.model.hidden_size = 480
    config.model.num_layers = 12
    config.model.intermediate_size = 1920
    return config
