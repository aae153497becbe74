"""The table of keys: complete, consistent, and the only place that states a key's properties."""

import dataclasses
import re
import typing

import pytest

from bert_jax import config as config_lib
from bert_jax.config import finetuning, finetuning_keys, keys, mesh, recipes
from bert_jax.config.objective import OBJECTIVES
from bert_jax.data import tasks
from bert_jax.errors import UserError
from bert_jax.finetuning import vector_losses
from bert_jax.interop.families.family import ACTIVATIONS as NAMES_IN_TRANSFORMERS
from bert_jax.interop.families.family import TASKS as TASKS_IN_TRANSFORMERS
from bert_jax.model.attention import BY_UNITS
from bert_jax.model.kernels import FUSED
from bert_jax.model.layers import ACTIVATIONS, INITIALIZERS
from bert_jax.model.pooling import POOLING
from bert_jax.model.spec import Spec, make_spec
from bert_jax.model.stack import REMAT
from bert_jax.objectives import reranking

TABLES = {"pre-training": keys.PRETRAINING, "fine-tuning": keys.FINETUNING}
ENTRIES = [(table, name) for table, entries in TABLES.items() for name in entries]


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_every_entry_is_consistent(table, name):
    key = TABLES[table][name]
    assert key.doc.endswith(".") and key.doc[0].isupper() or key.doc.startswith(('"', "rtd:", "trapezoidal:"))
    key.check(f"config.{name}", key.default)  # a default that the key itself would refuse
    if key.falls_back_to:
        assert key.falls_back_to in TABLES[table]
        assert TABLES[table][key.falls_back_to].type is key.type
    if key.choices:
        assert key.type is str and len(set(key.choices)) == len(key.choices)
    assert not key.in_phases or table == "pre-training"


def test_the_tables_are_the_configs():
    assert recipes.flat(config_lib.base()).keys() == keys.PRETRAINING.keys()
    config = finetuning.base()
    assert not len(config.search)
    assert recipes.flat(config).keys() == keys.FINETUNING.keys()


def test_a_key_of_both_tables_has_the_same_role_and_may_change_in_both():
    for name in keys.PRETRAINING.keys() & keys.FINETUNING.keys():
        ours, theirs = keys.PRETRAINING[name], keys.FINETUNING[name]
        assert (ours.role, ours.resumable, ours.is_path, ours.choices) == (
            theirs.role,
            theirs.resumable,
            theirs.is_path,
            # Fine-tuning may have one more, the empty one that stands for init_from's.
            tuple(choice for choice in theirs.choices if choice or not theirs.empty or "" in ours.choices),
        ), name


def test_choices_are_what_is_implemented():
    assert set(keys.ACTIVATIONS) == set(ACTIVATIONS) == set(NAMES_IN_TRANSFORMERS)
    assert set(keys.MODEL["remat"].choices) == set(REMAT)
    assert set(keys.MODEL["initializer"].choices) == set(INITIALIZERS)
    assert set(keys.MODEL["attention_kernel"].choices) == {"auto", "xla", *BY_UNITS, *FUSED}
    assert keys.PRETRAINING["objective.name"].choices == tuple(OBJECTIVES)
    axes = [name.partition(".")[2] for name in keys.PRETRAINING if name.startswith("mesh.")]
    assert axes == [*mesh.AXES, "across_slices", "optimizer_state"]
    assert keys.PRETRAINING["mesh.optimizer_state"].choices == mesh.OPTIMIZER_STATE


def test_losses_and_pooling_are_what_is_implemented():
    assert {*vector_losses.PAIR_SUMS, "info_nce", "softmax", "mse", "denoising"} == set(finetuning_keys.VECTOR_LOSSES)
    assert set(reranking.LOSSES) == {*finetuning_keys.PAIR_LOSSES, *finetuning_keys.LIST_LOSSES}
    choices = {"auto", *finetuning_keys.VECTOR_LOSSES, *finetuning_keys.PAIR_LOSSES, *finetuning_keys.LIST_LOSSES}
    assert set(keys.FINETUNING["loss.name"].choices) == choices
    of_heads = {"auto", "pooler", "dense"}
    others = {*finetuning_keys.SPARSE_POOLING, finetuning_keys.LATE_POOLING}
    assert set(keys.FINETUNING["task.pooling"].choices) == {*of_heads, *POOLING, *others}


def test_tasks_are_what_is_implemented():
    assert keys.FINETUNING["task.name"].choices == keys.TASKS == tuple(tasks.task_classes())
    assert keys.FINETUNING["task.problem"].choices == keys.PROBLEMS
    with_class = {"sequence_classification", "token_classification", "question_answering"}
    assert set(TASKS_IN_TRANSFORMERS.values()) == with_class < set(keys.TASKS)


def test_a_meaning_is_one_sentence():
    for name, key in (*keys.PRETRAINING.items(), *keys.FINETUNING.items()):
        assert not re.search(r'[.!?]"? +["A-Z]', re.sub(r"et al\.", "et al", key.doc)), name
        if not key.empty:  # `empty` says what 0 stands for
            assert not re.search(r"(^|[;,(] ?)0[ :]", key.doc), name


def test_a_spec_has_the_defaults_of_the_table():
    fields = {field.name: field.default for field in dataclasses.fields(Spec)}
    assert {name: fields[name] for name in keys.MODEL} == {name: key.default for name, key in keys.MODEL.items()}
    assert fields.keys() - keys.MODEL.keys() == {
        "platform", "next_sentence", "sentence_order", "language_model", "replaced_tokens", "task",
    }  # fmt: skip


def test_a_spec_has_the_types_of_the_table():
    types = typing.get_type_hints(Spec)
    assert {name: types[name] for name in keys.MODEL} == {name: key.type for name, key in keys.MODEL.items()}


def test_an_empty_value_stands_for_that_of_another_key():
    model = config_lib.base().model
    model.update({"hidden_size": 96, "num_heads": 6, "max_positions": 40, "rotary_base": 500.0, "activation": "relu"})
    spec = make_spec(model, 50, next_sentence=False)
    assert (spec.embedding_size, spec.num_kv_heads, spec.relative_span) == (96, 6, 40)
    assert (spec.local_rotary_base, spec.head_activation, spec.head_size) == (500.0, "relu", 16)


def bounds_of(key):
    """Yields (value, whether it is good) around each bound of a number."""
    step = 1 if key.type is int else 1e-6
    low = 0 if key.at_least is None else key.at_least
    yield (key.above, False) if key.above is not None else (low, True)
    if key.above is None:
        yield low - step, low - step == key.empty_value
    if key.below is not None:
        yield key.below, False
    elif key.at_most is not None:
        yield key.at_most, True
        yield key.at_most + step, False
    elif key.type is int:
        yield 2**31 - 1, True
        yield 2**31, False


def has_bounds(key):
    return key.is_number and key.at_most != 2**63 - 1  # the seed: as large as numpy's integers


@pytest.mark.parametrize(("table", "name"), [(t, n) for t, n in ENTRIES if has_bounds(TABLES[t][n])])
def test_numbers_are_checked_at_their_bounds(table, name):
    key = TABLES[table][name]
    for value, good in bounds_of(key):
        value = key.type(value) if key.type is int else value
        if good or value == key.empty_value:
            key.check(f"config.{name}", value)
        else:
            with pytest.raises(UserError, match=rf"config\.{name}: found .*; expected (a|at most)"):
                key.check(f"config.{name}", value)
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"config\.{name}: found"):
            key.check(f"config.{name}", value)
    with pytest.raises(UserError, match=rf"config\.{name}: found True \(bool\)"):
        key.check(f"config.{name}", True)


def test_what_is_derived():
    assert "data.prefetch" in keys.RESUMABLE and "model.hidden_size" not in keys.RESUMABLE
    assert {
        "data.corpus", "data.old_corpus", "distillation.teacher", "task.data_dir", "train.compilation_cache",
    } == keys.PATHS  # fmt: skip
    assert set(keys.NOT_IN_PHASES) == {"phases", "corpus", "old_corpus", "workers", "prefetch"}
    assert keys.DEVICE_DEFAULTS == {"attention_kernel": "auto", "remat": "none"}
    assert keys.NOT_IN_FORMATS < keys.NOT_ARCHITECTURE < set(keys.MODEL)


def test_help_tells_every_key_once():
    lines = config_lib.help_keys(config_lib.base())
    told = [line.removeprefix("config.").partition(" = ")[0] for line in lines if not line.startswith(" ")]
    assert told == list(keys.PRETRAINING)
    assert all(line.startswith(("config.", "    ")) for line in lines)


def test_help_of_a_group_shows_what_the_recipe_changed():
    config = config_lib.load_recipe("bert_large")
    text = "\n".join(config_lib.help_keys(config, "config.model.hid"))
    assert text.startswith("config.model.hidden_size = 1024  (default 768)")
    assert "config.model.hidden_dropout" in text and "num_layers" not in text
    text = "\n".join(config_lib.help_keys(config, "data.masking"))
    assert "One of dynamic, static." in text and "May change in a phase." in text


def test_help_of_fine_tuning_has_its_own_keys():
    lines = config_lib.help_keys(config_lib.load_recipe("finetune/sst2"), "tuning.")
    assert lines[0].startswith("config.tuning.freeze")


def test_help_of_no_key():
    with pytest.raises(UserError, match=r"--help-keys=modle: no key begins so.*expected the beginning of a key"):
        config_lib.help_keys(config_lib.base(), "modle")
