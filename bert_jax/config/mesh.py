"""The axes of the mesh, by name: for what checks configs without jax, and for what lays arrays out.

To add an axis: name it here, give it a size of 1 in `config.mesh` (config.py and finetune_config.py), and write it into
the layouts that it splits: of parameters in sharding.RULES, of activations in model/layouts.LAYOUTS.
"""

AXES = ("data", "fsdp", "tensor")  # outermost first: what is last has the nearest devices
BATCH_AXES = ("data", "fsdp")  # of these, what splits the rows of a batch
