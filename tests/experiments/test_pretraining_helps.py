"""The experiment on what pre-training is worth: its record, its first weights, and training as `finetune` does it."""

import argparse
import json
import pathlib
import random

import jax
import numpy as np
import pytest

from bert_jax.finetuning import run as finetuning
from bert_jax.runs.models import open_model
from bert_jax.training import pretraining
from experiments import pretraining_helps, pretraining_report
from tests.training.conftest import WORDS, compiled_quickly, corpus, make_config  # noqa: F401

RECORD = pathlib.Path(pretraining_report.__file__).parent / "results" / "pretraining_helps.md"


def test_the_record_has_the_tables_of_its_results():
    text = RECORD.read_text("utf-8")
    tables = pretraining_report.tables(pretraining_report.read(pretraining_report.RESULTS))
    assert len(tables) >= 4
    for title, lines in tables.items():
        assert "\n".join(lines) in text, title


def test_rates_are_chosen_on_the_examples_set_apart():
    def result(rate, tune, dev, labels=0, stage="rates"):
        return {
            "stage": stage,
            "task": "SST-2",
            "arm": "scratch",
            "labels": labels,
            "rate": rate,
            "tune": tune,
            "dev": dev,
        }

    results = [
        result(1e-3, 0.7, 0.9),
        result(1e-3, 0.8, 0.9),
        result(2e-3, 0.76, 0.5),
        result(3e-3, 0.9, 0.5, labels=-1),
    ]
    assert pretraining_helps.best_rate(results, "SST-2", "scratch") == 2e-3
    few = [result(rate, tune, 0.5, 100, "labels") for rate, tune in ((1e-3, 0.7), (2e-3, 0.6), (1e-3, 0.1))]
    assert pretraining_helps.best_rate(few, "SST-2", "scratch", "labels", 100) == 1e-3  # by the first seed


def test_an_interval_that_holds_0_shows_no_difference():
    assert pretraining_report.in_words([0.8, 0.81, 0.82], [0.8, 0.82, 0.81]).endswith("no difference shown")
    assert pretraining_report.in_words([0.8, 0.81, 0.82], [0.7, 0.71, 0.72]).endswith(": better")


@pytest.fixture(scope="module")
def flags(corpus, programs, tmp_path_factory):  # noqa: F811
    """Flags of a tiny experiment: a model of a few steps, and made-up sentences one of whose words tells the label."""
    folder, draw = tmp_path_factory.mktemp("helps"), random.Random(0)
    config = make_config(corpus)
    config.objective.next_sentence = False
    config.model.pooler = False
    config.data.format = "full_sentences"
    config.train.update(num_steps=6, checkpoint_every=6, eval_every=6, tensorboard=False)
    with compiled_quickly(programs):
        pretraining.pretrain(config, folder / "model")
    (folder / "data" / "sst2").mkdir(parents=True)
    for name, number in (("train", 80), ("dev", 40)):
        rows = [([*draw.choices(WORDS[2:], k=draw.randint(2, 8)), WORDS[i % 2]], i % 2) for i in range(number)]
        text = "".join(f"{' '.join(words)}\t{label}\n" for words, label in rows)
        (folder / "data" / "sst2" / f"{name}.tsv").write_text(text)
    return argparse.Namespace(
        model=str(folder / "model"), data=str(folder / "data"), workdir=str(folder / "work"), seeds=1
    )


@pytest.mark.more
def test_other_first_weights(flags):
    source = open_model(flags.model)
    batch = {
        "input_ids": np.arange(5, 21).reshape(2, 8),
        "attention_mask": np.ones((2, 8)),
        "token_type_ids": np.zeros((2, 8)),
    }
    batch = {name: array.astype(np.int32) for name, array in batch.items()}
    smaller = pretraining_helps.smaller_embeddings(source.params)
    params = dict(source.params) | {"encoder": smaller["encoder"]}
    position = source.params["encoder"]["embeddings"]["position"]["embedding"]
    params["encoder"]["embeddings"] = smaller["encoder"]["embeddings"] | {"position": {"embedding": 0.385 * position}}
    hidden = [source.model.apply(one, batch)["hidden"] for one in (source.params, params)]
    np.testing.assert_allclose(*hidden, rtol=0, atol=1e-5)  # a model without a table of positions needs no third factor
    shuffled = pretraining_helps.permuted(source.params)["encoder"]
    for before, after in zip(jax.tree.leaves(source.params["encoder"]), jax.tree.leaves(shuffled), strict=True):
        assert np.array_equal(np.sort(np.ravel(before)), np.sort(np.ravel(after)))


@pytest.mark.full
def test_a_run_is_that_of_finetune(flags, programs, monkeypatch):
    monkeypatch.setattr(pretraining_helps, "LEAST_STEPS", 1)
    monkeypatch.setitem(pretraining_helps.TASKS["SST-2"], "epochs", 4)
    base = pretraining_helps.base_config

    def small(task, model):
        config = base(task, model)
        config.data.update(sequence_length=32, batch_size=8)
        config.task.dropout = 0.0  # whose bits depend on how many rows a batch is packed in
        return config

    monkeypatch.setattr(pretraining_helps, "base_config", small)
    run = pretraining_helps.Run("rates", "SST-2", "pre-trained", 1e-2, 0, seed=3)
    with compiled_quickly(programs):
        result = pretraining_helps.execute(run, flags)
        config = pretraining_helps.make_config(run, flags)
        paths = pretraining_helps.split("SST-2", 0, pathlib.Path(flags.data), pathlib.Path(flags.workdir) / "data")
        config.seed = 3
        config.task.update(train=str(paths["train"]), held_out=f"tune={paths['tune']},dev={paths['dev']}")
        config.train.update(eval_every=10**6, log_every=1, tensorboard=False)
        finetuning.finetune(config, pathlib.Path(flags.workdir) / "run")
    rows = (pathlib.Path(flags.workdir) / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    assert result["steps"] == last["step"] == 36
    assert result["loss"] == pytest.approx(last["loss"], abs=1e-4)
    assert [result[name] for name in ("tune", "dev")] == [last[f"eval/{name}/accuracy"] for name in ("tune", "dev")]
