"""Returns the recipe of a run that goes on: `--config=stored.py:WORKDIR` is the config in WORKDIR's config.json."""

import ml_collections

from bert_jax.runs import workdir as workdir_lib


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Returns the config of the run in a workdir. Raises UserError if it holds none."""
    return workdir_lib.read(workdir_lib.to_path(workdir, "--workdir="))[1]
