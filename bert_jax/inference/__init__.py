"""Uses trained models: fill masks, classify, tag, answer, embed, and look into layers and attention.

Every class opens a MODEL, as does its `from_pretrained`, and is then called with one text or a list of texts:

    import bert_jax
    embedder = bert_jax.Embedder("runs/bert")
    vectors = embedder.encode(["first text", "second text"])  # float32 [2, hidden]

`batching` runs rows of any length in few compiled shapes, `predictor` holds what the predictors share, `examples` reads
what they are called with, `search` compares vectors, `quantization` stores them in fewer bits, `measuring` scores
them, and `records` reads and writes the files of `python -m bert_jax.predict`.

The classes are imported on first use, because flax takes a second and imports optax.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bert_jax.inference.answer import QuestionAnswerer
    from bert_jax.inference.classify import Classifier
    from bert_jax.inference.embed import Embedder
    from bert_jax.inference.fill_mask import FillMask
    from bert_jax.inference.inspection import Inspector
    from bert_jax.inference.measuring import measure
    from bert_jax.inference.mteb_models import MtebEncoder, MtebReranker, MtebSearcher
    from bert_jax.inference.multi_vector import MultiVectorEmbedder
    from bert_jax.inference.predictor import load
    from bert_jax.inference.quantization import quantize
    from bert_jax.inference.rerank import Reranker
    from bert_jax.inference.sparse import SparseEmbedder
    from bert_jax.inference.tag import TokenTagger

__all__ = [
    "Classifier", "Embedder", "FillMask", "Inspector", "MtebEncoder", "MtebReranker", "MtebSearcher",
    "MultiVectorEmbedder", "QuestionAnswerer", "Reranker", "SparseEmbedder", "TokenTagger", "load", "measure",
    "quantize",
]  # fmt: skip

_MODULES = {
    "Classifier": "classify",
    "Embedder": "embed",
    "FillMask": "fill_mask",
    "Inspector": "inspection",
    "MtebEncoder": "mteb_models",
    "MtebReranker": "mteb_models",
    "MtebSearcher": "mteb_models",
    "MultiVectorEmbedder": "multi_vector",
    "QuestionAnswerer": "answer",
    "Reranker": "rerank",
    "SparseEmbedder": "sparse",
    "TokenTagger": "tag",
    "load": "predictor",
    "measure": "measuring",
    "quantize": "quantization",
}


def __getattr__(name):
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
