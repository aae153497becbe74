"""Tests embedders: whole runs, the same loss on every mesh and in any parts, what is opened, and refusals."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax import sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.data.tasks import batches
from bert_jax.diagnosis import reading, report
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.finetuning.description import describe_run
from bert_jax.finetuning.late_interaction import with_markers
from bert_jax.finetuning.step import Learner
from bert_jax.interop import huggingface
from bert_jax.runs import checkpoints
from bert_jax.runs.models import build_fine_tuned, open_model
from tests.commands import finish, logged_rows, start
from tests.finetuning.test_run import folder  # noqa: F401
from tests.training.conftest import WORDS

SUBJECTS = WORDS[:40]


def make_pairs(number, seed=0):
    """Returns records of an anchor and a positive about the same two subjects, and a negative about others."""
    chance = random.Random(seed)
    records = []
    for i in range(number):
        about, others = chance.sample(SUBJECTS, 2), chance.sample(SUBJECTS, 2)
        noise = [chance.choices(WORDS[40:], k=chance.randint(1, 5)) for _ in range(3)]
        texts = [" ".join(chance.sample(words + noise[j], len(words + noise[j])))
                 for j, words in enumerate((about, about, others))]  # fmt: skip
        records.append({"anchor": texts[0], "positive": texts[1] + " ?", "negative": texts[2] + " .", "id": i})
    return records


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):  # noqa: F811
    """Returns a folder with pairs, graded and labelled pairs, and the path of a small random model."""
    path = tmp_path_factory.mktemp("pairs")
    write(path / "train.jsonl", make_pairs(200))
    write(path / "dev.jsonl", make_pairs(60, seed=1))
    graded = [
        {"anchor": record["anchor"], "positive": record["negative" if i % 2 else "positive"], "score": i % 5,
         "label": ("other", "same")[i % 2]}
        for i, record in enumerate(make_pairs(40, seed=2))
    ]  # fmt: skip
    write(path / "graded.jsonl", graded)
    write(path / "labelled.jsonl", [{k: v for k, v in record.items() if k != "score"} for record in graded])
    return path, folder / "model"


def make_config(data, **changes):
    path, model = data
    config = finetune_config.base()
    config.init_from = str(model)
    config.task.update(name="embedding", train=str(path / "train.jsonl"), held_out=str(path / "dev.jsonl"))
    config.data.update(sequence_length=16, batch_size=16, buckets=(8, 12))
    config.optimizer.update(learning_rate=5e-3, learning_rate_range=(0.0, 1.0))
    config.train.update(num_epochs=3.0, log_every=4, tensorboard=False, report=False)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Returns (workdir, config, summary) of a run on pairs with prompts that are not pooled."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    prompts = {"task.anchor_prompt": "kan: ", "task.positive_prompt": "mot ", "task.pool_prompts": False}
    config = make_config(data, **prompts)
    return workdir, config, finetuning.finetune(config, workdir)


def test_a_run(finished):
    workdir, _, summary = finished
    logged = logged_rows(workdir)
    evaluated = [row["eval/ndcg@10"] for row in logged if "eval/ndcg@10" in row]
    assert len(evaluated) == 3 and evaluated[-1] > evaluated[0] > 0
    assert summary["metric"] == "ndcg@10" and summary["median"] == max(evaluated)
    course = {"in_batch_accuracy", "positive_rank", "positive_similarity", "negative_similarity", "alignment",
              "hardest_negative_similarity", "masked_negatives", "uniformity"}  # fmt: skip
    trained = [row for row in logged if "loss" in row]
    assert len(trained) == 10 and all(course <= set(row) for row in trained)
    assert logged[-1]["loss"] < logged[0]["loss"] and logged[-1]["in_batch_accuracy"] > logged[0]["in_batch_accuracy"]
    predicted = [json.loads(line) for line in (workdir / "predictions" / "held_out.jsonl").read_text().splitlines()]
    assert len(predicted) == 60 and {"text", "gold", "rank", "nearest"} == set(predicted[0])
    scores = summary["predictions"]["held_out"]["scores"]
    assert scores["accuracy@1"] == pytest.approx(np.mean([row["rank"] == 1 for row in predicted]))


def test_what_is_opened_embeds_as_the_run_did(finished, tmp_path):
    workdir, config, _ = finished
    embedder = bert_jax.Embedder(workdir)
    assert embedder.model.model.spec.task is None and embedder.size == 32 and embedder.max_length == 16
    records = make_pairs(60, seed=1)
    queries = embedder.encode([record["anchor"] for record in records], prompt_name="query")
    documents = embedder.encode([record["positive"] for record in records], prompt_name="document")
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    predicted = [json.loads(line) for line in (workdir / "predictions" / "held_out.jsonl").read_text().splitlines()]
    places = {record["positive"]: i for i, record in enumerate(records)}
    for query, row in zip(queries, predicted, strict=True):
        for hit in row["nearest"]:
            assert query @ documents[places[hit["text"]]] == pytest.approx(hit["score"], abs=1e-5)
    huggingface.write(open_model(workdir), tmp_path / "written")
    written = bert_jax.Embedder(tmp_path / "written")
    np.testing.assert_array_equal(written.encode(["kan mot"], prompt_name="query"),
                                  embedder.encode(["kan mot"], prompt_name="query"))  # fmt: skip
    assert (tmp_path / "written" / "modules.json").exists()


@pytest.mark.full
def test_a_linear_map_is_trained_further(data, tmp_path):
    """The map of a run, and a Dense of sentence-transformers without bias, are those that a second run starts from."""
    finetuning.finetune(make_config(data, **{"task.embedding_size": 12, "train.num_steps": 4}), tmp_path / "first")
    rate = {"optimizer.learning_rate": 1e-12, "train.num_steps": 1}
    finetuning.finetune(make_config(data, **rate, init_from=str(tmp_path / "first")), tmp_path / "second")
    texts = [record["anchor"] for record in make_pairs(9, seed=3)]
    vectors = [bert_jax.Embedder(tmp_path / name).encode(texts) for name in ("first", "second")]
    assert vectors[0].shape == (9, 12)
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    model = open_model(tmp_path / "first")
    (layer,) = model.settings["layers"]
    bare = dataclasses.replace(layer, arrays={"kernel": layer.arrays["kernel"]}, activation="Tanh")
    huggingface.write(
        dataclasses.replace(model, settings=dict(model.settings) | {"layers": (bare,)}), tmp_path / "bare"
    )
    finetuning.finetune(make_config(data, **rate, init_from=str(tmp_path / "bare")), tmp_path / "third")
    vectors = [bert_jax.Embedder(tmp_path / name).encode(texts) for name in ("bare", "third")]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    other = dataclasses.replace(layer, activation="ReLU")
    huggingface.write(
        dataclasses.replace(model, settings=dict(model.settings) | {"layers": (other,)}), tmp_path / "relu"
    )
    with pytest.raises(UserError, match=r"has dense \(ReLU\) around its pooling.*or task.embedding_size"):
        finetuning.finetune(make_config(data, init_from=str(tmp_path / "relu")), tmp_path / "refused")


@pytest.mark.full
def test_several_sets(data, tmp_path):
    path = data[0]
    sets = f"pairs={path / 'train.jsonl'},others={path / 'dev.jsonl'}"
    write(tmp_path / "few.jsonl", [{"anchor": "kan mot", "positive": "mot kan"}] * 2)

    def rows_of(**changes):
        config = make_config(data, **{"task.train": sets, "task.negatives": ("negative",)} | changes)
        task = tasks.load(config, open_model(config.init_from).tokenizer)
        return np.concatenate([batches.batch_rows(config, task.train, 0, step) for step in range(17)])

    apart = rows_of(**{"data.set_batches": "apart"}).reshape(17, 16)
    assert all(len({row < 200 for row in batch if row >= 0}) == 1 for batch in apart)
    half = rows_of(**{"data.weights": (1.0, 1.0)})
    assert (half[half >= 0] < 200).sum() == 130 and len(half[half >= 0]) == 260
    config = make_config(data, **{"task.train": sets, "data.temperature": 2.0, "train.num_epochs": 1.0})
    assert finetuning.finetune(config, tmp_path / "run")["seeds"][0]["scores"]["ndcg@10"] > 0
    for changes, message in (
        ({"data.weights": (1.0,)}, r"config.data.weights: found \(1.0,\); expected a number for each named set"),
        ({"data.weights": (1.0, -1.0)}, "expected a positive number"),
        ({"task.train": f"{sets},few={tmp_path}/few.jsonl", "data.set_batches": "apart"},
         "the set few has 2 examples; expected at least config.data.batch_size=16"),
        ({"task.train": f"{sets},pairs={path / 'dev.jsonl'}"}, "found pairs twice"),
        ({"task.train": str(path / "train.jsonl"), "data.weights": (1.0, 1.0)}, "of which there are 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            finetuning.finetune(make_config(data, **{"task.train": sets} | changes), tmp_path / "refused")


@pytest.mark.full
def test_sparse_vectors(data, tmp_path):
    config = make_config(data, **SPARSE, **{"train.num_epochs": 2.0, "optimizer.learning_rate": 2e-3})
    summary = finetuning.finetune(config, tmp_path / "run")
    rows = [row for row in logged_rows(tmp_path / "run") if "other_terms" in row]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["other_terms"] > 0
    embedder = bert_jax.SparseEmbedder(tmp_path / "run")
    records = make_pairs(60, seed=1)
    queries, documents = ([record[name] for record in records] for name in ("anchor", "positive"))
    documents += [record["negative"] for record in records]
    hits = embedder.search(queries, documents, top_k=1)
    own = np.mean([hit[0]["text"] == document for hit, document in zip(hits, documents, strict=False)])
    assert own == pytest.approx(summary["seeds"][0]["scores"]["accuracy@1"], abs=1e-6)
    graded = [{"sentence1": query, "sentence2": documents[i], "score": i % 5} for i, query in enumerate(queries)]
    spec = f"sts:{write(tmp_path / 'graded.jsonl', graded)}"
    scores = bert_jax.measure(embedder, spec)
    dots = np.diagonal(embedder.similarity(queries, documents[:60]))
    assert scores["pearson"] == pytest.approx(np.corrcoef(dots, np.arange(60) % 5)[0, 1], abs=1e-5)
    printed = finish(start("bert_jax.evaluate", f"--model={tmp_path / 'run'}", f"--held_out={spec}"))
    assert f"{scores['spearman']:.4f}" in printed
    huggingface.write(open_model(tmp_path / "run"), tmp_path / "out")
    again = bert_jax.SparseEmbedder(tmp_path / "out").encode(queries).toarray()
    np.testing.assert_array_equal(again, embedder.encode(queries).toarray())


@pytest.mark.full
def test_a_run_goes_on_bit_for_bit(data, tmp_path):
    """One of 14 steps and one of 7 that goes on to 14 end in the same bits; the rate does not depend on the length."""
    fixed = {"optimizer.schedule": "constant", "optimizer.warmup_steps": 2, "loss.gradcache_rows": 8}
    params = []
    for name, lengths in (("whole", (14,)), ("parts", (7, 14))):
        for steps in lengths:
            finetuning.finetune(make_config(data, **fixed, **{"train.num_steps": steps}), tmp_path / name)
        params.append(checkpoints.load_items(tmp_path / name, 14, ["params", "opt_state"]))
    assert [row["step"] for row in logged_rows(tmp_path / "parts")] == [4, 7, 8, 12, 13, 14]
    for one, two in zip(*map(jax.tree.leaves, params), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.more
def test_the_doctor_reads_embedders(finished, data, tmp_path):
    assert report.diagnose(reading.read(str(finished[0]))) == []
    workdir = tmp_path / "run"
    shuffled = make_pairs(200)
    for record, other in zip(shuffled, make_pairs(200, seed=9), strict=True):
        record["positive"] = other["positive"]
    path = write(tmp_path / "shuffled.jsonl", shuffled)
    config = make_config(data, **{"task.train": path, "train.num_epochs": 1.0})
    config.task.held_out = path
    finetuning.finetune(config, workdir)
    findings = [finding.name for finding in report.diagnose(reading.read(str(workdir)))]
    assert "near_chance" in findings


def learner_of(data, sizes=(1, 1, 1), count=1, **changes):
    """Returns (learner, batch of a step, state) of a config on a mesh of `count` devices."""
    config = make_config(data, **{"train.num_steps": 10} | changes)
    source = with_markers(config, open_model(config.init_from))
    task = tasks.load(config, source.tokenizer)
    model = build_fine_tuned(describe_run(config, source, task))
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)), jax.devices()[:count])
    learner = Learner(config, model, task.problem, [3], mesh, 10)
    batch = batches.train_batch(config, task, [3], 1)
    return learner, batch, learner.layout.init(dict(source.params))[0]


def step_of(learner, batch, state):
    state, metrics = learner.train_step(
        state, sharding.put(batch, learner.batch_sharding), np.int32(1), learner.dropout_keys()
    )
    return jax.device_get(state["params"]), jax.device_get(metrics)


SPARSE = {"task.pooling": "splade", "task.normalize": False, "loss.similarity": "dot", "loss.temperature": 1.0,
          "loss.flops_anchor": 1e-3, "loss.flops_other": 2e-3, "task.negatives": ("negative",)}  # fmt: skip
SWITCHES = {"task.negatives": ("negative",), "loss.learn_temperature": True, "loss.symmetric": True}


@pytest.mark.full
@pytest.mark.parametrize("switches", [SWITCHES, SPARSE], ids=["dense", "sparse"])
def test_parts_and_meshes_change_nothing(data, switches):
    params, expected = step_of(*learner_of(data, **switches))
    assert np.isfinite(expected["loss"]).all() and expected["masked_negatives"] >= 0
    for sizes, count, rows in (((1, 1, 1), 1, 2), ((8, 1, 1), 8, 0), ((2, 2, 1), 4, 4)):
        other, metrics = step_of(*learner_of(data, sizes, count, **switches, **{"loss.gradcache_rows": rows}))
        for name in {"loss", "grad_norm", "in_batch_accuracy", "temperature", "other_terms"} & metrics.keys():
            np.testing.assert_allclose(metrics[name], expected[name], rtol=2e-6, err_msg=f"{sizes} {rows} {name}")
        for leaf, own in zip(jax.tree.leaves(other), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(leaf, own, atol=2e-4)  # Adam's first step divides by the gradient itself


@pytest.mark.full
def test_the_costs_of_sparse_vectors_grow(data):
    """At step 1 of 10 the weights have a 25th of their size where they grow over half of the steps."""
    changes = {"none": {"loss.flops_anchor": 0.0, "loss.flops_other": 0.0}, "whole": {}}
    changes["part"] = {"loss.flops_growth": 0.5}
    losses = {name: step_of(*learner_of(data, **SPARSE | change))[1]["loss"][0] for name, change in changes.items()}
    assert losses["whole"] > losses["none"]
    grown = (losses["part"] - losses["none"]) / (losses["whole"] - losses["none"])
    assert grown == pytest.approx(1 / 25, abs=1e-3)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("file", "changes", "loss"),
    [
        ("graded.jsonl", {}, "cosent"),
        ("graded.jsonl", {"loss.name": "angle"}, "angle"),
        ("graded.jsonl", {"loss.name": "cosine", "task.score_range": (0, 4)}, "cosine"),
        ("labelled.jsonl", {"loss.matryoshka": (8, 4)}, "softmax"),
        ("train.jsonl", {"task.negatives": ("negative",), "loss.name": "triplet"}, "triplet"),
        ("train.jsonl", {"task.positive": "", "task.relevance_id": ""}, "info_nce"),
        ("train.jsonl", {"loss.matryoshka": (16, 8), "task.embedding_size": 24}, "info_nce"),
        ("train.jsonl", {"loss.false_negative_margin": 0.1, "task.pooling": "cls"}, "info_nce"),
    ],
)
def test_losses(data, file, changes, loss):
    changes = {"task.train": str(data[0] / file), "task.held_out": str(data[0] / "graded.jsonl")} | changes
    learner, batch, state = learner_of(data, **changes)
    assert learner.problem == loss
    params, metrics = step_of(learner, batch, state)
    assert np.isfinite(metrics["loss"]).all() and (metrics["grad_norm"] > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.positive": "answer"}, "no field 'answer'; found anchor, positive.* .config.task.positive.$"),
        (
            {"data.batch_size": 1},
            "config.data.batch_size: 1 example in a batch, whose loss is always 0: info_nce takes",
        ),
        ({"task.negatives": ("positive",)}, "column 'positive' is named for two things"),
        ({"data.batch_size": 512}, "config.data.batch_size: 512, but config.task.train has 200 examples"),
        ({"loss.gradcache_rows": 3}, "gradcache_rows: found 3; expected a divisor of config.data.batch_size=16"),
        ({"train.microbatches": 2}, "config.train.microbatches: found 2; expected 1 for embedding"),
        ({"loss.name": "cosent"}, "needs a score, but config.task.train has no column 'score'"),
        ({"loss.name": "triplet"}, "needs a negative"),
        ({"task.metric": "spearman"}, "config.task.metric: found 'spearman'; expected of ndcg@10"),
        ({"loss.matryoshka": (64,)}, "config.loss.matryoshka: 64 is over the 32 numbers of a vector"),
        ({"task.anchor_prompt": "kan " * 15}, "leave no room for text"),
        ({"task.held_out": "ir:nowhere"}, "nowhere is no folder"),
        ({"task.pooling": "pooler"}, "config.task.pooling: found 'pooler'"),
        (
            {"task.pooling": "splade"},
            "config.task.normalize: found True; expected False with config.task.pooling=splade",
        ),
        (SPARSE | {"loss.matryoshka": (8,)}, r"config.loss.matryoshka: found \(8,\); expected \(\) with"),
        ({"loss.prior_layers": 1}, "config.loss.prior_layers: found 1; expected at most 0, the layers below the last"),
        (SPARSE | {"loss.prior_layers": 1}, "config.loss.prior_layers: found 1; expected 0 with config.task.pooling"),
        ({"loss.flops_other": 0.1}, "config.loss.flops_other: found 0.1; expected 0 with config.task.pooling=auto"),
    ],
)
def test_mistakes(data, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        finetuning.finetune(make_config(data, **changes), tmp_path / "run")


def test_mistakes_in_the_data(data, tmp_path):
    good = make_pairs(30)

    def refused(records, message, **changes):
        path = write(tmp_path / "data.jsonl", records)
        with pytest.raises(UserError, match=message):
            finetuning.finetune(make_config(data, **{"task.train": path} | changes), tmp_path / "run")

    refused([*good, good[0] | {"positive": None}], "line 31: 'positive' holds nothing; expected text")
    refused([*good, good[0] | {"anchor": " "}], "line 31: 'anchor' is empty")
    twice = [*good, good[0] | {"negative": good[0]["positive"]}]
    refused(twice, "line 31: the negative .* is the positive", **{"task.negatives": ("negative",)})
    common = [record | {"positive": "kan"} for record in good]
    refused(common, r"'kan' is in 30 of 30 examples \(100.0%\), but a batch has a text once")
    graded = [{"anchor": "kan", "positive": "mot", "score": 7}, {"anchor": "rit", "positive": "mot", "score": "x"}]
    refused(graded[:1], "score 7; expected a score from 0 to 5", **{"task.score_range": (0, 5)})
    refused(graded, "line 2: 'score' holds 'x'; expected a number")
