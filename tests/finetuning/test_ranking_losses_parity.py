"""Losses of rerankers and their gradients against sentence-transformers', on the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.finetuning.ranking_losses import RankingLoss

pytestmark = pytest.mark.parity

SIZES = (4, 2, 5, 3)  # documents of each query
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=sum(SIZES)).astype(np.float32)
TEACHER = (2 * RNG.normal(size=sum(SIZES))).astype(np.float32)
BINARY = np.concatenate([[1] + [0] * (size - 1) for size in SIZES]).astype(np.float32)
GRADES = RNG.integers(0, 4, sum(SIZES)).astype(np.float32)


def in_rows(values, sizes):
    """Returns values of documents as rows, float32 [queries, documents], filled up with zeros."""
    rows = np.zeros((len(sizes), max(sizes)), np.float32)
    for row, part in zip(rows, np.split(values, np.cumsum(sizes)[:-1]), strict=True):
        row[: len(part)] = part
    return rows


def ours(kind, settings, targets, sizes):
    config = finetune_config.base()
    config.loss.update(settings)
    loss = RankingLoss(None, config.loss, kind)
    batch = {"labels": in_rows(targets, sizes), "relevant": in_rows(BINARY, sizes),
             "weights": in_rows(np.ones_like(targets), sizes)}  # fmt: skip
    batch = {name: jnp.asarray(array) for name, array in batch.items()}

    def of_scores(scores):
        return loss._sums(scores, batch)["loss"][0] / loss.counts(batch)["loss"]

    value, gradient = jax.jit(jax.value_and_grad(of_scores))(in_rows(LOGITS, sizes))
    return float(value), np.concatenate([row[:size] for row, size in zip(np.asarray(gradient), sizes, strict=True)])


def library_loss(name):
    """Returns (our loss, settings, targets, sizes, sentence-transformers' class and its arguments)."""
    import torch
    from sentence_transformers.cross_encoder import losses

    alone, four = (1,) * len(LOGITS), (2,) * (len(LOGITS) // 2)
    return {
        "bce": ("bce", {}, BINARY, alone, losses.BinaryCrossEntropyLoss, {}),
        "weighted": ("bce", {"positive_weight": 3.0}, BINARY, alone, losses.BinaryCrossEntropyLoss,
                     {"pos_weight": torch.tensor(3.0)}),
        "mse": ("mse", {}, TEACHER, alone, losses.MSELoss, {}),
        "listnet": ("listnet", {}, GRADES, SIZES, losses.ListNetLoss, {}),
        "ranknet": ("ranknet", {}, GRADES, SIZES, losses.RankNetLoss, {"reduction_log": "natural"}),
        "lambdarank": ("lambdarank", {}, GRADES, SIZES, losses.LambdaLoss,
                       {"weighting_scheme": losses.LambdaRankScheme(), "reduction_log": "natural"}),
        "margin_mse": ("margin_mse", {}, TEACHER, four, losses.MarginMSELoss, {}),
    }[name]  # fmt: skip


def theirs(loss_class, arguments, targets, sizes):
    """Returns (loss, gradient by the logits) of a CrossEncoder that gives them for the pairs in order."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import losses

    logits = torch.tensor(LOGITS, requires_grad=True)

    class Model(CrossEncoder):
        """Gives the logits in the order in which pairs are asked for; a pair's text is its number."""

        def __init__(self):
            torch.nn.Module.__init__(self)

        num_labels, device = 1, torch.device("cpu")

        def preprocess(self, pairs, **_):
            return {"numbers": torch.tensor([int(document) for _, document in pairs])}

        def forward(self, inputs):
            return {"scores": logits[inputs["numbers"]][:, None]}

    texts = list(map(str, range(len(LOGITS))))
    groups = np.split(np.arange(len(LOGITS)), np.cumsum(sizes)[:-1])
    if loss_class is losses.MarginMSELoss:
        inputs = [["q"] * len(groups), *([texts[group[i]] for group in groups] for i in range(2))]
        labels = torch.tensor(np.stack([targets[group] for group in groups]))
    elif max(sizes) == 1:
        inputs, labels = [["q"] * len(texts), texts], torch.tensor(targets)
    else:
        inputs = [["q"] * len(groups), [[texts[i] for i in group] for group in groups]]
        labels = [torch.tensor(targets[group]) for group in groups]
    value = loss_class(Model(), **arguments)(inputs, labels)
    value.backward()
    return float(value.detach()), logits.grad.numpy()


@pytest.mark.parametrize("name", ["bce", "weighted", "mse", "listnet", "ranknet", "lambdarank", "margin_mse"])
def test_loss_and_gradients(name, monkeypatch):
    kind, settings, targets, sizes, loss_class, arguments = library_loss(name)
    if kind == "margin_mse":  # the first document of each two is the relevant one
        monkeypatch.setitem(globals(), "BINARY", np.array([1, 0] * len(sizes), np.float32))
    value, gradient = ours(kind, settings, targets, sizes)
    expected, expected_gradient = theirs(loss_class, arguments, targets, sizes)
    assert value == pytest.approx(expected, rel=2e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=2e-6 * np.abs(expected_gradient).max())
