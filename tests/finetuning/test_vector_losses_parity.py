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


def ours(kind, settings, anchors, others, labels, params=None, normalize=True, sparse=False, guides=None):
    config = finetune_config.base()
    config.loss.update(settings)
    loss = VectorLoss(None, config.loss, kind, normalize, sparse)

    def of_vectors(anchors, others):
        vectors = {"anchors": anchors, "others": others}
        return loss.loss(params or {}, vectors, batch_of(others.shape[1], labels) | (guides or {}))[0]

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
    none, scores = np.zeros(ROWS, np.float32), np.random.default_rng(2).normal(size=(ROWS, 4)).astype(np.float32)
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
        "margins": ("margin_mse", {}, 4, scores, library.MarginMSELoss(model)),
        "kl": ("kl", {"temperature": 1.0}, 4, scores, library.DistillKLDivLoss(model)),
    }  # fmt: skip


NAMES = (
    "pairs", "hard negatives", "symmetric", "cosent", "angle", "cosine", "triplet", "margin_mse", "margins", "kl",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients(name):
    kind, settings, columns, labels, loss = losses()[name]
    anchors, others = vectors_of(columns)
    normalize = kind not in ("triplet", "margin_mse", "kl")
    own_labels = labels
    if kind == "margin_mse" and labels.ndim == 1:  # a single margin, as scores of the two texts
        own_labels = np.stack([labels, np.zeros_like(labels)], 1)
    value, gradients = ours(kind, settings, anchors, others, own_labels, normalize=normalize)
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


def lookup(vectors):
    """Returns a module with the given vectors for the texts of each column."""
    import torch

    class Lookup(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": vectors[int(features["column"])]}

    return Lookup()


def test_a_guide():
    """A guide that leaves out some of the other positives and negatives: GISTEmbed."""
    import torch
    from sentence_transformers.sentence_transformer import losses as library

    anchors, others = vectors_of(2)
    guide_anchors, guide_others = vectors_of(2, seed=1)
    guides = {"guide_vectors": jnp.asarray(guide_anchors), "other_guide_vectors": jnp.asarray(guide_others)}
    for margin in (0.0, 0.2):
        settings = {"false_negative_margin": margin}
        value, gradients = ours("info_nce", settings, anchors, others, np.zeros(ROWS), guides=guides)
        plain, _ = ours("info_nce", {}, anchors, others, np.zeros(ROWS))
        texts = [torch.tensor(array, requires_grad=True) for array in (anchors, *others.swapaxes(0, 1))]
        guided = [torch.tensor(array) for array in (guide_anchors, *guide_others.swapaxes(0, 1))]
        loss = library.GISTEmbedLoss.__new__(library.GISTEmbedLoss)  # which would open two models
        torch.nn.Module.__init__(loss)
        loss.temperature, loss.margin, loss.margin_strategy = 0.05, margin, "absolute"
        loss.contrast_anchors = loss.contrast_positives = loss.gather_across_devices = loss.must_retokenize = False
        loss.similarity_fct, loss.cross_entropy_loss = torch.nn.CosineSimilarity(dim=-1), torch.nn.CrossEntropyLoss()
        loss.model, loss.guide = lookup(texts), lookup(guided)
        expected = loss([{"column": torch.tensor([i])} for i in range(3)], None)
        expected.backward()
        assert value == pytest.approx(float(expected.detach()), rel=2e-6) and value != pytest.approx(plain, rel=1e-3)
        own = [texts[0].grad.numpy(), np.stack([text.grad.numpy() for text in texts[1:]], 1)]
        for gradient, other in zip(gradients, own, strict=True):
            np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=2e-6 * np.abs(other).max())


def test_a_teachers_vectors():
    import torch
    from sentence_transformers.sentence_transformer import losses as library

    anchors, others = vectors_of(1)
    targets = vectors_of(1, seed=1)[0]
    value, gradients = ours("mse", {}, anchors, others, np.zeros(ROWS), normalize=False,
                            guides={"guide_vectors": jnp.asarray(targets)})  # fmt: skip
    first, second = (torch.tensor(array, requires_grad=True) for array in (anchors, others[:, 0]))
    loss = library.MSELoss(torch.nn.Module())
    expected = loss.compute_loss_from_embeddings([first, second], [torch.tensor(targets)] * 2)
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=2e-6)
    np.testing.assert_allclose(gradients[0], first.grad.numpy(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(gradients[1][:, 0], second.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["info_nce", "margin_mse", "kl"])
def test_late_interaction(kind):
    """The scores of sentence-transformers in the losses of its MultiVectorEncoder, with tokens that do not count."""
    import torch
    from sentence_transformers.multi_vector_encoder import scoring

    rng = np.random.default_rng(4)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((ROWS, 5, SIZE), (ROWS, 2, 7, SIZE))]
    masks = [rng.random(array.shape[:-1]) < 0.7 for array in arrays]
    for mask in masks:
        mask[..., 0] = True
    labels = rng.normal(size=(ROWS, 2)).astype(np.float32)
    config = finetune_config.base()
    config.loss.temperature = 1.0
    loss = VectorLoss(None, config.loss, kind, True, late=True)
    batch = batch_of(2, labels) | {"scored": jnp.asarray(masks[0]).astype(jnp.int32)}
    batch |= {"other_scored": jnp.asarray(masks[1]).astype(jnp.int32)}
    value, gradients = jax.jit(jax.value_and_grad(
        lambda *vectors: loss.loss({}, dict(zip(("anchors", "others"), vectors, strict=True)), batch)[0], argnums=(0, 1)
    ))(*arrays)  # fmt: skip
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    queries, documents = (torch.nn.functional.normalize(leaf, dim=-1) for leaf in leaves)
    counted = [torch.tensor(mask) for mask in masks]
    if kind == "info_nce":
        scores = scoring.colbert_scores(queries, documents, queries_mask=counted[0], documents_mask=counted[1])
        expected = torch.nn.functional.cross_entropy(scores, 2 * torch.arange(ROWS))
    else:
        scores = scoring.colbert_kd_scores(queries, documents, queries_mask=counted[0], documents_mask=counted[1])
        targets = torch.tensor(labels)
        expected = (
            torch.nn.functional.mse_loss(scores[:, 0] - scores[:, 1], targets[:, 0] - targets[:, 1])
            if kind == "margin_mse"
            else torch.nn.functional.kl_div(
                scores.log_softmax(1), targets.log_softmax(1), None, None, "batchmean", True
            )
        )
    expected.backward()
    assert float(value) == pytest.approx(float(expected.detach()), rel=2e-6)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        other = leaf.grad.numpy()
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=2e-6 * np.abs(other).max())
