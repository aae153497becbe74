"""Holds pre-training, and what fine-tuning shares with it: the loop, optimizers, steps and evaluation."""
