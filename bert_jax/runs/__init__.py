"""Reads and writes workdirs, checkpoints and logs of runs, and opens a run's model."""
