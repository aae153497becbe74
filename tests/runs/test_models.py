"""Tests models of workdirs: which of a run's two is opened, and what is written where the format lacks a head."""

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax.data.vocabularies import training
from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface
from bert_jax.runs import models
from bert_jax.runs import workdir as workdir_lib

PROSE = ["The cat sat on the mat, and the dog looked at the cat.", "Nobody knew why the cat had chosen that mat."] * 20
TOKENIZER = training.train("wordpiece", PROSE, 60)
ELECTRA = {"embedding_size": 6, "type_vocab_size": 2, "pooler": False}
DEBERTA = {"positions": "relative", "relative_buckets": 4, "relative_norm": True, "type_vocab_size": 0,
           "mask_decoder": "enhanced", "pooler": False}  # fmt: skip


@pytest.fixture
def workdir(monkeypatch):
    """Returns a function that makes a stand-in for a run's workdir with fresh parameters."""

    def made(name, sharing="tied", width=4, **switches):
        config = config_lib.base()
        config.model.update(hidden_size=8, num_layers=2, num_heads=2, intermediate_size=12, max_positions=20)
        config.model.update(switches)
        config.objective.update(name=name, embedding_sharing=sharing, next_sentence=False)
        config.generator.update(hidden_size=width, num_heads=1, intermediate_size=6)
        heads = objective_lib.heads(config.objective)
        model = model_lib.build(config.model, TOKENIZER.vocab_size, **heads)
        params = jax.tree.map(np.asarray, objective_lib.make(config, model).init(jax.random.key(0)))
        monkeypatch.setattr(models.workdir_lib, "holds_run", lambda _: True)
        monkeypatch.setattr(models.workdir_lib, "to_path", lambda name: name)
        monkeypatch.setattr(models.workdir_lib, "read", lambda _: ({}, config))
        monkeypatch.setattr(models.checkpoints, "load_params", lambda *_: (params, config, None))
        monkeypatch.setattr(models, "load_tokenizer", lambda _: TOKENIZER)
        return params

    return made


def test_a_model_may_be_named_with_its_step(tmp_path):
    split = workdir_lib.split_step
    assert [split(f"runs/a@{step}") for step in ("7", "best", "mean:3", "ema:0.9")] == [
        ("runs/a", 7), ("runs/a", "best"), ("runs/a", "mean:3"), ("runs/a", "ema:0.9")
    ]  # fmt: skip
    assert split("runs/a") == ("runs/a", None) and split("me@home/model") == ("me@home/model", None)
    (tmp_path / "a@7").mkdir()
    assert split(tmp_path / "a@7") == (f"{tmp_path}/a@7", None), "a path that exists is taken as it is"
    assert workdir_lib.name_and_step("a", "12") == ("a", 12) and workdir_lib.name_and_step("a@best", "") == (
        "a",
        "best",
    )
    with pytest.raises(UserError, match="--step=last: expected the number of a step, best, mean:K"):
        workdir_lib.name_and_step("a", "last")
    assert workdir_lib.name_and_step("a", "ema:0.9") == ("a", "ema:0.9")
    with pytest.raises(UserError, match="--step=ema:9: .* or ema:DECAY for an exponential average, such as ema:0.9"):
        workdir_lib.name_and_step("a", "ema:9")
    with pytest.raises(UserError, match="--step=3: a@7 names a step too; expected one of them"):
        workdir_lib.name_and_step("a@7", "3")


def test_both_models_of_replaced_token_detection(workdir, tmp_path):
    params = workdir("rtd", **ELECTRA)
    for part, head in (("discriminator", "replaced_tokens"), ("generator", "language_model")):
        actual = models.open_model("run", part=part)
        assert actual.family == "electra" and getattr(actual.model.spec, head)
        huggingface.write(actual, tmp_path / part)
        again = huggingface.read(tmp_path / part)
        jax.tree.map(np.testing.assert_array_equal, actual.params, again.params)
        word = again.params["encoder"]["embeddings"]["word"]["embedding"]
        np.testing.assert_array_equal(word, params["encoder"]["embeddings"]["word"]["embedding"])
    assert (again.model.spec.hidden_size, again.model.spec.embedding_size) == (4, 6)


def test_heads_that_deberta_has_no_name_for_are_left_out(workdir, tmp_path):
    workdir("rtd", "gradient_disentangled", width=8, **DEBERTA)
    for part, left in (("discriminator", "the head for replaced tokens"), ("generator", "the enhanced mask decoder")):
        actual = models.open_model("run", part=part)
        assert actual.family == "deberta-v2"
        assert formats.inexpressible_heads(actual) == [left]
        with pytest.raises(UserError, match="cannot be said in the format of deberta-v2"):
            huggingface.write(actual, tmp_path / "refused")
        bare = formats.encoder_only(actual)
        huggingface.write(bare, tmp_path / part)
        again = huggingface.read(tmp_path / part)
        jax.tree.map(np.testing.assert_array_equal, actual.params["encoder"], again.params["encoder"])


def test_a_model_that_no_format_can_say(workdir, tmp_path):
    workdir("mlm", positions="learned+rotary", pooler=False)
    actual = models.open_model("run")
    with pytest.raises(UserError, match=r"positions=learned\+rotary, where it is .*stays usable in bert_jax"):
        huggingface.write(actual, tmp_path / "out")
    with pytest.raises(UserError, match="trains no generator; expected rtd"):
        models.open_model("run", part="generator")


@pytest.mark.parametrize("part", ["discriminator", "generator"])
def test_the_mask_that_token_dropout_reads_is_the_vocabularys(workdir, part):
    workdir("rtd", token_dropout=True)
    opened = models.open_model("here", part=part)
    assert opened.model.spec.mask_id == opened.config["mask_id"] == TOKENIZER.mask_id
    workdir("rtd")
    assert models.open_model("here", part=part).model.spec.mask_id == 0
    workdir("rtd", token_dropout=True, mask_id=TOKENIZER.mask_id + 1)
    with pytest.raises(
        UserError, match=r"config.model.mask_id: found 5, but \[MASK\] of the vocabulary has id 4; expec"
    ):
        models.open_model("here", part=part)
