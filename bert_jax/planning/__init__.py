"""What a recipe would need, and how fast it could be, on a TPU slice that is not there."""
