"""Tests embedders that another model guides or teaches: what it leaves out, what is learned, and refusals."""

import numpy as np
import pytest

import bert_jax
from bert_jax.data import tasks
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.finetuning.description import describe_run
from bert_jax.finetuning.guides import add_guide
from bert_jax.runs.models import build_fine_tuned, open_model
from tests.commands import logged_rows
from tests.finetuning.test_embedding import data, folder, make_config, make_pairs, write  # noqa: F401


@pytest.fixture(scope="module")
def guide(data, tmp_path_factory):  # noqa: F811
    """Returns the workdir of a trained embedder."""
    workdir = tmp_path_factory.mktemp("guide") / "run"
    finetuning.finetune(make_config(data, **{"task.negatives": ("negative",)}), workdir)
    return workdir


@pytest.mark.full
def test_a_guide_leaves_out_planted_positives(data, guide, tmp_path, capsys):  # noqa: F811
    """Half of the negatives are the positive of the record in other words: those above it are left out, and no others.

    The vectors in a batch are those of the guide, for anchors and for others, whatever the prompts of this run.
    """
    records = make_pairs(40, seed=5)
    for record in records[::2]:
        words = record["anchor"].split()
        record["negative"] = " ".join(words[::-1])  # nearer to the anchor than the positive is
    path = write(tmp_path / "planted.jsonl", records)
    changes = {"task.train": path, "task.negatives": ("negative",), "task.anchor_prompt": "kan: "}
    changes |= {"loss.guide": str(guide), "train.num_steps": 2, "train.log_every": 1}
    config = make_config(data, **changes)
    source, lines = open_model(config.init_from), []
    task = tasks.load(config, source.tokenizer)
    add_guide(config, task, build_fine_tuned(describe_run(config, source, task)), lines.append)
    assert [line.split(": ")[1] for line in lines] == ["vectors of 40 texts", "vectors of 80 texts"]
    batch = task.train.batch(np.array([0, 1, 7, -1]), 16)
    embedder = bert_jax.Embedder(guide)
    for place, row in enumerate((0, 1, 7)):
        expected = embedder.encode([records[row][name] for name in ("anchor", "positive", "negative")])
        np.testing.assert_allclose(batch["guide_vectors"][place], expected[0], atol=1e-5)
        np.testing.assert_allclose(batch["other_guide_vectors"][place], expected[1:], atol=1e-5)
    assert not batch["guide_vectors"][3].any() and not batch["other_guide_vectors"][3].any()
    finetuning.finetune(config, tmp_path / "run")
    capsys.readouterr()
    finetuning.finetune(config, tmp_path / "run")
    assert "nothing to do" in (said := capsys.readouterr().out) and "vectors of" not in said
    config.loss.guide = ""
    finetuning.finetune(config, tmp_path / "plain")
    shares = [np.mean([row["masked_negatives"] for row in logged_rows(tmp_path / name) if "loss" in row])
              for name in ("run", "plain")]  # fmt: skip
    assert shares[0] > shares[1] + 0.5 / 32  # 16 of the 31 other texts of a batch are planted, one for each anchor


@pytest.mark.full
def test_vectors_are_learned_from_a_teacher(data, guide, tmp_path):  # noqa: F811
    teacher = {"loss.name": "mse", "loss.teacher": str(guide), "task.positive": "", "train.num_epochs": 6.0}
    graded = [{"text1": record["anchor"], "text2": record["positive"], "score": i % 5}
              for i, record in enumerate(make_pairs(20, seed=2))]  # fmt: skip
    held_out = f"sts:{write(tmp_path / 'graded.jsonl', graded)}"
    finetuning.finetune(make_config(data, **teacher, **{"task.held_out": held_out}), tmp_path / "run")
    rows = [row for row in logged_rows(tmp_path / "run") if "loss" in row]
    assert rows[-1]["teacher_similarity"] > max(0.8, rows[0]["teacher_similarity"])
    texts = [record["anchor"] for record in make_pairs(30, seed=8)]
    one, two = (bert_jax.Embedder(workdir).encode(texts) for workdir in (tmp_path / "run", guide))
    assert (one * two).sum(1).mean() > 0.7


@pytest.mark.full
def test_a_teachers_scores_of_negatives(data, tmp_path):  # noqa: F811
    records = [record | {"score": [3.0, float(i % 3)]} for i, record in enumerate(make_pairs(48))]
    path = write(tmp_path / "scored.jsonl", records)
    changes = {"task.train": path, "task.negatives": ("negative",), "train.num_epochs": 1.0}
    finetuning.finetune(make_config(data, **changes), tmp_path / "run")
    assert logged_rows(tmp_path / "run")[-1]["loss"] > 0
    task = tasks.load(make_config(data, **changes), open_model(data[1]).tokenizer)
    assert task.loss == "kl"
    np.testing.assert_array_equal(task.train.batch(np.arange(3), 16)["labels"], [[3, 0], [3, 1], [3, 2]])
    margins = write(tmp_path / "margins.jsonl", [record | {"score": 2.5} for record in records])
    task = tasks.load(make_config(data, **changes | {"task.train": margins}), open_model(data[1]).tokenizer)
    np.testing.assert_array_equal(task.train.batch(np.arange(1), 16)["labels"], [[0, -2.5]])
    write(tmp_path / "scored.jsonl", [*records, records[0] | {"score": [1.0, 2.0, 3.0]}])
    with pytest.raises(UserError, match="line 49: 3 values in 'score'; expected 2, a score of the positive and"):
        finetuning.finetune(make_config(data, **changes), tmp_path / "refused")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.guide": "nowhere"}, "config.loss.guide: .*nowhere"),
        ({"loss.guide": "X", "loss.name": "mse", "loss.teacher": "X"}, "config.loss.guide: found 'X' with config.loss"),
        ({"loss.teacher": "X"}, "config.loss.teacher: found 'X' with config.loss.name=info_nce; expected it with"),
        (
            {"loss.name": "mse"},
            "config.loss.name=mse needs a model whose vectors it learns; expected config.loss",
        ),
        ({"loss.name": "mse", "loss.matryoshka": (8,)}, "config.loss.matryoshka: found .8,.; expected .. with"),
        ({"loss.name": "kl"}, "config.loss.name=kl needs a score"),
        ({"loss.flops_growth": 0.5}, "config.loss.flops_growth: found 0.5; expected 0 with"),
    ],
)
def test_mistakes(data, tmp_path, changes, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        finetuning.finetune(make_config(data, **changes), tmp_path / "run")


@pytest.mark.full
def test_a_teacher_of_another_size(data, guide, tmp_path):  # noqa: F811
    changes = {"loss.name": "mse", "loss.teacher": str(guide), "task.embedding_size": 24}
    with pytest.raises(UserError, match="vectors of 32 numbers, and this model's have 24; expected config.task.embed"):
        finetuning.finetune(make_config(data, **changes), tmp_path / "run")
