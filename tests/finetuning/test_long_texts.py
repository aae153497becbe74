"""Fine-tuning on texts longer than a row: what is read decides what can be learned; resume, prediction, refusals."""

import json
import random

import numpy as np
import pytest

import bert_jax
from bert_jax.config import finetuning as finetune_config
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.interop import huggingface
from bert_jax.runs.models import open_model
from tests import commands
from tests.commands import finish, logged_rows, number_of_rows, wait_until
from tests.finetuning.test_run import SIGNS, finished, folder, make_config, write_tsv  # noqa: F401
from tests.training.conftest import WORDS

CHUNKS = {"task.long": "chunks", "task.chunk_length": 12, "data.sequence_length": 48}


def long_rows(number, seed, place):
    """Returns pairs (text, label) of 30 words; the word that tells the label is the one at `place`."""
    chance, rows = random.Random(seed), []
    others = [word for word in WORDS if word not in SIGNS.values()]
    for i in range(number):
        label = ("good", "bad")[i % 2]
        words = chance.choices(others, k=30)
        words[place] = SIGNS[label]
        rows.append((" ".join(words), label))
    return rows


@pytest.fixture(scope="session")
def late(tmp_path_factory):
    """Makes files of texts whose label is told by one of the last words."""
    path = tmp_path_factory.mktemp("late")
    for split, number, seed in (("train", 96, 0), ("dev", 32, 1)):
        write_tsv(path / f"{split}.tsv", long_rows(number, seed, -3))
    return path


def config_for(folder, data, **changes):  # noqa: F811
    files = {"task.train": str(data / "train.tsv"), "task.held_out": str(data / "dev.tsv")}
    return make_config(folder, **(files | {"train.num_epochs": 6.0, "seeds": 2} | changes))


@pytest.fixture(scope="session")
def chunked(folder, late, tmp_path_factory):  # noqa: F811
    workdir = tmp_path_factory.mktemp("chunked") / "run"
    config = config_for(folder, late, **CHUNKS, **{"task.pooling": "mean", "task.chunk_pooling": "attention"})
    return workdir, config, finetuning.finetune(config, workdir)


@pytest.mark.more
def test_what_is_read_decides_what_is_learned(folder, late, chunked, tmp_path):  # noqa: F811
    """The evidence is behind the first row: lost when texts are truncated, and found by their ends or all chunks."""
    truncated = finetuning.finetune(config_for(folder, late), tmp_path / "truncated")
    ends = {"task.long": "head_tail", "task.head_tokens": 4}
    both = finetuning.finetune(config_for(folder, late, **ends), tmp_path / "ends")
    assert truncated["median"] < 0.75 < 0.95 < min(both["median"], chunked[2]["median"])


def test_predictions_of_long_texts(chunked, finished):  # noqa: F811
    """A model is read as it was fine-tuned, and answers as it did then, whatever is beside a text."""
    workdir, _, _ = chunked
    classify = bert_jax.Classifier(workdir)
    assert classify.max_length == 48 and classify.chunk_length == 12
    lines = [json.loads(line) for line in (workdir / "predictions" / "held_out.jsonl").read_text().splitlines()]
    answers = classify([line["text"] for line in lines])
    for line, answer in zip(lines, answers, strict=True):
        assert answer["label"] == line["label"]
        assert answer["score"] == pytest.approx(line["score"], abs=1e-5)
    alone = classify(lines[0]["text"])
    assert alone["score"] == pytest.approx(answers[0]["score"], abs=1e-5)
    short = classify([" ".join(SIGNS.values())] * 2)  # a text of one chunk
    assert short[0] == short[1]
    with pytest.raises(UserError, match="^long: found 'windows'; expected chunks, in which .*run was fine-tuned$"):
        bert_jax.Classifier(workdir, long="windows")
    with pytest.raises(
        UserError, match="^long: found 'chunks'; expected windows, truncate or head_tail, as .* was not"
    ):
        bert_jax.Classifier(finished[0], long="chunks")


def test_what_a_model_of_chunks_is_not_for(chunked):
    """Pairs have no chunks; embeddings and attention are those of its encoder alone."""
    workdir, _, _ = chunked
    with pytest.raises(UserError, match="^text_pair: .* reads single texts, in chunks; expected none$"):
        bert_jax.Classifier(workdir)(("kan mot", "rit"))
    vectors = bert_jax.Embedder(workdir)(["kan mot", "rit " * 40])
    assert vectors.shape == (2, 32) and np.isfinite(vectors).all()
    tokens, weights = bert_jax.Inspector(workdir).attention("kan mot rit")[:2]
    assert len(tokens) == 5 and np.isfinite(weights).all()


@pytest.mark.more
@pytest.mark.parametrize("long", ["head_tail", "chunks"])
def test_embedders_read_as_they_were_trained(folder, tmp_path, long):  # noqa: F811
    """Texts that differ behind the first row have other vectors, and another way to read them is refused for chunks."""
    pairs = [{"anchor": text, "positive": text[::-1]} for text, _ in long_rows(16, 0, -3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in pairs))
    changes = CHUNKS if long == "chunks" else {"task.long": long, "task.head_tokens": 4, "data.sequence_length": 16}
    changes = changes | {"task.name": "embedding", "task.train": str(tmp_path / "pairs.jsonl"), "task.held_out": "",
                         "task.held_out_share": 0.25, "train.num_steps": 1, "data.buckets": ()}  # fmt: skip
    finetuning.finetune(make_config(folder, **changes), tmp_path / "run")
    embed = bert_jax.Embedder(tmp_path / "run")
    first, second = embed(["kan " * 14 + "mot " * 20, "kan " * 14 + "rit " * 20])
    assert np.abs(first - second).max() > 1e-4
    same = bert_jax.Embedder(tmp_path / "run", long=long)("kan " * 14 + "mot " * 20)
    np.testing.assert_allclose(same, first, atol=1e-6)
    if long == "chunks":
        for wrong in ({"long": "windows"}, {"long": "truncate"}, {"pooling": "max"}):
            with pytest.raises(
                UserError, match=f"^{next(iter(wrong))}: found '{next(iter(wrong.values()))}'; expected"
            ):
                bert_jax.Embedder(tmp_path / "run", **wrong)
        with pytest.raises(UserError, match="^prompt: 11 tokens, which leave no room for text in a row of 12$"):
            embed("kan", prompt="mot " * 11)


def test_a_hierarchical_model_has_no_class_elsewhere(chunked, tmp_path):
    with pytest.raises(UserError, match=r"config.task.chunk_length=12") as error:
        huggingface.write(open_model(chunked[0]), tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.full
def test_a_killed_run_goes_on(folder, late, tmp_path):  # noqa: F811
    changes = CHUNKS | {
        "task.chunk_layers": 1, "train.num_epochs": 3.0, "train.checkpoint_every": 2, "train.log_every": 1,
        "model.hidden_dropout": 0.1, "init_from": str(folder / "model"), "task.train": str(late / "train.tsv"),
        "task.held_out": str(late / "dev.tsv"), "task.text": "text", "data.batch_size": 8,
        "optimizer.learning_rate": 0.01,
    }  # fmt: skip
    command = [
        "bert_jax.finetune",
        "--config=finetune/sst2",
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]
    finish(commands.start(*command, f"--workdir={tmp_path / 'whole'}"))
    expected = logged_rows(tmp_path / "whole")
    killed = commands.start(*command, f"--workdir={tmp_path / 'killed'}")
    wait_until(lambda: number_of_rows(tmp_path / "killed") >= 7, killed)
    killed.kill()
    killed.communicate()
    finish(commands.start(*command, f"--workdir={tmp_path / 'killed'}"))
    assert [row["loss"] for row in logged_rows(tmp_path / "killed")] == [row["loss"] for row in expected]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data.sequence_length": 50}, r"data.sequence_length: found 50; expected a multiple of .*chunk_length=12"),
        ({"task.chunk_length": 48, "data.sequence_length": 96}, r"task.chunk_length: 48 is over the 32 positions"),
        ({"data.packing": True}, r"data.packing: found True; expected False with config.task.long=chunks"),
        ({"task.text_pair": "b"}, r"task.text_pair: found 'b'; expected '' with config.task.long=chunks"),
        (
            {"task.chunk_pooling": "mean", "task.chunk_layers": 3},
            r"task.chunk_layers: found 3; it is for .*transformer",
        ),
        ({"task.head_tokens": 4}, r"task.head_tokens: found 4; it is for config.task.long=head_tail"),
        ({"task.long": "truncate"}, r"task.chunk_length: found 12; it is for config.task.long=chunks"),
        ({"task.name": "question_answering"}, r"task.long: found chunks; expected truncate with .*question_answering"),
    ],
)
def test_what_does_not_go_together(folder, late, tmp_path, changes, line):  # noqa: F811
    config = config_for(folder, late, **(CHUNKS | changes))
    with pytest.raises(UserError, match=f"^config.{line}"):
        finetune_config.validate(config)
        finetuning.finetune(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_an_embedder_of_long_texts(folder, tmp_path):  # noqa: F811
    """Texts with the same word behind the first row are near each other, in training as in prediction."""
    rows = long_rows(64, 0, -3)
    halves = {label: [text for text, own in rows if own == label] for label in ("good", "bad")}
    with open(tmp_path / "pairs.jsonl", "w") as file:
        for texts in halves.values():
            for anchor, positive in zip(texts[::2], texts[1::2], strict=True):
                record = {"anchor": anchor, "positive": positive, "group": str(texts is halves["good"])}
                file.write(json.dumps(record) + "\n")
    changes = CHUNKS | {
        "task.name": "embedding", "task.train": str(tmp_path / "pairs.jsonl"), "task.held_out": "",
        "task.relevance_id": "group", "task.chunk_pooling": "attention", "task.embedding_size": 8,
        "train.num_epochs": 20.0, "data.buckets": (),
    }  # fmt: skip
    finetuning.finetune(make_config(folder, **changes), tmp_path / "run")
    embed = bert_jax.Embedder(tmp_path / "run")
    assert embed.size == 8
    test = long_rows(16, 5, -3)
    vectors = embed([text for text, _ in test])
    same = np.array([[a == b for _, b in test] for _, a in test])
    similarity = vectors @ vectors.T
    assert similarity[same].mean() > similarity[~same].mean() + 0.3
    with pytest.raises(UserError):
        huggingface.write(open_model(tmp_path / "run"), tmp_path / "out")


@pytest.mark.full
def test_tags_that_depend_on_another_chunk(folder, tmp_path):  # noqa: F811
    """A word is tagged by what stands in the first chunk: learned with chunks, and chance in rows of one chunk."""
    others = [word for word in WORDS if word not in SIGNS.values()]

    def write(path, number, seed):
        chance = random.Random(seed)
        with open(path, "w") as file:
            for i in range(number):
                label = ("good", "bad")[i % 2]
                words = [SIGNS[label], *chance.choices(others, k=12), SIGNS["so-so"]]
                tags = ["N"] * 13 + [label]
                file.write("".join(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True)) + "\n")
        return str(path)

    files = {
        "task.train": write(tmp_path / "train.conll", 96, 0),
        "task.held_out": write(tmp_path / "dev.conll", 32, 1),
    }
    shared = files | {"task.name": "token_classification", "task.scheme": "none", "train.num_epochs": 8.0}
    accuracies = {}
    for name, changes in (("chunks", CHUNKS | {"task.chunk_pooling": "mean"}), ("rows", {"data.sequence_length": 12})):
        finetuning.finetune(make_config(folder, **(shared | changes)), tmp_path / name)
        tag = bert_jax.TokenTagger(tmp_path / name)
        lines = (tmp_path / name / "predictions" / "held_out.jsonl").read_text().splitlines()
        answers = [json.loads(line) for line in lines]
        accuracies[name] = np.mean([answer["gold"][-1] == answer["tags"][-1] for answer in answers])
        again = tag(words=[answer["words"] for answer in answers])
        assert [answer["tags"] for answer in again] == [answer["tags"] for answer in answers]
    assert accuracies["chunks"] > 0.95 and accuracies["rows"] < 0.75
