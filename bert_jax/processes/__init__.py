"""Runs of several processes: launchers, coordination and signals; and the parts of jax without promises."""
