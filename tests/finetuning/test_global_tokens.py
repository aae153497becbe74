"""Fine-tunes models with windows and global tokens: each task chooses its own, in training and in prediction."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.data import tasks
from bert_jax.data.tasks import batches
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.interop import huggingface
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import Model
from bert_jax.runs.models import open_model
from tests.finetuning import test_embedding
from tests.finetuning.test_run import folder, make_config, predictions  # noqa: F401
from tests.training.conftest import WORDS

LONGFORMER = {"layer_windows": (4, 2), "global_tokens": "auto", "global_projections": True, "position_offset": 1}
MODERN = {"local_window": 2, "global_every": 2, "positions": "rotary", "local_rotary_base": 100.0, "norm_place": "pre",
          "first_norm": False, "mlp": "gated", "type_vocab_size": 0}  # fmt: skip


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):  # noqa: F811
    """Returns a function that writes a model with some switches, in the vocabulary of the labelled files."""
    tokenizer = open_model(folder / "model").tokenizer

    def make(family, switches):
        path = tmp_path_factory.mktemp("models") / family
        config = config_lib.base().model.to_dict() | {"vocab_size": tokenizer.vocab_size, "initializer_range": 0.1}
        config |= {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "max_positions": 31}
        model = model_lib.build(config | switches, tokenizer.vocab_size, next_sentence=False, language_model=False)
        params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
        params = {name: part for name, part in params.items() if name != "pooler"}
        model = Model(dataclasses.replace(model.spec, pooler=False))
        huggingface.write(Pretrained("made", family, config | switches, model, params, tokenizer), path)
        return str(path)

    return make


def same_as_without(workdir, batch):
    """Tells whether a run's model computes the same where no token is global."""
    opened = open_model(workdir)
    off = Model(dataclasses.replace(opened.model.spec, global_tokens="none"))
    logits = [jax.jit(model.apply)(opened.params, batch)["logits"] for model in (opened.model, off)]
    return np.allclose(*logits, atol=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("switches", [LONGFORMER, MODERN], ids=["longformer", "modernbert"])
def test_a_classifier(folder, made, tmp_path, switches):  # noqa: F811
    """A model without global tokens takes them by a key, a model with them by itself."""
    is_long = switches is LONGFORMER
    key = {} if is_long else {"model.global_tokens": "auto"}
    source = made("longformer" if is_long else "modernbert", switches)
    config = make_config(folder, **{"init_from": source, "train.num_epochs": 1.0, "train.report": False} | key)
    finetuning.finetune(config, tmp_path / "run")
    opened = open_model(tmp_path / "run")
    assert opened.model.spec.global_tokens == "auto" and opened.model.spec.first_is_global
    task = tasks.load(config, opened.tokenizer)
    rows, batch = batches.eval_batches(config, task.held_out[""], 8)[0]
    logits = np.asarray(jax.jit(opened.model.apply)(opened.params, batch)["logits"], np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted, classifier = predictions(tmp_path / "run"), bert_jax.Classifier(tmp_path / "run", packing=True)
    answers = classifier([row["text"] for row in predicted])
    for row, chance in zip(rows, chances, strict=True):
        for scores in (predicted[row]["scores"], answers[row]["scores"]):
            assert scores["good"] == pytest.approx(chance[1], rel=1e-3)
    assert not same_as_without(tmp_path / "run", batch)
    if is_long:
        huggingface.write(opened, tmp_path / "written")
        assert huggingface.read(tmp_path / "written").model.spec.first_is_global
    else:
        with pytest.raises(UserError, match="config.model.global_tokens=first, where it is none"):
            huggingface.write(opened, tmp_path / "written")


@pytest.mark.more
def test_an_embedder(folder, made, tmp_path):  # noqa: F811
    data = (tmp_path, made("longformer", LONGFORMER))
    test_embedding.write(tmp_path / "train.jsonl", test_embedding.make_pairs(40))
    test_embedding.write(tmp_path / "dev.jsonl", test_embedding.make_pairs(20, seed=1))
    config = test_embedding.make_config(data, **{"train.num_epochs": 1.0})
    finetuning.finetune(config, tmp_path / "run")
    embedder = bert_jax.Embedder(tmp_path / "run")
    assert embedder.model.model.spec.global_tokens == embedder.model.config["global_tokens"] == "first"
    records = test_embedding.make_pairs(20, seed=1)
    queries, documents = (embedder.encode([record[name] for record in records]) for name in ("anchor", "positive"))
    places = {record["positive"]: i for i, record in enumerate(records)}
    for query, row in zip(queries, predictions(tmp_path / "run"), strict=True):
        for hit in row["nearest"]:
            assert query @ documents[places[hit["text"]]] == pytest.approx(hit["score"], abs=1e-5)
    with pytest.raises(UserError, match="config.model.global_tokens=first, where it is none"):
        huggingface.write(open_model(tmp_path / "run"), tmp_path / "written")
    config.model.global_tokens = "none"
    with pytest.raises(UserError, match="global_projections: found True, .*global_tokens=none"):
        finetuning.finetune(config, tmp_path / "other")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("packing", [False, True])
def test_questions(folder, made, tmp_path, packing):  # noqa: F811
    context = " ".join(WORDS[:20])
    questions = [
        {"id": f"q{i}", "question": f"{word} ?" + " ?" * (i % 2),
         "answers": [{"text": word, "answer_start": context.index(word)}]}
        for i, word in enumerate(WORDS[:8])
    ]  # fmt: skip
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(data))
    config = make_config(folder, **{"task.name": "question_answering", "train.num_steps": 2, "train.report": False})
    config.task.update(train=str(tmp_path / "squad.json"), held_out=str(tmp_path / "squad.json"))
    config.task.update(max_query_length=4, doc_stride=4)
    config.init_from, config.data.packing = made("longformer", LONGFORMER), packing
    finetuning.finetune(config, tmp_path / "run")
    opened = open_model(tmp_path / "run")
    task = tasks.load(config, opened.tokenizer)
    batch = task.train.batch(np.array([0, -1, len(task.train.lengths) - 1]), 16)
    assert batch["global_positions"].tolist() == [[0, 1, 2, -1], [0, -1, -1, -1], [0, 1, 2, 3]]
    assert not same_as_without(tmp_path / "run", batch)
    answerer = bert_jax.QuestionAnswerer(tmp_path / "run", packing=packing)
    answers = answerer([(question["question"], context) for question in questions])
    for answer, row in zip(answers, predictions(tmp_path / "run"), strict=True):
        assert (answer["answer"], answer["start"]) == (row["answer"], row["start"])
        assert answer["score"] == pytest.approx(row["score"], rel=1e-3)
    packed = batches.train_batch(config, task, [0], 0)
    for row, ids in zip(packed["global_positions"][0], packed["input_ids"][0], strict=True):
        places = row[row >= 0]
        assert not np.isin(ids[places], [opened.tokenizer.sep_id, opened.tokenizer.pad_id]).any()
        assert opened.tokenizer.cls_id in ids[places]
