"""Runs `python -m bert_jax COMMAND ...`, the same as `bert-jax COMMAND ...`."""

from bert_jax.cli import main

main()
