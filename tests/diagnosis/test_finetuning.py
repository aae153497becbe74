"""Fine-tuning whose seeds fail."""

import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.finetuning import run as finetuning
from tests.diagnosis.conftest import chains, findings


@pytest.mark.full
def test_fine_tuning_at_a_rate_far_too_high(healthy, tmp_path):
    lines = ["text\tlabel", *(f"{text.splitlines()[0]}\t{i % 2}" for i, text in enumerate(chains(64)))]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    config = finetune_config.base()
    config.task.update(train=str(tmp_path / "train.tsv"), held_out=str(tmp_path / "train.tsv"), pooling="cls")
    config.update(init_from=str(healthy))
    config.data.update(batch_size=16, sequence_length=32)
    config.optimizer.update(learning_rate=1.0)
    config.train.update(num_epochs=2.0, log_every=1, progress=False, tensorboard=False)
    finetuning.finetune(config, tmp_path / "run")
    by_name, text = findings(tmp_path / "run")
    assert by_name["failed_seeds"].severity == "error" and "fine-tuning, step 8 of 8" in text
    assert "learning rate too high: 1, published ones are 1e-06 to 0.0036" in by_name["failed_seeds"].causes[0]
    assert by_name["rate_out_of_range"].severity == "note"
