"""Losses that were not finite, diverged, or stayed at the unigram baseline."""

import json
import random

import pytest

from bert_jax.errors import UserError
from bert_jax.training import pretraining
from tests.diagnosis.conftest import findings, prepared, recipe, rewrite, trained
from tests.training.conftest import WORDS


@pytest.mark.more
def test_not_finite(chain_corpus, tmp_path):
    config = recipe(chain_corpus, optimizer__learning_rate=1e36)
    with pytest.raises(UserError, match="not finite"):
        pretraining.pretrain(config, tmp_path / "run")
    by_name, _ = findings(tmp_path / "run")  # no row was logged
    assert list(by_name) == ["nonfinite"]
    assert "ended at step 3" in by_name["nonfinite"].message
    assert "learning rate too high" in by_name["nonfinite"].causes[0]


def telltale(long=40, tiny=120):
    """Makes long documents and single sentences that one word in ten distinguishes; the other words are random."""
    draw = random.Random(0)

    def sentence(mark):
        return " ".join(mark if draw.random() < 0.1 else draw.choice(WORDS[2:]) for _ in range(draw.randint(10, 14)))

    return ["\n".join(sentence(WORDS[0]) for _ in range(80)) for _ in range(long)] + [
        sentence(WORDS[1]) for _ in range(tiny)
    ]


@pytest.mark.full
def test_pairs_are_learned_and_words_are_not(tmp_path):
    corpus = prepared(tmp_path / "text", telltale())
    changes = {"data__format": "segment_pair", "objective__next_sentence": True, "model__pooler": True}
    by_name, _ = findings(trained(recipe(corpus, **changes, train__eval_batches=16), tmp_path / "run"))
    assert list(by_name)[:2] == ["stuck_at_unigram", "nsp_without_mlm"]
    assert by_name["nsp_without_mlm"].metrics["nsp_accuracy"] > 0.7
    assert "--config.objective.next_sentence=False" in by_name["nsp_without_mlm"].causes[0]


def test_a_held_out_loss_that_still_falls(copy):
    """The training loss is too noisy to show it."""

    def above(row, fall):
        held_out = (
            {"eval/mlm_loss": row["eval/unigram_loss"] - fall * row["step"] / 300} if "eval/mlm_loss" in row else {}
        )
        return row | {"mlm_loss": 3.6 + 0.3 * (row["step"] % 2), "loss": 3.6 + 0.3 * (row["step"] % 2)} | held_out

    for fall, is_falling in ((0.1, False), (0.2, True), (-0.1, False)):
        rewrite(copy, lambda row, fall=fall: above(row, fall))
        causes = findings(copy)[0]["stuck_at_unigram"].causes
        assert any("too few steps: 300, and the loss is still falling" in cause for cause in causes) == is_falling


def test_phases_change_the_loss_and_nothing_is_wrong(copy):
    config = json.loads((copy / "config.json").read_text())
    config["data"]["phases"] = [{"share": 0.5, "sequence_length": 16}, {"share": 0.5}]
    (copy / "config.json").write_text(json.dumps(config))

    def shifted(row):
        lower = 3.0 if row["step"] <= 150 else 0.0  # as if short rows were easier
        return row | {key: row[key] - lower for key in ("loss", "mlm_loss", "eval/mlm_loss") if key in row}

    rewrite(copy, shifted)
    assert not {"diverged", "loss_spikes", "evaluation_worse"} & set(findings(copy)[0])


def test_a_loss_that_leaves_for_good(copy):
    rewrite(copy, lambda row: row | ({"mlm_loss": 3.9, "loss": 3.9} if row["step"] > 200 else {}))
    by_name, _ = findings(copy)
    assert list(by_name)[0] == "diverged" and "loss_spikes" not in by_name
    assert "at step 200" in by_name["diverged"].message or "at step 19" in by_name["diverged"].message
