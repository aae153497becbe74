"""Trained models at work: fill-mask, classify, tag, answer, embed; and looked into (inspection).

`batching` runs rows of any lengths in few compiled shapes, `predictor` is what the five classes share, `records` reads
and writes the files of `python -m bert_jax.predict`.
"""

from bert_jax.inference.answer import QuestionAnswerer
from bert_jax.inference.classify import Classifier
from bert_jax.inference.embed import Embedder
from bert_jax.inference.fill_mask import FillMask
from bert_jax.inference.inspection import Inspector
from bert_jax.inference.predictor import load
from bert_jax.inference.tag import TokenTagger

__all__ = ["Classifier", "Embedder", "FillMask", "Inspector", "QuestionAnswerer", "TokenTagger", "load"]
