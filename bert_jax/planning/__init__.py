"""Plans ahead of time: what a recipe needs on a TPU topology, and how fast it can be there, without any TPU."""
