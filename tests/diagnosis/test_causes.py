"""The causes that are named for a run that does not learn, ranked by its own numbers."""

import pytest

from tests.diagnosis.conftest import findings, recipe, trained


def place(finding, words):
    """How many causes are named before one with these words."""
    return next(i for i, cause in enumerate(finding.causes) if words in cause)


@pytest.mark.more
def test_rate_far_too_high(chain_corpus, tmp_path):
    config = recipe(chain_corpus, optimizer__learning_rate=1.0, train__num_steps=100, train__eval_every=50)
    by_name, text = findings(trained(config, tmp_path / "run"))
    worst = by_name.get("diverged") or by_name["over_unigram"]
    assert worst.severity == "error"
    assert "learning rate too high: 1, 289 times" in worst.causes[0]
    assert "--config.optimizer.learning_rate=0.001" in worst.causes[0]
    assert "nothing wrong" not in text


@pytest.mark.full
def test_warm_up_too_short(chain_corpus, tmp_path):
    changes = {"optimizer__learning_rate": 2e-2, "optimizer__warmup_steps": 0}
    config = recipe(chain_corpus, **changes, train__num_steps=100, train__eval_every=50)
    by_name, _ = findings(trained(config, tmp_path / "run"))
    stuck = by_name["stuck_at_unigram"]
    assert "under the 3.7" in stuck.message or "over the 3.7" in stuck.message
    assert place(stuck, "warm-up too short: 0 of 100 steps") <= 1
    assert place(stuck, "learning rate too high: 0.02") <= 1
    assert "unknown tokens 0.0 %" in stuck.causes[-1] and "duplicate documents 0.0 %" in stuck.causes[-1]
    assert stuck.metrics["padding_share"] == pytest.approx(0.24, abs=0.03)


@pytest.mark.full
def test_warm_up_longer_than_the_run(chain_corpus, tmp_path):
    config = recipe(chain_corpus, optimizer__warmup_steps=10_000, train__num_steps=30, train__eval_every=30)
    by_name, _ = findings(trained(config, tmp_path / "run"))
    assert "comes to 9e-06 of 0.003" in by_name["peak_never_reached"].message
    assert "the warm-up is not over: 30 of its 10,000" in by_name["over_unigram"].causes[0]
