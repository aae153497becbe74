"""The loss that copying tokens can reach."""

import numpy as np
import pytest

from bert_jax.diagnosis import corpora


def test_what_copying_gains():
    class Data:
        mask_token_share, random_token_share = 0.8, 0.1

    p, size = np.array([0.5, 0.3, 0.0, 0.2]), 4
    joint = p[:, None] * (0.5 * np.eye(size) + 0.5 / size)
    given = joint / joint.sum(0)
    loss = -(joint[joint > 0] * np.log(given[joint > 0])).sum()
    assert corpora.copying_loss(p, Data) == pytest.approx(0.8 * corpora.entropy(p) + 0.2 * loss)
    Data.mask_token_share, Data.random_token_share = 1.0, 0.0
    assert corpora.copying_loss(p, Data) == pytest.approx(corpora.entropy(p))
