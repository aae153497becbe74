"""Losses on vectors and their gradients against sentence-transformers', on the same vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.finetuning.vector_losses import VectorLoss

pytestmark = pytest.mark.parity

ROWS, SIZE = 12, 16


def vectors_of(columns, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, SIZE)).astype(np.float32), rng.normal(size=(ROWS, columns, SIZE)).astype(np.float32)


def batch_of(columns, labels):
    return {
        "weights": jnp.ones(ROWS),
        "labels": jnp.asarray(labels),
        "texts": jnp.arange(ROWS, dtype=jnp.int32),
        "other_texts": ROWS + jnp.arange(ROWS * columns, dtype=jnp.int32).reshape(ROWS, columns),
        "known": ROWS + columns * jnp.arange(ROWS, dtype=jnp.int32)[:, None],
        "groups": jnp.full(ROWS, -1, jnp.int32),
    }


def ours(kind, settings, anchors, others, labels, params=None, normalize=True, sparse=False):
    config = finetune_config.base()
    config.loss.update(settings)
    loss = VectorLoss(None, config.loss, kind, normalize, sparse)

    def of_vectors(anchors, others):
        vectors = {"anchors": anchors, "others": others}
        return loss.loss(params or {}, vectors, batch_of(others.shape[1], labels))[0]

    value, gradients = jax.jit(jax.value_and_grad(of_vectors, argnums=(0, 1)))(anchors, others)
    return float(value), [np.asarray(gradient) for gradient in gradients]


def theirs(loss, anchors, others, labels):
    import torch

    first = torch.tensor(anchors, requires_grad=True)
    rest = torch.tensor(others, requires_grad=True)
    value = loss.compute_loss_from_embeddings([first, *rest.unbind(1)], torch.tensor(labels))
    value.backward()
    return float(value.detach()), [first.grad.numpy(), rest.grad.numpy()]


def losses():
    import torch
    from sentence_transformers.sentence_transformer import losses as library

    model = torch.nn.Module()
    graded = np.linspace(0, 1, ROWS).astype(np.float32)[np.random.default_rng(1).permutation(ROWS)]
    none = np.zeros(ROWS, np.float32)
    return {
        "pairs": ("info_nce", {}, 1, none, library.MultipleNegativesRankingLoss(model)),
        "hard negatives": ("info_nce", {"temperature": 0.02}, 3, none,
                           library.MultipleNegativesRankingLoss(model, scale=50.0)),
        "symmetric": ("info_nce", {"symmetric": True}, 1, none,
                      library.MultipleNegativesRankingLoss(
                          model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction")),
        "cosent": ("cosent", {}, 1, graded, library.CoSENTLoss(model)),
        "angle": ("angle", {}, 1, graded, library.AnglELoss(model)),
        "cosine": ("cosine", {}, 1, graded, library.CosineSimilarityLoss(model)),
        "triplet": ("triplet", {"margin": 0.5}, 2, none, library.TripletLoss(model, triplet_margin=0.5)),
        "margin_mse": ("margin_mse", {}, 2, graded, library.MarginMSELoss(model)),
    }  # fmt: skip


NAMES = ("pairs", "hard negatives", "symmetric", "cosent", "angle", "cosine", "triplet", "margin_mse")


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients(name):
    kind, settings, columns, labels, loss = losses()[name]
    anchors, others = vectors_of(columns)
    normalize = kind not in ("triplet", "margin_mse")
    value, gradients = ours(kind, settings, anchors, others, labels, normalize=normalize)
    expected, expected_gradients = theirs(loss, anchors, others, labels)
    assert value == pytest.approx(expected, rel=2e-6)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=2e-6 * np.abs(other).max())


def test_sparse_vectors():
    """The loss of SPLADE: pairs, and what anchors and others cost a search."""
    import torch
    from sentence_transformers.sparse_encoder import losses as library

    model = torch.nn.Module()
    model.similarity_fn_name = "dot"
    weights = {"document_regularizer_weight": 3e-3, "query_regularizer_weight": 5e-3}
    base = library.SparseMultipleNegativesRankingLoss(model)
    loss = library.SpladeLoss(model, base, **weights)
    anchors, others = (np.maximum(array, 0) for array in vectors_of(2))
    settings = {"similarity": "dot", "temperature": 1.0, "flops_anchor": 5e-3, "flops_other": 3e-3}
    value, gradients = ours("info_nce", settings, anchors, others, np.zeros(ROWS, np.float32), normalize=False,
                            sparse=True)  # fmt: skip
    first = torch.tensor(anchors, requires_grad=True)
    rest = torch.tensor(others, requires_grad=True)
    texts = [first, *rest.unbind(1)]
    costs = [(loss.query_regularizer_weight, loss.query_regularizer, first),
             (loss.document_regularizer_weight, loss.document_regularizer, torch.cat(texts[1:]))]  # fmt: skip
    expected = base.compute_loss_from_embeddings(texts, None)
    expected = expected + sum(weight * cost.compute_loss_from_embeddings(own) for weight, cost, own in costs)
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=2e-6)
    for gradient, other in zip(gradients, (first.grad.numpy(), rest.grad.numpy()), strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=2e-6 * np.abs(other).max())
