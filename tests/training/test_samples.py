"""Samples of predictions are those of the model for masks of held-out text."""

import numpy as np
import pytest

from bert_jax import model as model_lib
from bert_jax import objectives, sharding
from bert_jax.data import loader, mixture
from bert_jax.training.samples import masked_tokens, predicted_tokens
from bert_jax.training.step import Learner


def made(config):
    """Returns (objective, fresh parameters, a held-out batch, tokenizer, mesh) of a config."""
    config.objective.next_sentence = False
    config.data.format = "doc_sentences"
    corpora = mixture.open_corpora(config)
    config.model.vocab_size = corpora[0].vocab_size
    mesh = sharding.make_mesh(config.mesh)
    model = model_lib.build(config.model, config.model.vocab_size, **objectives.heads(config.objective))
    learner = Learner.from_config(config, model, mesh, 1)
    params = learner.init_state()["params"]
    return learner.objective, params, loader.eval_batches(config, 0)[0], corpora[0].tokenizer, mesh


@pytest.mark.more
def test_samples_of_replaced_tokens_show_what_the_discriminator_says(config):
    config.objective.name = "rtd"
    objective, params, batch, tokenizer, mesh = made(config)
    samples = predicted_tokens(objective, params, batch, tokenizer, mesh)
    assert 1 <= len(samples) <= 8 and any(sample["filled in"] != "the original" for sample in samples)
    for sample in samples:
        marked = sample["text"].partition("»")[2].partition("«")[0]
        assert marked == (sample["original"] if sample["filled in"] == "the original" else sample["filled in"])
        verdict, _, chance = sample["discriminator"].partition(" ")
        assert verdict in ("replaced", "original") and 0.5 <= float(chance) <= 1
    rows = {name: array[:4] for name, array in batch.items()}
    ids, replaced, _ = objective.judged(params, rows)
    assert (ids != np.where(rows["input_ids"] == tokenizer.mask_id, -1, rows["input_ids"])).any()
    assert not replaced[rows["attention_mask"] == 0].any()


def test_samples_of_a_left_to_right_model_show_the_next_token(config):
    config.objective.name, config.model.attention = "ltr", "causal"
    objective, params, batch, tokenizer, mesh = made(config)
    samples = predicted_tokens(objective, params, batch, tokenizer, mesh)
    assert samples and all(set(sample) == {"text", "next", "predicted"} for sample in samples)


def test_samples_show_the_mask_its_token_and_the_likeliest(config):
    config.objective.next_sentence = False
    config.data.format = "doc_sentences"
    corpora = mixture.open_corpora(config)
    config.model.vocab_size = corpora[0].vocab_size
    mesh = sharding.make_mesh(config.mesh)
    model = model_lib.build(config.model, config.model.vocab_size, **objectives.heads(config.objective))
    learner = Learner.from_config(config, model, mesh, 1)
    tokenizer, batch = corpora[0].tokenizer, loader.eval_batches(config, 0)[0]
    samples = masked_tokens(learner.objective, learner.init_state()["params"], batch, tokenizer, mesh)
    assert 1 <= len(samples) <= 8
    words = {tokenizer.token(i) for i in range(tokenizer.vocab_size)}
    for sample in samples:
        assert sample["text"].count(f"»{tokenizer.token(tokenizer.mask_id)}«") == 1
        predicted = [part.rpartition(" ") for part in sample["predicted"].split(", ")]
        assert {sample["masked"], *(token for token, _, _ in predicted)} <= words
        scores = [float(score) for _, _, score in predicted]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert masked_tokens(learner.objective, {}, {"input_ids": batch["input_ids"]}, tokenizer, mesh) == []
