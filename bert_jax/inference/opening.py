"""Opens a model for a command, with the class that its vectors need: dense, sparse, or one for each token."""

import os
from typing import Any

from bert_jax.errors import UserError
from bert_jax.inference.embed import Embedder
from bert_jax.inference.multi_vector import MultiVectorEmbedder, MultiVectorReranker
from bert_jax.inference.predictor import Predictor
from bert_jax.inference.rerank import Reranker
from bert_jax.inference.sparse import SparseEmbedder
from bert_jax.interop.pretrained import Pretrained

_OTHERS: dict[str, tuple[dict[Any, Any], str]] = {
    "late_interaction": ({Embedder: MultiVectorEmbedder, Reranker: MultiVectorReranker},
                         "which has a vector for each token of a text"),
    "sparse": ({Embedder: SparseEmbedder}, "whose vectors are weights of the vocabulary's tokens"),
}  # fmt: skip


def open_predictor(usual: type[Predictor], name: str | os.PathLike | Pretrained, **options: Any) -> Any:
    """Opens a model with its usual class, or with that for late interaction or sparse vectors where the model has them.

    Args:
      usual: the class Embedder or Reranker.
      name: the model's name, or an opened model.
      **options: arguments of the usual class, of which the others have dtype alone; with a pooling the model's own
        vectors are not asked for.

    Raises:
      UserError: there is no such model, or an option does not fit it.
    """
    model = usual.opened(name)
    classes, reason = next(
        (entry for setting, entry in _OTHERS.items() if setting in model.settings and usual in entry[0]), ({}, "")
    )
    if not classes or options.get("pooling"):
        return usual(model, **options)
    for key, value in options.items():
        if key not in ("dtype", "packing") and value is not None:
            raise UserError(f"--{key}: not for --model={model.name}, {reason}")
    return classes[usual](model, dtype=options.get("dtype"))
