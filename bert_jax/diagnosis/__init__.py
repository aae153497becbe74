"""Diagnoses runs from the files in their workdirs: `reading`, then the checks, then `report`. Imports no jax."""
