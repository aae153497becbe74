"""Imports from the places that names had before the library was laid out anew keep working."""

import importlib
import pathlib

import pytest

from bert_jax import _moved

NAMES = pathlib.Path(__file__).with_name("public_names.txt").read_text().split()  # module.name, as they were
COMMANDS = {"convert", "doctor", "evaluate", "finetune", "plan", "predict", "prepare", "pretrain", "show_batch"}


MODULES = {name.rpartition(".")[0] for name in NAMES}


# Without the commands: their flags can be defined once in a process.
@pytest.mark.parametrize("module", sorted(MODULES - {f"bert_jax.{name}" for name in COMMANDS}))
def test_every_public_name_is_found_in_its_old_place(module):
    there = importlib.import_module(module)
    missing = [
        name for name in NAMES if name.rpartition(".")[0] == module and not hasattr(there, name.rpartition(".")[2])
    ]
    assert not missing


def test_an_unknown_name_of_a_moved_module_is_an_attribute_error():
    from bert_jax import distributed

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        distributed.nothing  # noqa: B018


def test_every_entry_leads_somewhere():
    for module, homes in _moved.MODULES.items():
        for home in homes:
            assert importlib.import_module(f"bert_jax.{home}"), module
    for name in _moved.NAMES:
        assert _moved.find(*name.rsplit(".", 1)) is not None


@pytest.mark.parametrize(
    ("module", "name", "old", "today"),
    [
        ("model.kernels", "Visibility", "reach", "window"),
        ("model.kernels", "Visibility", "within", "with_window"),
        ("model.kernels", "Visibility", "mask", "to_array"),
        ("data.rows", "Ragged", "every", "strided"),
        ("data.packs", "Packs", "of", "members_of"),
        ("data.tokenizers", "Frame", "of", "from_pipeline"),
        ("distributed", "Notice", "give", "request_stop"),
        ("training.checkpoint", "Checkpoints", "settle", "finish_save"),
        ("training.outcomes", "Outcomes", "note", "record_evaluation"),
        ("training.timing", "Clock", "turn_to", "start"),
    ],
)
def test_a_renamed_method_keeps_its_old_name(module, name, old, today):
    cls = getattr(importlib.import_module(f"bert_jax.{module}"), name)
    assert hasattr(cls, old)
    assert old == "reach" or getattr(cls, old) == getattr(cls, today)
