"""What is wrong with a run, from what it left on disk: reading -> diagnoses -> report. No jax."""
