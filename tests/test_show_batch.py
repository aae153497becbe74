"""The rows of a batch, decoded."""

from bert_jax import config as config_lib
from bert_jax import show_batch
from bert_jax.data import batch_at, mixture
from tests.training.conftest import make_corpus


def test_show_batch_shows_masks_labels_and_segments(tmp_path):
    config = config_lib.base()
    corpus = make_corpus(tmp_path / "corpus", documents=40)
    config.data.update(corpus=str(corpus), sequence_length=24, batch_size=4, mask_rate=0.5)
    batch = batch_at(config, 0)
    tokenizer = mixture.open_corpora(config)[0].tokenizer
    shown = [show_batch.show(batch, row, tokenizer) for row in range(4)]
    for row, text in enumerate(shown):
        assert text.count("{") == int(batch["masked_weights"][row].sum())
        assert "\n  A  [CLS] " in text and "\n  B  " in text
        assert ("B follows A" in text) == (batch["next_sentence_label"][row] == 0)
    assert any("{[MASK]=" in text for text in shown)
