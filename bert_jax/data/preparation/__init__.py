"""Turns text into a corpus: sources, sentences, shards, and the pass that joins them."""

from bert_jax import _moved


def __getattr__(name):
    return _moved.find("data.preparation", name)
