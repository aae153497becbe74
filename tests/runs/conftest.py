"""Gives these tests the training tests' tiny corpus, finished runs and small disk."""

from tests.training.conftest import compiled, config, corpus, finished, small_disk

__all__ = ["compiled", "config", "corpus", "finished", "small_disk"]
