"""Plans ahead of time: what a recipe needs on TPUs or GPUs, and how fast it can be there, without any of them."""
