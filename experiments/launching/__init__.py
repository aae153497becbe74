"""Runs the jobs of an experiment: `local`, `slurm` and `cloud` start them, `folders` defines the files they write."""
