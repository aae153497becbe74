"""Tests whole fine-tuning runs of seconds: scores, predictions, the best checkpoint, and refusals."""

import json
import os
import pathlib
import random
import shutil
import signal

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.data import tasks
from bert_jax.data.tasks import batches, metrics
from bert_jax.data.vocabularies import loading
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.interop import huggingface
from bert_jax.interop.pretrained import Pretrained
from bert_jax.runs import checkpoints
from bert_jax.runs.models import open_model
from tests import commands
from tests.commands import ROOT, finish, logged_rows, number_of_rows, wait_until
from tests.training.conftest import WORDS, write_recipe

DATA = pathlib.Path(os.environ.get("BERT_JAX_TEST_DATA", ROOT.parent / "shared" / "data"))
SIGNS = {"good": "kan", "bad": "mot", "so-so": "rit"}  # the word that tells a text's label


def make_rows(number, labels=("good", "bad"), seed=0):
    """Returns pairs (text, label) of made-up words, one of which decides the label."""
    chance = random.Random(seed)
    others = [word for word in WORDS if word not in SIGNS.values()]
    rows = []
    for _ in range(number):
        label = chance.choice(labels)
        words = [SIGNS[label], *chance.choices(others, k=chance.randint(2, 8))]
        chance.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def write_tsv(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in [("text", "label"), *rows]))
    return str(path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Makes a Hugging Face directory with a small random model, and labelled files."""
    folder = tmp_path_factory.mktemp("tasks")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    tokenizer = loading.load(folder / "vocab.txt")
    config = config_lib.base().model.to_dict() | {"vocab_size": tokenizer.vocab_size, "initializer_range": 0.1}
    config |= {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 32}
    model = model_lib.build(config, tokenizer.vocab_size)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    huggingface.write(Pretrained("made", "bert", config, model, params, tokenizer), folder / "model")
    write_tsv(folder / "train.tsv", make_rows(60))
    write_tsv(folder / "dev.tsv", make_rows(24, seed=1))
    write_tsv(folder / "test.tsv", make_rows(9, seed=2))
    return folder


def make_config(folder, **changes):
    config = finetune_config.base()
    config.init_from = str(folder / "model")
    config.task.update(train=str(folder / "train.tsv"), held_out=str(folder / "dev.tsv"))
    config.data.update(sequence_length=16, batch_size=8, buckets=(12,))
    config.optimizer.update(learning_rate=1e-2, learning_rate_range=(0.0, 1.0))
    config.train.update(num_epochs=5.0, log_every=4, tensorboard=False)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="session")
def finished(folder, tmp_path_factory):
    """Returns (workdir, config, summary) of a finished run with two seeds."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = make_config(folder, **{"seeds": 2, "seed": 3, "task.test": str(folder / "test.tsv")})
    return workdir, config, finetuning.finetune(config, workdir)


def predictions(workdir, name="held_out"):
    return [json.loads(line) for line in (workdir / "predictions" / f"{name}.jsonl").read_text().splitlines()]


def test_a_run(finished, folder):
    workdir, config, summary = finished
    logged = logged_rows(workdir)
    assert [row["step"] for row in logged] == list(range(4, 41, 4))
    evaluated = [row for row in logged if "eval/accuracy" in row]
    assert [row["step"] for row in evaluated] == [8, 16, 24, 32, 40]
    for row in evaluated:
        each = [row[f"eval/accuracy/seed_{seed}"] for seed in (3, 4)]
        assert row["eval/accuracy"] == pytest.approx(sum(each) / 2)
    assert all({"loss", "grad_norm", "learning_rate"} <= set(row) for row in logged)
    assert logged[0]["learning_rate"] == pytest.approx(0.75e-2)  # warm-up: 0 at the first step, all at the fifth
    assert summary == json.loads((workdir / "summary.json").read_text())
    assert summary["metric"] == "accuracy" and summary["step"] == 40 and not summary["failed"]
    assert min(summary["scores"]) > max(0.9, summary["baseline"]) and summary["median"] == np.median(summary["scores"])
    best = max(summary["seeds"], key=lambda seed: seed["score"])
    assert summary["best_seed"] == best["seed"]
    assert checkpoints.saved_steps(workdir / "checkpoints") == [40]


@pytest.mark.full
def test_rows_longer_than_the_models_with_scaled_rotary_positions(folder, tmp_path):
    """The run's model keeps the scaling: it predicts with it, and is exported with it."""
    config = config_lib.base().model.to_dict() | {"initializer_range": 0.1, "norm": "rms_norm", "norm_place": "pre"}
    config |= {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 8}
    config |= {"positions": "rotary", "embedding_norm": False, "mlp": "gated", "type_vocab_size": 0, "pooler": False}
    config |= {"mlm_transform": False, "tied_decoder": False}
    tokenizer = loading.load(folder / "vocab.txt")
    model = model_lib.build(config, tokenizer.vocab_size, next_sentence=False)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    huggingface.write(Pretrained("made", "eurobert", config, model, params, tokenizer), tmp_path / "model")
    changes = {"init_from": str(tmp_path / "model"), "train.num_epochs": 1.0}
    with pytest.raises(UserError, match="16 is over the 8 positions of .*, or config.model.rotary_scaling"):
        finetuning.finetune(make_config(folder, **changes), tmp_path / "refused")
    finetuning.finetune(make_config(folder, **changes, **{"model.rotary_scaling": "yarn"}), tmp_path / "run")
    opened = open_model(tmp_path / "run")
    spec = opened.model.spec
    assert (spec.rotary_scaling, spec.rotary_factor, spec.rotary_trained, spec.max_positions) == ("yarn", 2.0, 8, 16)
    assert len(bert_jax.Classifier.from_pretrained(tmp_path / "run")([WORDS[0] + f" {WORDS[1]}" * 12])) == 1
    huggingface.write(opened, tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["max_position_embeddings"] == 16
    expected = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
    assert written["rope_parameters"].items() >= expected.items()
    assert huggingface.read(tmp_path / "out").model.spec == spec


def test_predictions_are_those_of_what_is_opened(finished, folder):
    workdir, config, summary = finished
    opened = open_model(workdir)
    assert (opened.family, opened.labels, opened.problem) == ("bert", ("bad", "good"), "single_label")
    assert opened.settings["max_length"] == 16 and opened.model.spec.pooler
    assert opened.model.spec.task.pooling == "pooler"
    expected = make_rows(24, seed=1)
    predicted = predictions(workdir)
    assert [(row["text"], row["gold"]) for row in predicted] == expected
    right = np.mean([row["label"] == label for row, (_, label) in zip(predicted, expected, strict=True)])
    assert right == summary["predictions"]["held_out"]["scores"]["accuracy"] == max(summary["scores"])
    assert [row["text"] for row in predictions(workdir, "test")] == [text for text, _ in make_rows(9, seed=2)]
    task = tasks.load(config, opened.tokenizer)
    for (index, batch), name in ((batches.eval_batches(config, task.held_out[""], 8)[0], "held_out"),):
        logits = np.asarray(jax.jit(opened.model.apply)(opened.params, batch)["logits"], np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for row, chance in zip(index, chances, strict=True):
            assert predictions(workdir, name)[row]["scores"]["good"] == pytest.approx(chance[1], rel=1e-4)
    other = open_model(workdir, seed=7 - summary["best_seed"])
    assert not np.array_equal(other.params["task"]["output"]["kernel"], opened.params["task"]["output"]["kernel"])
    with pytest.raises(UserError, match="no seed 8; expected one of 3, 4"):
        open_model(workdir, seed=8)


def test_a_finished_run_is_left_as_it_is(finished, capfd, tmp_path):
    workdir, config, summary = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.jsonl")}
    assert finetuning.finetune(config, workdir) == summary
    assert "nothing to do: step 40 of 40 is done" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.jsonl")} == before
    config = config.copy_and_resolve_references()
    config.optimizer.learning_rate = 1e-3
    with pytest.raises(UserError, match="its run began with config.optimizer.learning_rate=0.01, found 0.001"):
        finetuning.finetune(config, workdir)
    config.optimizer.learning_rate = 1e-2
    before = pathlib.Path(config.task.train).read_text()
    try:
        write_tsv(pathlib.Path(config.task.train), make_rows(60, seed=5))
        with pytest.raises(UserError, match=r"its run began with other data \(60 rows to learn from, now 60;"):
            finetuning.finetune(config, workdir)
    finally:
        pathlib.Path(config.task.train).write_text(before)


def test_the_heads_dropout_is_the_familys_and_of_an_older_run_what_it_began_with(finished, tmp_path):
    """Earlier versions had a rate of 0.1 for every family, which their config.json holds."""
    workdir, config, _ = finished
    assert config.task.dropout == -1.0
    assert json.loads((workdir / "run.json").read_text())["head"]["dropout"] == 0.1  # BERT's own
    older = tmp_path / "older"
    shutil.copytree(workdir, older)
    stored = json.loads((older / "config.json").read_text())
    stored["task"]["dropout"] = 0.1
    (older / "config.json").write_text(json.dumps(stored))
    finetuning.finetune(config, older)
    stored["task"]["dropout"] = 0.3
    (older / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"its run began with config.task.dropout=0.3, found -1.0"):
        finetuning.finetune(config, older)


@pytest.mark.more
def test_from_a_fine_tuned_model_with_other_labels(finished, folder, tmp_path, capfd):
    """Encoder and pooler are taken, the output layer is fresh, as for RTE after MNLI; no progress stops it."""
    write_tsv(tmp_path / "three.tsv", make_rows(16, tuple(SIGNS)))
    config = make_config(folder, init_from=str(finished[0]))
    config.task.update(train=str(tmp_path / "three.tsv"), held_out=str(tmp_path / "three.tsv"))
    config.optimizer.learning_rate = 0.0
    config.train.update(num_epochs=20.0, patience=2, checkpoint_every=50)
    config.model.hidden_dropout = 0.0
    summary = finetuning.finetune(config, tmp_path / "run")
    output = capfd.readouterr().out
    assert f"starts from {finished[0]}; fresh: task\n" in output
    assert summary["step"] == 6 and summary["seeds"][0]["stopped_early"] and summary["seeds"][0]["step"] == 2
    assert [row["step"] for row in logged_rows(tmp_path / "run")] == [2, 4, 6]
    first, second = open_model(finished[0]).params, open_model(tmp_path / "run").params
    jax.tree.map(np.testing.assert_array_equal, first["pooler"], second["pooler"])
    jax.tree.map(np.testing.assert_array_equal, first["encoder"], second["encoder"])
    assert second["task"]["output"]["kernel"].shape == (32, 3)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"]["hidden_dropout"] == 0.0
    finetuning.finetune(config, tmp_path / "run")
    assert "nothing to do: step 6 of 40 is done" in capfd.readouterr().out


@pytest.mark.more
def test_when_no_seed_is_finite_any_more(folder, tmp_path):
    config = make_config(folder, **{"optimizer.learning_rate": 1e38, "optimizer.clip_norm": 0.0, "train.log_every": 1})
    with pytest.raises(UserError, match=r"step \d+: the loss, a gradient or a parameter is not finite; the") as caught:
        finetuning.finetune(config, tmp_path)
    assert "\n" not in str(caught.value) and "there is no checkpoint yet" in str(caught.value)


CONLL = "".join(f"{word} {'B-A' if word == 'kan' else 'O'}\n" for word in ["kan", *WORDS[:4]]) + "\n"


@pytest.mark.more
def test_tags_with_a_crf_and_two_held_out_sets(folder, tmp_path, capfd):
    (tmp_path / "train.conll").write_text(CONLL * 8)
    (tmp_path / "other.conll").write_text(CONLL * 3)
    config = make_config(folder, **{"task.name": "token_classification", "task.crf": True, "train.num_steps": 2})
    config.task.update(train=str(tmp_path / "train.conll"))
    config.task.held_out = f"same={tmp_path / 'train.conll'},other={tmp_path / 'other.conll'}"
    summary = finetuning.finetune(config, tmp_path / "run")
    assert [len(predictions(tmp_path / "run", name)) for name in ("same", "other")] == [8, 3]
    assert summary["metric"] == "same/f1" and set(summary["predictions"]) == {"same", "other"}
    row = logged_rows(tmp_path / "run")[-1]
    assert {"eval/same/f1", "eval/other/f1"} <= set(row) and "same/f1 0." in capfd.readouterr().out
    opened = open_model(tmp_path / "run")
    assert (opened.scheme, set(opened.labels)) == ("BIO", {"B-A", "I-A", "O"})
    assert opened.model.spec.task.crf and opened.params["task"]["transitions"].any()


@pytest.mark.full
@pytest.mark.parametrize("crf", [False, True])
def test_predict_gives_the_scores_of_training(folder, tmp_path, crf):
    """Words with marks in them and sentences longer than a row, as lists of words and as the text that they make."""
    chance = random.Random(0)
    marks = [".", "?", "'s", ","]
    others = [*WORDS[:6], *(f"{word}." for word in WORDS[6:9]), *(f"{word}-{word}" for word in WORDS[9:12])]

    def sentences(number):
        made = []
        for _ in range(number):
            words = [chance.choice([*others, *marks, "kan", "mot"]) for _ in range(chance.choice([3, 6, 30]))]
            made.append("\n".join(f"{word} {({'kan': 'B-A', 'mot': 'I-A'}).get(word, 'O')}" for word in [*words, "."]))
        return "\n\n".join(made)

    for name, number in (("train", 60), ("dev", 30)):
        (tmp_path / f"{name}.conll").write_text(sentences(number))
    config = make_config(folder, **{"task.name": "token_classification", "task.crf": crf, "train.num_epochs": 2.0})
    config.task.update(train=str(tmp_path / "train.conll"), held_out=str(tmp_path / "dev.conll"))
    summary = finetuning.finetune(config, tmp_path / "run")
    written = predictions(tmp_path / "run")
    tagger = bert_jax.TokenTagger.from_pretrained(tmp_path / "run")
    sentences_of_words = [row["words"] for row in written]
    by_words = tagger(words=sentences_of_words)
    assert [answer["tags"] for answer in by_words] == [row["tags"] for row in written]
    texts = tagger([" ".join(words) for words in sentences_of_words])
    assert [answer["entities"] for answer in texts] == [
        [entity | {"score": pytest.approx(entity["score"], rel=1e-4)} for entity in answer["entities"]]
        for answer in by_words
    ]
    if not crf:  # which no format of transformers has
        huggingface.write(tagger.model, tmp_path / "exported")
        exported = bert_jax.TokenTagger.from_pretrained(tmp_path / "exported")
        again = exported([" ".join(words) for words in sentences_of_words])
        places = [[(one["label"], one["start"], one["end"]) for one in answer["entities"]] for answer in again]
        assert places == [[(one["label"], one["start"], one["end"]) for one in answer["entities"]] for answer in texts]
        told = json.loads((tmp_path / "exported" / "config.json").read_text())
        (tmp_path / "exported" / "config.json").write_text(json.dumps(told | {"bert_jax": {"words": "spaces"}}))
        with pytest.raises(UserError, match="config.json: bert_jax is not what bert-jax convert writes"):
            bert_jax.TokenTagger.from_pretrained(tmp_path / "exported")
    scores = metrics.entities([row["gold"] for row in written], [answer["tags"] for answer in by_words], "BIO")
    assert scores["f1"] == pytest.approx(summary["median"]) and scores["f1"] > 0


@pytest.mark.full
def test_predict_gives_the_scores_of_training_on_conll_2003(tmp_path):
    folder = DATA / "conll2003"
    vocabulary = DATA / "vocab" / "bert-base-cased" / "vocab.txt"
    if not (folder.is_dir() and vocabulary.is_file()):
        pytest.skip(f"outside data: {folder} or {vocabulary} is missing; BERT_JAX_TEST_DATA names their folder")
    tokenizer = loading.load(vocabulary)
    config = config_lib.base().model.to_dict() | {"vocab_size": tokenizer.vocab_size, "max_positions": 128}
    config |= {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64}
    model = model_lib.build(config, tokenizer.vocab_size)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    huggingface.write(Pretrained("made", "bert", config, model, params, tokenizer), tmp_path / "model")
    config = make_config(tmp_path, **{"task.name": "token_classification", "train.num_epochs": 2.0})
    config.task.update(train=str(folder / "eng.testa"), held_out=str(folder / "eng.testb"))
    config.data.update(sequence_length=64, batch_size=32, buckets=())
    config.optimizer.learning_rate = 3e-3
    summary = finetuning.finetune(config, tmp_path / "run")
    written = predictions(tmp_path / "run")
    tagger = bert_jax.TokenTagger.from_pretrained(tmp_path / "run")
    by_words = tagger(words=[row["words"] for row in written])
    gold = [row["gold"] for row in written]
    trained = summary["median"]
    assert metrics.entities(gold, [answer["tags"] for answer in by_words], "BIO")["f1"] == pytest.approx(trained)
    assert trained > 0.3
    by_text = tagger([" ".join(row["words"]) for row in written])
    right = [
        {(one["label"], one["start"], one["end"]) for one in answer["entities"]} for answer in (*by_text, *by_words)
    ]
    same = sum(one == other for one, other in zip(right, right[len(written) :], strict=False))
    assert same >= 0.998 * len(written)  # a text does not say where "1." ends a sentence


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tokenizer/tokenizer.json", lambda told: told["model"]["vocab"].update(zzz=5000),
         r"tokenizer: 5,001 tokens, but the word embedding of the run's checkpoint has [\d,]+ rows"),
        ("run.json", lambda told: told["model"].update(vocab_size=40), "run.json: model.vocab_size is 40; expected"),
        ("run.json", lambda told: told["labels"].append("x"), "run.json: the number of labels is 3; expected 2"),
    ],
)  # fmt: skip
def test_files_of_a_workdir_that_do_not_belong_together_are_named(finished, tmp_path, file, change, message):
    shutil.copytree(finished[0], tmp_path / "run")
    told = json.loads((tmp_path / "run" / file).read_text())
    change(told)
    (tmp_path / "run" / file).write_text(json.dumps(told))
    with pytest.raises(UserError, match=message):
        open_model(tmp_path / "run")


@pytest.mark.more
def test_other_columns_come_back_with_the_predictions(folder, tmp_path):
    rows = [
        {"id": i, "text": text, "score": "s", "label": label} for i, (text, label) in enumerate(make_rows(24, seed=1))
    ]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [
        {"id": i, "text": row["text"].split(), "label": ["O"] * len(row["text"].split())} for i, row in enumerate(rows)
    ]
    words[0]["label"][0] = "B-X"
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, words)))
    config = make_config(folder, **{"task.held_out": str(tmp_path / "dev.jsonl"), "train.num_steps": 2})
    finetuning.finetune(config, tmp_path / "run")
    written = predictions(tmp_path / "run")
    assert list(written[0]) == ["id", "input_score", "text", "gold", "label", "score", "scores"]
    assert [(row["id"], row["text"]) for row in written] == [(row["id"], row["text"]) for row in rows]
    task = {"task.name": "token_classification", "task.train": str(tmp_path / "words.jsonl"), "task.held_out": ""}
    config = make_config(folder, **task, **{"train.num_steps": 2, "task.held_out_share": 0.5})
    finetuning.finetune(config, tmp_path / "tags")
    for row in predictions(tmp_path / "tags"):
        assert words[row["id"]]["text"] == row["words"]


@pytest.mark.more
def test_answers(folder, tmp_path):
    context = " ".join(WORDS[:20])
    questions = [
        {"id": f"q{i}", "question": f"{word} ?", "answers": [{"text": word, "answer_start": context.index(word)}]}
        for i, word in enumerate(WORDS[:8])
    ]
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(data))
    config = make_config(folder, **{"task.name": "question_answering", "train.num_steps": 2})
    config.task.update(train=str(tmp_path / "squad.json"), held_out=str(tmp_path / "squad.json"))
    config.task.update(max_query_length=4, doc_stride=4)
    summary = finetuning.finetune(config, tmp_path / "run")
    official = json.loads((tmp_path / "run" / "predictions" / "held_out.json").read_text())
    assert list(official) == [f"q{i}" for i in range(8)]
    assert official == {row["id"]: row["answer"] for row in predictions(tmp_path / "run")}
    assert set(summary["predictions"]["held_out"]["scores"]) == {"exact_match", "f1"}
    assert open_model(tmp_path / "run").settings["doc_stride"] == 4


MISTAKES = {
    "no model": ({"init_from": ""}, "config.init_from: empty; expected a model to start from"),
    "no data": ({"task.train": ""}, "config.task.train: empty; expected a file, or tfds:"),
    "no such model": ({"init_from": "/no/such"}, "/no/such: no such directory"),
    "no such file": ({"task.train": "/no/such.tsv"}, "/no/such.tsv"),
    "choice": ({"task.pooling": "avg"}, "config.task.pooling: found 'avg'; expected one of auto, pooler"),
    "length": ({"data.sequence_length": 64}, "config.data.sequence_length: 64 is over the 32 positions of"),
    "batch": ({"data.batch_size": 12}, "config.data.batch_size: 12 is not divisible by 8 device shards"),
    "evaluated batch": ({"train.eval_batch_size": 12}, "config.train.eval_batch_size: 12 is not divisible by 8"),
    "layers": ({"tuning.freeze": "layers:2"}, "config.tuning.freeze: found layers:2; the model has 1"),
    "pattern": ({"tuning.freeze": "(("}, "config.tuning.freeze: '((' is no regular expression"),
    "nothing": ({"tuning.freeze": "decoder"}, "config.tuning.freeze: 'decoder' matches no parameter"),
    "random": ({"from_scratch": True, "tuning.lora_rank": 2}, "config.from_scratch: True, but"),
    "crf": ({"task.crf": True}, "config.task.crf: True is for token_classification"),
    "column": ({"task.label": "stars"}, "stars"),
    "targets": ({"tuning.lora_targets": ("query", "k")}, "config.tuning.lora_targets: found ('query', 'k')"),
    "seeds": ({"seeds": 0}, "config.seeds: found 0; expected a number from 1 to 1,000"),
    "rate": ({"optimizer.learning_rate": float("nan")}, "config.optimizer.learning_rate: found nan"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(folder, tmp_path, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        finetuning.finetune(make_config(folder, **changes), tmp_path / "run")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_rate_outside_the_published_range_is_warned_about():
    config = finetune_config.base()
    config.optimizer.learning_rate = 2e-5
    assert finetune_config.rate_warning(config) == ""
    config.optimizer.learning_rate = 1e-3
    assert finetune_config.rate_warning(config).startswith(
        "warning: config.optimizer.learning_rate: 0.001 is outside the published range 1e-06 to 0.0001"
    )


@pytest.mark.more
def test_the_default_rate_is_chosen_once(folder, tmp_path, capfd):
    config = make_config(folder, **{"optimizer.learning_rate": -1.0, "train.num_steps": 8})
    finetuning.finetune(config, tmp_path / "run")
    assert "config.optimizer.learning_rate: 0.0011, chosen for a model of width 32" in capfd.readouterr().out
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["optimizer"]["learning_rate"] == pytest.approx(1.14e-3, rel=0.01)
    config.train.num_steps = 12  # continues with the rate that it began with, and refuses another
    finetuning.finetune(config, tmp_path / "run")
    assert max(row["learning_rate"] for row in logged_rows(tmp_path / "run")) <= 1.14e-3
    config.optimizer.learning_rate = 1e-3
    with pytest.raises(UserError, match=r"its run began with config.optimizer.learning_rate=0.0011"):
        finetuning.finetune(config, tmp_path / "run")


@pytest.mark.more
def test_the_default_rate_of_adapters_is_said_to_be_theirs(folder, tmp_path, capfd):
    config = make_config(folder, **{"optimizer.learning_rate": -1.0, "train.num_steps": 1, "tuning.lora_rank": 2})
    finetuning.finetune(config, tmp_path / "run")
    said = capfd.readouterr().out
    assert "config.optimizer.learning_rate: 0.0011, chosen for LoRA adapters of a model of width 32" in said


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Returns the environment of processes with one CPU device each, which share compiled programs."""
    programs = commands.shared_programs(tmp_path_factory.mktemp("compiled"))
    return os.environ | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"} | programs


def start(workdir, environment, *options):
    return commands.start("bert_jax.finetune", f"--workdir={workdir}", *options, environment=environment)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jsonl")}


@pytest.mark.full
def test_kill_and_start_again(folder, tmp_path, environment):
    """Adapters, patience and two seeds: rows, predictions and the best parameters are those of a run never killed."""
    recipe = tmp_path / "recipe.py"
    config = make_config(folder, **{"seeds": 2, "tuning.lora_rank": 2, "train.patience": 3, "train.log_every": 1})
    config.train.update(eval_every=5, checkpoint_every=3, progress=False)
    write_recipe(recipe, config, "finetune_config")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, environment, f"--config={recipe}"))
    process = start(killed, environment, f"--config={recipe}")
    wait_until(lambda: number_of_rows(killed) >= 17, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "summary.json").exists()
    output = finish(start(killed, environment, f"--config={recipe}"))
    assert "; step 0 of" not in output and "starts from" not in output
    assert logged_rows(killed) == logged_rows(whole)
    summaries = [(workdir / "summary.json").read_text() for workdir in (whole, killed)]
    assert summaries[0] == summaries[1]
    assert contents(whole / "predictions") == contents(killed / "predictions")
    jax.tree.map(np.testing.assert_array_equal, *(open_model(workdir).params for workdir in (whole, killed)))


@pytest.mark.full
def test_a_stopped_run_goes_on_from_its_local_copy(finished, tmp_path, monkeypatch, capfd):
    """Its record of the seeds' evaluations too; the checkpoint at the stop fails, those before were saved by time."""
    whole, config, summary = finished
    config = config.copy_and_resolve_references()
    config.train.update(checkpoint_minutes=1e-7, emergency_dir=str(tmp_path / "local"))
    save = checkpoints.Checkpoints._open

    def stopped(self, index):
        if index == 4:
            signal.raise_signal(signal.SIGTERM)

    def fails(self):
        if self._hurries:
            raise OSError("storage is gone")
        return save(self)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning._Finetuning, "enter", stopped)
        patch.setattr(checkpoints.Checkpoints, "_open", fails)
        with pytest.raises(UserError, match="the checkpoint of step 5 could not be saved; the last good .* step 4"):
            finetuning.finetune(config, tmp_path / "run")
    config.train.checkpoint_minutes = 0.0
    again = finetuning.finetune(config, tmp_path / "run")
    assert "goes on from the copy of step 5" in capfd.readouterr().out
    assert again["scores"] == summary["scores"] and logged_rows(tmp_path / "run") == logged_rows(whole)
    assert contents(whole / "predictions") == contents(tmp_path / "run" / "predictions")
    assert not list(tmp_path.glob("local/*"))


@pytest.mark.full
def test_the_command_on_sst2(folder, tmp_path, environment):
    files = {split: DATA / "sst2" / f"{split}.tsv" for split in ("train", "dev")}
    if not files["train"].exists():
        pytest.skip(
            f"outside data: {files['train']} is missing; BERT_JAX_TEST_DATA names the folder of the shared data"
        )
    cut = tmp_path / "train.tsv"
    cut.write_text("".join(files["train"].read_text().splitlines(keepends=True)[:128]))
    output = finish(start(
        tmp_path / "run", environment, "--config=configs/finetune/sst2.py", f"--config.init_from={folder / 'model'}",
        f"--config.task.train={cut}", f"--config.task.held_out={files['dev']}",
        "--config.task.columns=('sentence','label')", "--config.data.sequence_length=32", "--config.train.num_epochs=1",
    ))  # fmt: skip
    assert "step 4/4  loss " in output and "done: step 4; best: step 4" in output
    assert len(predictions(tmp_path / "run")) == 872
