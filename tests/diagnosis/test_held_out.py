"""Held-out losses that are worse or better than the training loss."""

import pytest

from tests.diagnosis.conftest import findings, prepared, recipe, soup, trained
from tests.training.conftest import WORDS


@pytest.fixture(scope="module")
def memorised(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("memorised")
    return trained(recipe(prepared(path / "text", soup(10))), path / "run")


@pytest.mark.more
def test_a_tiny_corpus_learned_by_heart(memorised):
    by_name, _ = findings(memorised)
    assert list(by_name)[0] == "evaluation_worse"
    assert not {"stuck_at_unigram", "over_unigram", "diverged"} & set(by_name)
    assert "memorizes the text: 2" in by_name["evaluation_worse"].causes[0]  # some 230 passes
    assert by_name["evaluation_worse"].metrics["risen"] > 0.3


@pytest.mark.full
def test_evaluation_on_text_that_was_trained_on(tmp_path):
    # Each document is one of two, with two words more: no hash tells.
    texts = [f"{text}\n{WORDS[i % 40]} {WORDS[i // 40]} ." for i, text in enumerate(soup(2) * 120)]
    corpus = prepared(tmp_path / "text", texts, eval_share=0.3)
    config = recipe(corpus, model__hidden_dropout=0.3, train__eval_batches=40)
    by_name, _ = findings(trained(config, tmp_path / "run"))
    assert "held_out_in_training" not in by_name  # said once
    better = by_name["evaluation_better"]
    assert better.severity == "warning" and better.metrics["shared_sentences"] > 0.9
    assert "of the held-out sentences do, verbatim" in better.causes[0]
    assert any("dropout of 0.3 is on in training" in cause for cause in better.causes)


def test_near_duplicates_are_found_without_a_gap(tmp_path):
    texts = [f"{text}\n{WORDS[i % 40]} {WORDS[i // 40]} ." for i, text in enumerate(soup(2) * 120)]
    config = recipe(prepared(tmp_path / "text", texts, eval_share=0.3), train__num_steps=20, train__eval_every=20)
    by_name, _ = findings(trained(config, tmp_path / "run"))
    assert "evaluation_better" not in by_name
    assert by_name["held_out_in_training"].metrics["shared_sentences"] > 0.9
