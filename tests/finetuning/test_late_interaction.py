"""Tests training for late interaction: whole runs, the same loss on every mesh and in any parts, and refusals."""

import dataclasses

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax.data.tasks.late_interaction import PUNCTUATION, Reading
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.finetuning.late_interaction import with_markers
from bert_jax.interop import huggingface
from bert_jax.runs.models import open_model
from tests.commands import logged_rows
from tests.finetuning.test_embedding import (  # noqa: F401
    data,
    folder,
    learner_of,
    make_config,
    make_pairs,
    step_of,
    write,
)

LATE = {"task.pooling": "tokens", "task.embedding_size": 12, "task.query_length": 10, "loss.temperature": 1.0,
        "task.negatives": ("negative",)}  # fmt: skip


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):  # noqa: F811
    """Returns (workdir, config, summary) of a run."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = make_config(data, **LATE, **{"train.num_epochs": 2.0})
    return workdir, config, finetuning.finetune(config, workdir)


@pytest.mark.full
def test_a_run(finished):
    workdir, _, summary = finished
    logged = logged_rows(workdir)
    evaluated = [row["eval/ndcg@10"] for row in logged if "eval/ndcg@10" in row]
    assert len(evaluated) == 2 and summary["median"] == max(evaluated) > 0.3
    trained = [row for row in logged if "loss" in row]
    assert trained[-1]["loss"] < trained[0]["loss"] and trained[-1]["in_batch_accuracy"] > 0.3
    assert all(-1 <= row["negative_similarity"] <= 1 and "alignment" not in row for row in trained)


def test_what_is_opened_ranks_as_the_run_did(finished, tmp_path):
    workdir, config, summary = finished
    embedder = bert_jax.MultiVectorEmbedder(workdir)
    assert embedder.size == 12
    assert embedder.reading == Reading(10, 16, 10, False, PUNCTUATION, False, ("[Q] ", "[D] "))
    assert list(embedder.tokenizer.encode(["[Q] kan"], special=True)[0])[0] == embedder.tokenizer.token_id("[Q] ")
    records = make_pairs(60, seed=1)
    queries, documents = ([record[name] for record in records] for name in ("anchor", "positive"))
    documents += [record["negative"] for record in records]
    hits = embedder.search(queries, documents, top_k=1)
    own = np.mean([hit[0]["text"] == document for hit, document in zip(hits, documents, strict=False)])
    assert own == pytest.approx(summary["seeds"][0]["scores"]["accuracy@1"], abs=1e-6)
    huggingface.write(open_model(workdir), tmp_path / "out")
    written = bert_jax.MultiVectorEmbedder(tmp_path / "out")
    for one, other in zip(written.encode_query(queries), embedder.encode_query(queries), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.full
def test_a_run_that_starts_from_another(finished, data, tmp_path, capsys):  # noqa: F811
    """The map and the markers of the first run are those of the second, which says what it reads otherwise."""
    changes = LATE | {"task.embedding_size": 0, "task.query_length": 8, "optimizer.learning_rate": 1e-12,
                      "train.num_steps": 1, "init_from": str(finished[0])}  # fmt: skip
    finetuning.finetune(make_config(data, **changes), tmp_path / "second")
    assert "had 10 for config.task.query_length, and has 8 in this run" in capsys.readouterr().out
    first = bert_jax.MultiVectorEmbedder(finished[0], query_length=8).encode_query(["kan mot", "rit"])
    second = bert_jax.MultiVectorEmbedder(tmp_path / "second").encode_query(["kan mot", "rit"])
    np.testing.assert_allclose(second, first, atol=1e-5)
    with pytest.raises(UserError, match="a vector for each token of a text; expected config.task.pooling=tokens"):
        finetuning.finetune(make_config(data, init_from=str(finished[0])), tmp_path / "third")


def test_new_markers_are_the_mean_of_the_words(data):  # noqa: F811
    source = open_model(make_config(data).init_from)
    changed = with_markers(make_config(data, **LATE), source)
    words, grown = (model.params["encoder"]["embeddings"]["word"]["embedding"] for model in (source, changed))
    size = source.tokenizer.vocab_size
    assert changed.tokenizer.vocab_size == size + 2 == changed.model.spec.vocab_size or len(words) > size
    np.testing.assert_array_equal(grown[:size], words[:size])
    np.testing.assert_allclose(grown[size : size + 2], np.tile(words[:size].mean(0), (2, 1)), atol=1e-6)
    assert with_markers(make_config(data), source) is source
    assert with_markers(make_config(data, **LATE, **{"task.markers": ()}), source) is source
    spec = dataclasses.replace(source.model.spec, positions="relative")
    deberta = dataclasses.replace(source, model=dataclasses.replace(source.model, spec=spec))
    with pytest.raises(UserError, match="config.task.query_expansion: found mask with .* expected attend or none"):
        with_markers(make_config(data, **LATE), deberta)


ATTENDED = LATE | {"task.query_expansion": "attend", "loss.matryoshka": (12, 6)}
SWITCHES = LATE | {"loss.learn_temperature": True, "loss.symmetric": True}


@pytest.mark.full
@pytest.mark.parametrize("switches", [SWITCHES, ATTENDED], ids=["unattended", "attended"])
def test_parts_and_meshes_change_nothing(data, switches, monkeypatch):  # noqa: F811
    params, expected = step_of(*learner_of(data, **switches))
    assert np.isfinite(expected["loss"]).all() and expected["masked_negatives"] >= 0
    # Products of a few documents at a time, too.
    monkeypatch.setattr("bert_jax.objectives.contrastive._PRODUCTS", 16 * 10 * 16 * 5)
    layouts = (
        (((8, 1, 1), 8, 2),) if switches is SWITCHES else (((1, 1, 1), 1, 2), ((8, 1, 1), 8, 0), ((2, 2, 1), 4, 4))
    )
    for sizes, count, rows in layouts:
        other, metrics = step_of(*learner_of(data, sizes, count, **switches, **{"loss.gradcache_rows": rows}))
        for name in {"loss", "grad_norm", "in_batch_accuracy", "temperature"} & metrics.keys():
            np.testing.assert_allclose(metrics[name], expected[name], rtol=2e-6, err_msg=f"{sizes} {rows} {name}")
        for leaf, own in zip(jax.tree.leaves(other), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(leaf, own, atol=2e-4)  # Adam's first step divides by the gradient itself


@pytest.mark.more
@pytest.mark.one_in(2)
@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
def test_a_teachers_scores(data, tmp_path, loss):  # noqa: F811
    path = write(tmp_path / "scored.jsonl", [record | {"score": [2.5, 1.0]} for record in make_pairs(40)])
    learner, batch, state = learner_of(data, **LATE, **{"loss.name": loss, "task.train": path})
    assert learner.problem == loss
    _, metrics = step_of(learner, batch, state)
    assert np.isfinite(metrics["loss"]).all() and (metrics["grad_norm"] > 0).all()
    assert -1 <= metrics["pair_similarity"][0] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.normalize": False}, "config.task.normalize: found False; expected True with"),
        ({"task.pool_prompts": False}, "config.task.pool_prompts: found False"),
        ({"loss.similarity": "dot"}, "config.loss.similarity: found dot"),
        ({"loss.name": "cosent"}, "config.loss.name: found 'cosent'; expected auto or info_nce, margin_mse, kl with"),
        ({"task.positive": ""}, "config.task.positive: empty; expected a column with config.task.pooling=tokens"),
        ({"task.markers": ("[Q] ",)}, r"config.task.markers: found \('\[Q\] ',\); expected a marker of anchors"),
        ({"task.query_length": 32}, "config.task.query_length: 32 is over config.data.sequence_length=16"),
        ({"task.embedding_size": 0}, "config.task.embedding_size: 0, and config.init_from=.* has no linear map"),
        ({"task.held_out": "sts:nowhere.csv"}, "late interaction compares queries with documents; expected rerank: or"),
        ({"task.anchor_prompt": "kan mot rit " * 3}, r"leave no room for text in rows of 10 .query_length."),
        ({"task.pooling": "mean"}, "config.task.query_length: found 10 with config.task.pooling=mean; it is for late"),
    ],
)  # fmt: skip
def test_mistakes(data, tmp_path, changes, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        finetuning.finetune(make_config(data, **LATE | changes), tmp_path / "run")
