"""Tests rerankers: whole runs, the same step on every mesh, what is opened and written, and refusals."""

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
from bert_jax.finetuning.step import Learner
from bert_jax.interop import huggingface
from bert_jax.runs import checkpoints
from bert_jax.runs.models import build_fine_tuned, open_model
from tests.commands import logged_rows
from tests.finetuning.test_run import folder  # noqa: F401
from tests.training.conftest import WORDS

SIGN, OTHERS = WORDS[0], WORDS[1:]  # the word that tells a relevant document


def make_lists(number, seed=0, most=4):
    """Returns records of a query, a document with the sign that comes first, and one to three others without it."""
    chance = random.Random(seed)
    records = []
    for i in range(number):
        texts = [chance.choices(OTHERS, k=chance.randint(1, 4)) for _ in range(chance.randint(2, most))]
        texts[0].insert(chance.randrange(len(texts[0]) + 1), SIGN)
        documents = [" ".join(words) for words in texts]
        records.append({
            "query": f"{OTHERS[i // 12]} {OTHERS[12 + i % 12]} ?",
            "positive": documents[0], "negatives": documents[1:],
            "document": documents, "label": [1] + [0] * (len(documents) - 1),
            "score": [3.0 - i / 2 for i in range(len(documents))],
        })  # fmt: skip
    return records


def as_pairs(records):
    """Returns a record for each document of these records."""
    return [
        {"query": record["query"], "document": text, "label": label, "score": score / 3}
        for record in records
        for text, label, score in zip(record["document"], record["label"], record["score"], strict=True)
    ]


def only(records, *names):
    return [{name: record[name] for name in names} for record in records]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):  # noqa: F811
    """Returns a folder with pairs, lists and triplets, and the path of a small random model."""
    path = tmp_path_factory.mktemp("reranking")
    train, dev = make_lists(120), make_lists(40, seed=1)
    for name, records in (("train", train), ("dev", dev)):
        write(path / f"{name}.jsonl", only(as_pairs(records), "query", "document", "label"))
        write(path / f"{name}_scores.jsonl", only(as_pairs(records), "query", "document", "score"))
        write(path / f"{name}_lists.jsonl", only(records, "query", "document", "label"))
        write(path / f"{name}_triplets.jsonl", only(records, "query", "positive", "negatives"))
        write(path / f"{name}_teacher.jsonl", only(records, "query", "positive", "negatives", "score"))
    return path, folder / "model"


def make_config(data, kind="", **changes):
    path, model = data
    config = finetune_config.base()
    config.init_from = str(model)
    config.task.update(
        name="reranking", train=str(path / f"train{kind}.jsonl"), held_out=str(path / f"dev{kind}.jsonl")
    )
    config.task.negatives = ("negatives",)
    config.data.update(sequence_length=24, batch_size=16, buckets=(12,))
    config.optimizer.update(learning_rate=5e-3, learning_rate_range=(0.0, 1.0))
    config.train.update(num_epochs=3.0, log_every=4, tensorboard=False, report=False)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Returns (workdir, config, summary) of a run on pairs."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = make_config(data)
    return workdir, config, finetuning.finetune(config, workdir)


def test_a_run(finished):
    workdir, _, summary = finished
    logged = logged_rows(workdir)
    evaluated = [row["eval/ndcg@10"] for row in logged if "eval/ndcg@10" in row]
    assert summary["metric"] == "ndcg@10" and summary["median"] == max(evaluated) > 0.95 > summary["baseline"] > 0
    trained = [row for row in logged if "loss" in row]
    assert trained[-1]["loss"] < trained[0]["loss"] and all(0 <= row["pair_accuracy"] <= 1 for row in trained)
    predicted = [json.loads(line) for line in (workdir / "predictions" / "held_out.jsonl").read_text().splitlines()]
    assert len(predicted) == 40 and {"text", "gold", "rank", "best"} == set(predicted[0])
    assert summary["predictions"]["held_out"]["scores"]["accuracy@1"] == np.mean(
        [row["rank"] == 1 for row in predicted]
    )


def test_what_is_opened_ranks_as_the_run_did(finished, tmp_path):
    workdir, _, _ = finished
    reranker = bert_jax.Reranker(workdir)
    predicted = [json.loads(line) for line in (workdir / "predictions" / "held_out.jsonl").read_text().splitlines()]
    for record, row in zip(make_lists(40, seed=1), predicted, strict=True):
        ranked = reranker.rank(record["query"], record["document"], top_k=3)
        assert [hit["score"] for hit in ranked] == pytest.approx([best["score"] for best in row["best"]], abs=1e-5)
        assert all(record["document"][hit["index"]] == hit["text"] and 0 < hit["score"] < 1 for hit in ranked)
    record = make_lists(1)[0]
    answer = bert_jax.Classifier(workdir)({"query": record["query"], "document": record["positive"]})
    assert answer["score"] == pytest.approx(reranker.scores(record["query"], [record["positive"]])[0])
    huggingface.write(open_model(workdir), tmp_path / "written")
    config = json.loads((tmp_path / "written" / "config.json").read_text())
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    written = bert_jax.Reranker(tmp_path / "written")
    assert written.max_length == reranker.max_length == 24
    np.testing.assert_array_equal(written.scores(record["query"], record["document"]),
                                  reranker.scores(record["query"], record["document"]))  # fmt: skip


@pytest.mark.more
def test_the_doctor_reads_rerankers(finished, data, tmp_path):
    assert report.diagnose(reading.read(str(finished[0]))) == []
    config = make_config(data, **{"train.num_steps": 1, "optimizer.learning_rate": 1e-5})
    finetuning.finetune(config, tmp_path / "run")
    names = {finding.name for finding in report.diagnose(reading.read(str(tmp_path / "run")))}
    assert names & {"near_chance", "failed_seeds"}


@pytest.mark.more
def test_a_reranker_is_trained_further(finished, data, tmp_path, capsys):
    """Its output layer is kept, also where another program named its output, and on several seeds side by side."""
    huggingface.write(open_model(finished[0]), tmp_path / "written")
    path = tmp_path / "written" / "config.json"
    config = json.loads(path.read_text()) | {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    path.write_text(json.dumps(config))
    changes = {"init_from": str(tmp_path / "written"), "seeds": 2, "train.num_steps": 2, "loss.name": "listwise"}
    summary = finetuning.finetune(make_config(data, **changes), tmp_path / "run")
    assert f"starts from {tmp_path / 'written'}\n" in capsys.readouterr().out
    assert len(summary["seeds"]) == 2 and summary["median"] > summary["baseline"]


@pytest.mark.more
def test_a_run_goes_on_bit_for_bit(data, tmp_path):
    """One of 8 steps and one of 4 that goes on to 8 end in the same bits; the rate does not depend on the length."""
    fixed = {"optimizer.schedule": "constant", "optimizer.warmup_steps": 2, "loss.name": "lambdarank"}
    params = []
    for name, lengths in (("whole", (8,)), ("parts", (4, 8))):
        for steps in lengths:
            finetuning.finetune(make_config(data, "_lists", **fixed, **{"train.num_steps": steps}), tmp_path / name)
        params.append(checkpoints.load_items(tmp_path / name, 8, ["params", "opt_state"]))
    for one, two in zip(*map(jax.tree.leaves, params), strict=True):
        np.testing.assert_array_equal(one, two)


def learner_of(data, kind, sizes=(1, 1, 1), count=1, **changes):
    """Returns (learner, batch of a step, state) of a config on a mesh of `count` devices."""
    config = make_config(data, kind, **{"train.num_steps": 10} | changes)
    source = open_model(config.init_from)
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


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("sizes", "count", "parts"),
    [((8, 1, 1), 8, 1), pytest.param((2, 2, 1), 4, 1, marks=pytest.mark.full), ((1, 1, 1), 1, 4)],
)
def test_parts_and_meshes_change_nothing(data, sizes, count, parts):
    """A step is the same on any mesh with dropout, and in any parts without."""
    changes = {"model.hidden_dropout": 0.0, "model.attention_dropout": 0.0, "task.dropout": 0.0} if parts > 1 else {}
    params, expected = step_of(*learner_of(data, "_lists", **changes))
    other, metrics = step_of(*learner_of(data, "_lists", sizes, count, **changes, **{"train.microbatches": parts}))
    for name in ("loss", "grad_norm", "best_is_relevant"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=2e-6, err_msg=name)
    for leaf, own in zip(jax.tree.leaves(other), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(leaf, own, atol=2e-4)  # Adam's first step divides by the gradient itself


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("kind", "changes", "loss", "metric"),
    [
        ("", {"loss.positive_weight": 3.0}, "bce", "ndcg@10"),
        ("_scores", {"loss.name": "mse"}, "mse", "spearman"),
        ("_lists", {"loss.name": "ranknet", "task.group_size": 3}, "ranknet", "ndcg@10"),
        ("_triplets", {"loss.name": "listnet", "task.pooling": "mean"}, "listnet", "ndcg@10"),
        ("_teacher", {}, "margin_mse", "ndcg@10"),
    ],
)
def test_losses(data, kind, changes, loss, metric):
    learner, batch, state = learner_of(data, kind, **changes)
    task = tasks.load(learner.config, open_model(data[1]).tokenizer)
    assert (learner.problem, task.metric) == (loss, metric)
    _, metrics = step_of(learner, batch, state)
    assert np.isfinite(metrics["loss"]).all() and (metrics["grad_norm"] > 0).all()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("", {"task.query": "question"}, "no field 'question'; found query, document.* .config.task.query.$"),
        ("", {"task.document": "text", "task.positive": "good"}, "no column 'text' .* or 'good'"),
        ("", {"task.label": "grade"}, "no column 'grade' .* or 'score'"),
        ("_triplets", {"task.negatives": ("positive",)}, "column 'positive' is named for two things"),
        ("_triplets", {"task.negatives": ()}, "every document has 1; expected relevant documents"),
        ("_triplets", {"loss.name": "kl"}, "config.loss.name=kl needs a teacher's scores"),
        ("_scores", {"loss.name": "listwise"}, "needs to know which documents are relevant"),
        ("", {"loss.name": "cosent"}, "config.loss.name: found 'cosent'; expected auto or bce, mse"),
        ("", {"data.packing": True}, "config.data.packing: found True; expected False for reranking"),
        ("", {"loss.gradcache_rows": 4}, "gradcache_rows: found 4; expected 0 for reranking"),
        ("", {"task.metric": "spearman"}, "config.task.metric: found 'spearman'; expected of ndcg@10"),
        ("", {"task.held_out": "ir:nowhere"}, "config.task.held_out=ir:nowhere: not for reranking"),
        ("_lists", {"task.group_size": 1}, "config.task.group_size: found 1; expected two or more"),
        ("", {"task.test": "test.jsonl"}, "config.task.test=test.jsonl: not for reranking"),
    ],
)
def test_mistakes(data, tmp_path, kind, changes, message):
    with pytest.raises(UserError, match=message):
        finetuning.finetune(make_config(data, kind, **changes), tmp_path / "run")
