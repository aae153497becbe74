"""Text that is duplicated, unknown to the vocabulary or mostly padding."""

import json
import os
import random
import types

import pytest

from bert_jax.data import loader
from bert_jax.diagnosis import causes, corpora, text
from tests.diagnosis.conftest import chains, findings, prepared, recipe, trained
from tests.training.conftest import WORDS


@pytest.mark.more
def test_duplicates(chain_corpus, tmp_path):
    corpus = prepared(tmp_path / "text", chains(30) * 10)
    config = recipe(corpus, train__num_steps=40, train__eval_every=40)
    by_name, _ = findings(trained(config, tmp_path / "run"))
    assert by_name["duplicates"].severity == "error"
    assert "90 % of the documents" in by_name["duplicates"].message
    assert "--drop_duplicates" in by_name["duplicates"].causes[0]
    dropped = prepared(tmp_path / "dropped", chains(30) * 10, drop_duplicates=True)
    fingerprint = json.loads((dropped / "manifest.json").read_text())["fingerprint"]
    run = {"corpora": [{"path": str(dropped), "fingerprint": fingerprint}]}
    assert corpora.find_corpora(run, tmp_path)[0].duplicates == 0


@pytest.mark.more
def test_a_vocabulary_of_another_text(tmp_path):
    corpus = prepared(
        tmp_path / "text", chains(100), vocabulary=[*WORDS[:5], *(f"w{i}" for i in range(len(WORDS) - 5))]
    )
    config = recipe(corpus, train__num_steps=40, train__eval_every=40)
    by_name, _ = findings(trained(config, tmp_path / "run"))
    assert by_name["unknown_tokens"].severity == "error"
    assert "unknown to its vocabulary of 51 (wordpiece)" in by_name["unknown_tokens"].message


@pytest.mark.parametrize(
    ("shares", "severity", "words"),
    [
        ({"token": 0.019, "character": 0.39}, "error", "39 % of the characters of corpora/thai are unknown"),
        ({"token": 0.03, "character": 0.01}, "warning", "3.0 % of the tokens of corpora/thai are unknown"),
        ({"token": 0.03}, "warning", "3.0 % of the tokens of corpora/thai are unknown"),  # an earlier version's
        ({"token": 0.019, "character": 0.019}, None, ""),
    ],
)
def test_unknown_characters_count_as_unknown_tokens_do(shares, severity, words):
    manifest = {f"unknown_{unit}_share": share for unit, share in shares.items()}
    tokenizer = {"vocab_size": 500, "kind": "wordpiece", "fit": {"long_words": True}}
    corpus = corpora.Text(
        "corpora/thai", manifest | {"tokens": 10, "characters": 50, "tokenizer": tokenizer, "settings": {}}
    )
    run = types.SimpleNamespace(readable_texts=[corpus])
    finding = text.unknown_tokens(run)
    if severity is None:
        assert finding is None
        return
    assert finding.severity == severity and finding.message.startswith(words)
    assert "words of over 100 characters" in finding.causes[0]
    assert finding.metrics["unknown_token_share"] == shares["token"]
    assert causes.unknown_share(run) == shares["token"]
    assert causes.unknown_character_share(run) == shares.get("character")


@pytest.mark.full
def test_pairs_that_are_mostly_padding(tmp_path):
    draw = random.Random(0)
    corpus = prepared(tmp_path / "text", [" ".join(draw.choices(WORDS, k=4)) for _ in range(300)])
    changes = {"data__format": "segment_pair", "objective__next_sentence": True, "model__pooler": True}
    changes |= {"train__num_steps": 40, "train__eval_every": 40}
    by_name, _ = findings(trained(recipe(corpus, **changes), tmp_path / "run"))
    assert "of 32 tokens a row of segment_pair holds 11" in by_name["padding"].message
    assert "try --config.data.packing=True, prepare longer documents" in by_name["padding"].causes[0]
    assert by_name["padding"].metrics["padding_share"] == pytest.approx(0.65, abs=0.03)
    batch = loader.batch_at(recipe(corpus, **changes), 0)
    assert 1 - batch["attention_mask"].mean() == pytest.approx(by_name["padding"].metrics["padding_share"], abs=0.03)
    assert "100 % of the pairs" in by_name["uneven_pairs"].message
    assert "text_left_out" not in by_name
    assert "nsp_without_mlm" not in by_name


@pytest.mark.more
def test_pairs_that_leave_out_text(tmp_path, capfd):
    """Sentences of 27 tokens, of which a row of 32 tokens holds one and a piece of the next."""
    draw = random.Random(0)
    lines = ["\n".join(" ".join(draw.choices(WORDS, k=27)) for _ in range(6)) for _ in range(60)]
    corpus = prepared(tmp_path / "text", lines, sentences="line")
    changes = {"data__format": "segment_pair", "objective__next_sentence": True, "model__pooler": True}
    changes |= {"train__num_steps": 40, "train__eval_every": 40}
    by_name, _ = findings(trained(recipe(corpus, **changes), tmp_path / "run"))
    share = by_name["text_left_out"].metrics["text_share"]
    assert 0.4 < share < 0.7
    assert f"hold {100 * share:.0f} % of the text" in by_name["text_left_out"].message
    assert f"rows of segment_pair hold {share:.1%} of the text of {corpus}" in capfd.readouterr().out


@pytest.mark.more
def test_a_corpus_that_was_moved(copy, chain_corpus):
    run = json.loads((copy / "run.json").read_text())
    run["corpora"][0]["path"] = "/no/such"
    (copy / "run.json").write_text(json.dumps(run))
    by_name, text = findings(copy)
    assert list(by_name) == ["corpus_missing"] and "/no/such" in by_name["corpus_missing"].message
    assert "nothing wrong found" in text
    run["corpora"][0] |= {"path": str(chain_corpus), "fingerprint": "0"}
    (copy / "run.json").write_text(json.dumps(run))
    assert "another corpus lies there now" in findings(copy)[0]["corpus_missing"].message
    run["corpora"][0] |= {
        "path": os.path.relpath(chain_corpus, copy.parents[2]),
        "fingerprint": json.loads((chain_corpus / "manifest.json").read_text())["fingerprint"],
    }
    (copy / "run.json").write_text(json.dumps(run))
    assert "corpus_missing" not in findings(copy)[0]


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        (
            {"altered_letter_share": 0.2, "altered_examples": ["パ to ハ"]},
            ["20 % of the letters", "パ to ハ", "strip_accents"],
        ),
        ({"lost_joiner_share": 0.3}, ["30 % of the words a joiner", "train:bpe:N"]),
        ({"altered_letter_share": 0.005, "lost_joiner_share": 0.001}, None),
        ({}, None),  # written by an earlier version
    ],
)
def test_letters_that_the_vocabulary_alters(fit, words):
    corpus = corpora.Text("corpora/ja", {"tokenizer": {"fit": fit}})
    finding = text.altered_letters(types.SimpleNamespace(readable_texts=[corpus]))
    assert (finding is not None) == (words is not None)
    for word in words or ():
        assert word in finding.message + " ".join(finding.causes)
