"""A tiny corpus, finished runs and a really small disk: the fixtures of the training tests."""

from tests.training.conftest import compiled, config, corpus, finished, programs, small_disk

__all__ = ["compiled", "config", "corpus", "finished", "programs", "small_disk"]
