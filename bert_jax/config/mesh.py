"""Names the axes of the mesh, for checks of configs, which need no jax, and for the layout of arrays.

To add an axis: name it here, give it a size of 1 in the group `mesh` of config/keys.py, and write it into the layouts
that it splits: sharding.RULES for parameters, model/layouts.LAYOUTS for activations.
"""

AXES = ("data", "fsdp", "tensor")  # outermost first: the last axis has the nearest devices
BATCH_AXES = ("data", "fsdp")  # the axes that split the rows of a batch
OPTIMIZER_STATE = ("auto", "whole", "split")  # how devices hold what an optimizer keeps, see sharding.state_shardings
