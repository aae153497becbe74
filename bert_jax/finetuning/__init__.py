"""Fine-tuning: the run, its step for several seeds, what is trained, and the losses."""
