"""Samples of predictions are those of the model for masks of held-out text."""

from bert_jax import model as model_lib
from bert_jax import objectives, sharding
from bert_jax.data import loader, mixture
from bert_jax.training.samples import masked_tokens
from bert_jax.training.step import Learner


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
