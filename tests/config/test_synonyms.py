"""Names of other libraries: they lead to keys that exist, of the kind of run that is asked."""

import pytest

from bert_jax.config import synonyms
from bert_jax.config.keys import FINETUNING, PRETRAINING
from bert_jax.config.schema import check_name
from bert_jax.errors import UserError


def test_the_table_names_keys_that_exist_by_names_that_do_not():
    own = {name.rpartition(".")[2] for name in PRETRAINING} & {name.rpartition(".")[2] for name in FINETUNING}
    for name, keys in synonyms._KEYS.items():
        assert name not in own, name
        assert all(key in PRETRAINING or key in FINETUNING for key in keys), name


@pytest.mark.parametrize(
    ("name", "pretraining", "finetuning"),
    [
        ("lr", "optimizer.learning_rate", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate", "optimizer.learning_rate"),
        ("wd", "optimizer.weight_decay", "optimizer.weight_decay"),
        ("bs", "data.batch_size", "data.batch_size"),
        ("data.seq_len", "data.sequence_length", "data.sequence_length"),
        ("max_length", "data.sequence_length", "data.sequence_length"),
        ("epochs", "train.num_steps", "train.num_epochs"),
        ("num_train_epochs", "train.num_steps", "train.num_epochs"),
        ("steps", "train.num_steps", "train.num_steps"),
        ("warmup_ratio", "optimizer.warmup_steps", "optimizer.warmup_share"),
        ("gradient_accumulation_steps", "train.microbatches", "train.microbatches"),
        ("model_name_or_path", "init_from", "init_from"),
        ("mlm_probability", "data.mask_rate", ""),
        ("nonsense", "", ""),
    ],
)
def test_a_name_of_another_library_is_told_by_the_key_here(name, pretraining, finetuning):
    for keys, meant in ((PRETRAINING, pretraining), (FINETUNING, finetuning)):
        assert synonyms.key_of(name, keys) == meant
        with pytest.raises(UserError, match=f"config.{name}: unknown key") as error:
            check_name(name, keys)
        assert not meant or str(error.value).endswith(f"; did you mean {meant}?")


def test_a_flag_is_told_by_what_the_command_has():
    assert synonyms.flag_of("workdir", ("model", "output")) == "model"
    assert synonyms.flag_of("output_dir", ("model", "output")) == "output"
    assert synonyms.flag_of("output_dir", ("config", "workdir")) == "workdir"
    assert synonyms.flag_of("workdir", ("input",)) == synonyms.flag_of("nonsense", ("model",)) == ""
