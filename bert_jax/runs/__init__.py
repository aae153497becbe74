"""Workdirs, checkpoints and logs of runs, and opening a run's model."""
