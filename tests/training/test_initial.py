"""config.init_from gives a run parameters, architecture and vocabulary, or is refused."""

import copy
import json
import shutil

import jax
import numpy as np
import pytest

from bert_jax import model as model_lib
from bert_jax.data.preparation import pipeline
from bert_jax.data.vocabularies import hugging_face, new_tokens
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained
from bert_jax.runs import checkpoints, models
from bert_jax.training import evaluation, initial, pretraining
from tests.training.conftest import WORDS, make_corpus

METRICS = {"mlm_loss", "mlm_accuracy", "mlm_perplexity", "unigram_loss"}


def refused(config, path):
    with pytest.raises(UserError) as caught:
        pretraining.pretrain(config, path)
    message = str(caught.value)
    assert "\n" not in message
    assert not (path / "config.json").exists()
    return message


@pytest.mark.more
def test_the_same_parameters(config, finished, tmp_path, capfd):
    shutil.copytree(finished, tmp_path / "first")
    config.optimizer.learning_rate = 0.0
    config.seed = 1
    config.init_from = str(tmp_path / "first")
    pretraining.pretrain(config, tmp_path / "second")
    assert f"starts from {tmp_path / 'first'}\n" in capfd.readouterr().out
    first, second = (checkpoints.load_params(tmp_path / name)[0] for name in ("first", "second"))
    jax.tree.map(np.testing.assert_array_equal, first, second)

    shutil.rmtree(tmp_path / "first")  # a run that goes on no longer needs it
    config.train.num_steps = 13
    pretraining.pretrain(config, tmp_path / "second")
    assert checkpoints.saved_steps(tmp_path / "second" / "checkpoints")[-1] == 13


def test_another_vocabulary(config, finished, tmp_path):
    other = make_corpus(tmp_path / "other", vocabulary=WORDS[::-1])
    config.init_from, config.data.corpus = str(finished), str(other)
    message = refused(config, tmp_path / "run")
    assert message == (
        f"config.init_from={finished}: its vocabulary is not that of {other}; prepare the corpus with "
        f"--tokenizer={finished}"
    )


def test_another_architecture(config, finished, tmp_path):
    config.init_from = str(finished)
    config.model.update(num_heads=4, intermediate_size=48)
    assert refused(config, tmp_path / "run") == (
        f"config.init_from={finished}: its model has intermediate_size=64, num_heads=2, but config.model has "
        "intermediate_size=48, num_heads=4; expected --config.model.intermediate_size=64 --config.model.num_heads=2, "
        "or --config.model_from_init=True, which takes them from there"
    )


def test_an_architecture_that_was_asked_for_is_not_replaced(config, finished, tmp_path):
    config.update(model_from_init=True, init_from=str(finished))
    recipe = copy.deepcopy(config)
    config.model.update(num_layers=3, activation="relu")
    expected = (
        "config.model: found activation=relu, num_layers=3, but config.model_from_init=True takes activation=gelu, "
        f"num_layers=1 from {finished}; expected these, or --config.model_from_init=False"
    )
    with pytest.raises(UserError) as caught:
        pretraining.pretrain(config, tmp_path / "run", recipe)
    assert str(caught.value) == expected
    pretrained = models.open_model(finished)
    with pytest.raises(UserError) as caught:
        initial.resolve(copy.deepcopy(config), pretrained, tmp_path, ["model.num_layers", "model.activation"])
    assert str(caught.value) == expected
    assert not (tmp_path / "run").exists()
    config.model.update(num_layers=1, activation="gelu", num_kv_heads=0, hidden_dropout=0.2)
    initial.resolve(config, pretrained, tmp_path, [f"model.{key}" for key in config.model])
    assert config.model.hidden_dropout == 0.2
    config.model.num_kv_heads = 2  # what 0 stands for
    initial.resolve(config, pretrained, tmp_path, ["model.num_kv_heads"])


def test_nothing_to_take_the_architecture_from(config, tmp_path):
    config.model_from_init = True
    assert refused(config, tmp_path / "run").startswith("config.model_from_init: True, but config.init_from is empty")


@pytest.fixture(scope="module")
def source():
    """A model of a vocabulary with pieces, whose embedding has three rows more."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ze", "##bra", "the"]
    tokenizer = hugging_face.wordpiece(tokens, True, "test")
    config = {
        "vocab_size": 0, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 16,
        "activation": "gelu", "max_positions": 16, "position_offset": 0, "type_vocab_size": 2, "norm_epsilon": 1e-12,
        "hidden_dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.02, "pooler": True,
        "attention": "bidirectional", "dtype": "float32", "scan_layers": False,
    }  # fmt: skip
    task = model_lib.Task("sequence_classification", 2)
    model = model_lib.build(config, 11, next_sentence=False, task=task)
    params = jax.jit(model.init)(jax.random.key(7))
    params["mlm"]["bias"] = np.arange(11, dtype=np.float32)
    return Pretrained("source", "bert", config | {"vocab_size": 11}, model, params, tokenizer)


def test_heads_and_new_entries(config, source):
    """Fresh heads are those of a run of this seed; a new row is the mean of the old pieces' rows."""
    tokenizer, _ = new_tokens.extend(source.tokenizer, ["zebra", "okapi"], "--add_tokens=x")
    config.model.update({key: source.config[key] for key in source.config})
    config.model.vocab_size = 0
    model = model_lib.build(config.model, tokenizer.vocab_size, next_sentence=True)
    said = []
    params = initial.params(config, source, model, tokenizer, said.append)
    assert said == [
        "starts from source; fresh: next_sentence; left out: task; 2 new vocabulary entries, each the mean of its "
        "pieces; 3 rows of its word embedding that no token has are left out"
    ]
    old = source.params["encoder"]["embeddings"]["word"]["embedding"]
    word = params["encoder"]["embeddings"]["word"]["embedding"]
    assert word.shape == (10, 8) and params["mlm"]["bias"].shape == (10,)
    np.testing.assert_array_equal(word[:8], old[:8])
    np.testing.assert_allclose(word[8], (old[5] + old[6]) / 2, rtol=1e-6)  # ze ##bra
    np.testing.assert_array_equal(word[9], old[1])  # unknown
    assert params["mlm"]["bias"].tolist() == [*range(8), 5.5, 1.0]
    fresh = jax.jit(model.init)(jax.random.split(jax.random.key(config.seed))[0])
    jax.tree.map(np.testing.assert_array_equal, params["next_sentence"], fresh["next_sentence"])
    jax.tree.map(np.testing.assert_array_equal, params["encoder"]["layers"], source.params["encoder"]["layers"])


@pytest.fixture(scope="module")
def new_corpus(finished, tmp_path_factory):
    """Text with words that the finished run's vocabulary lacks, and 2 of them added to it."""
    path = tmp_path_factory.mktemp("new")
    sentences = ["zebra kan lon okapi .", "okapi mis tot .", "kan zebra ros ."]
    (path / "text.txt").write_text("\n\n".join("\n".join(sentences[i % 3 :] * 4) for i in range(80)) + "\n")
    settings = pipeline.Settings(
        input=str(path / "text.txt"),
        tokenizer=str(finished),
        sentences="line",
        eval_share=0.2,
        add_tokens="2",
    )
    pipeline.prepare(settings, path / "corpus", workers=1, progress=False)
    return path / "corpus"


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def continued(config, finished, corpus, new_corpus):
    """The config of a run on the new text from the finished run's model, whose architecture it takes."""
    config.model.update(hidden_size=64, num_layers=3, max_positions=512)
    config.update(model_from_init=True, init_from=str(finished))
    config.data.update(corpus=str(new_corpus), old_corpus=str(corpus), sequence_length=16)
    config.objective.next_sentence = False
    config.train.update(num_steps=8)
    return config


@pytest.mark.more
def test_old_text_beside_new(continued, finished, corpus, tmp_path, capfd):
    """Also with another kill in it: the metrics before the first step are those that were found then."""
    pretraining.pretrain(continued, tmp_path / "run")
    output = capfd.readouterr().out
    assert f"starts from {finished}; left out: next_sentence; 2 new vocabulary entries" in output
    report = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    assert report["step"] == 8 and report["old"]["corpus"] == str(corpus)
    for text, when in (("new", "before"), ("new", "after"), ("old", "before"), ("old", "after")):
        assert set(report[text][when]) == METRICS
    loss = {text: [report[text][when]["mlm_loss"] for when in ("before", "after")] for text in ("new", "old")}
    assert report["new"]["gain"] == loss["new"][0] - loss["new"][1] > 0
    assert report["old"]["forgetting"] == loss["old"][1] - loss["old"][0]
    assert f"old text, loss          {loss['old'][0]:12.4f}{loss['old'][1]:12.4f}" in output
    evaluated = [row for row in rows(tmp_path / "run") if "eval/mlm_loss" in row]
    assert [row["step"] for row in evaluated] == [4, 8]
    assert evaluated[-1]["eval_old/mlm_loss"] == loss["old"][1] and evaluated[-1]["eval/mlm_loss"] == loss["new"][1]

    # On its own text the model is, before the first step, what it was, but for two entries that it does not see.
    settings = {"format": "segment_pair", "sequence_length": 16, "batch_size": 8}
    metrics = evaluation.evaluate(models.open_model(finished), str(corpus), batches=2, **settings)
    assert loss["old"][0] == pytest.approx(metrics["mlm_loss"], abs=0.1)
    grown = models.open_model(tmp_path / "run")  # reads text that was prepared before its vocabulary was extended
    metrics = evaluation.evaluate(grown, str(corpus), batches=2, **settings)
    assert loss["old"][1] == pytest.approx(metrics["mlm_loss"], rel=1e-6)
    with pytest.raises(UserError, match="has 2 entries that .* lacks; prepare the text again: bert-jax prepare"):
        evaluation.evaluate(models.open_model(finished), continued.data.corpus, **settings)

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")  # killed before it was written
    changed = report | {"new": report["new"] | {"before": report["new"]["before"] | {"mlm_loss": 9.0}}}
    (tmp_path / "run" / "adaptation.json").write_text(json.dumps(changed))
    pretraining.pretrain(continued, tmp_path / "run")
    again = json.loads((tmp_path / "run" / "adaptation.json").read_text())
    assert again["new"]["before"]["mlm_loss"] == 9.0 and again["new"]["after"] == report["new"]["after"]

    continued.data.old_corpus = str(continued.data.corpus)
    continued.train.num_steps = 9
    with pytest.raises(UserError, match="the metrics before the first step are of the corpus"):
        pretraining.pretrain(continued, tmp_path / "run")


@pytest.mark.parametrize(("vocabulary", "message"), [("other", "its vocabulary is neither that of"), ("same", "held")])
def test_old_text_that_cannot_be_read(continued, corpus, tmp_path, vocabulary, message):
    other = make_corpus(tmp_path / "other", documents=20, eval_share=0.0)
    if vocabulary == "other":
        (other / "tokenizer" / "tokenizer.json").unlink()
        tokens = (other / "tokenizer" / "vocab.txt").read_text().split()
        (other / "tokenizer" / "vocab.txt").write_text("\n".join([*tokens[:-2], tokens[-1], tokens[-2]]) + "\n")
    continued.data.old_corpus = str(other)
    continued.train.eval_every = 0
    assert message in refused(continued, tmp_path / "run")


def begun(config, pretrained, workdir):
    """Returns (parameters that a run of the config begins with, what it says)."""
    lines = []
    initial.resolve(config, pretrained, workdir)
    model = model_lib.build(config.model, pretrained.tokenizer.vocab_size, next_sentence=True)
    return initial.params(config, pretrained, model, pretrained.tokenizer, lines.append), lines[0]


@pytest.mark.parametrize("taken", [False, True])
def test_longer_rows_and_other_rotary_bases(config, finished, tmp_path, taken):
    """A model with rotary positions takes any and keeps its parameters; model_from_init takes this run's row length."""
    learned = models.open_model(finished)
    config.model.positions = "rotary"
    settings = learned.config | {"positions": "rotary"}
    model = model_lib.build(settings, learned.tokenizer.vocab_size, next_sentence=True)
    source = Pretrained("source", "bert", settings, model, model.init(jax.random.key(0)), learned.tokenizer)
    config.init_from, config.model_from_init, config.data.sequence_length = "source", taken, 64
    if not taken:
        config.model.update(max_positions=64, rotary_base=500.0)
    params, said = begun(config, source, tmp_path)
    assert config.model.max_positions == 64
    assert said == "starts from source; max_positions from 32 to 64" + (
        "" if taken else "; rotary_base from 10,000 to 500; local_rotary_base from 10,000 to 500"
    )
    jax.tree.map(np.testing.assert_array_equal, params, source.params)


def test_scaled_rotary_positions_may_be_asked_for_beside_the_architecture_of_another(config, finished, tmp_path):
    source = models.open_model(finished)
    settings = source.config | {"positions": "rotary", "rotary_base": 500.0}
    model = model_lib.build(settings, source.tokenizer.vocab_size, next_sentence=True)
    source = Pretrained("source", "bert", settings, model, model.init(jax.random.key(0)), source.tokenizer)
    config.init_from, config.model_from_init, config.data.sequence_length = "source", True, 64
    asked = {"rotary_scaling": "yarn", "rotary_factor": 2.0, "rotary_trained": 32}
    config.model.update(asked)
    initial.resolve(config, source, tmp_path, given={f"model.{key}" for key in asked})
    assert {key: config.model[key] for key in asked} == asked
    assert (config.model.rotary_base, config.model.max_positions) == (500.0, 64)
    with pytest.raises(UserError, match="found hidden_size=8, but config.model_from_init=True takes hidden_size=32"):
        config.model.hidden_size = 8
        initial.resolve(config, source, tmp_path, given={"model.hidden_size"})


@pytest.mark.parametrize("rule", ["tile", "interpolate"])
def test_a_learned_table_is_extended_by_a_rule(config, finished, tmp_path, rule):
    source = models.open_model(finished)
    config.init_from = str(finished)
    config.model.max_positions = config.data.sequence_length = 48
    with pytest.raises(UserError, match="has max_positions=32.* or --config.init_positions=tile, which extends it"):
        begun(config, source, tmp_path)
    config.init_positions = rule
    params, said = begun(config, source, tmp_path)
    assert f"max_positions from 32 to 48 ({rule})" in said
    table, old = (tree["encoder"]["embeddings"]["position"]["embedding"] for tree in (params, source.params))
    assert table.shape == (48, 32)
    if rule == "tile":
        np.testing.assert_array_equal(table, np.concatenate([old, old[:16]]))
    else:
        np.testing.assert_allclose(table[[0, 47]], old[np.array([0, 31])], rtol=1e-6)
        np.testing.assert_allclose(table[1], old[0] + (old[1] - old[0]) * 31 / 47, rtol=1e-5, atol=1e-7)
    config.model.max_positions = config.data.sequence_length = 16
    with pytest.raises(UserError, match="has max_positions=32, but config.model has max_positions=16"):
        begun(config, source, tmp_path)
    config.model.positions = "rotary"
    with pytest.raises(UserError, match="config.init_positions: .* but config.model.positions=rotary has no learned"):
        initial.resolve(config, None, tmp_path)
