"""Imports from the places that names had before the library was laid out anew keep working."""

import dataclasses
import importlib
import inspect
import pathlib
import pickle

import jax
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


# What has no successor: CHANGELOG.md says why.
NO_SUCCESSOR = {
    ("bert_jax.training.adaptation.Adaptation.before", "done"),
    ("bert_jax.training.evaluation.Evaluation.__init__", "eval_step"),
}
MEMBERS = pathlib.Path(__file__).with_name("public_members.txt").read_text().splitlines()


def modules_with_members():
    """Returns {old module: [(name below it, names of its arguments)]} of tests/public_members.txt."""
    names_by_module = {}
    for line in MEMBERS:
        module, member = line.split(" ", 1)
        name, _, arguments = member.removesuffix(")").partition("(")
        if module.removeprefix("bert_jax.") not in COMMANDS:
            names_by_module.setdefault(module, []).append((name, arguments.split(", ") if arguments else []))
    return names_by_module


OLD_MEMBERS = modules_with_members()


@pytest.mark.parametrize("module", sorted(OLD_MEMBERS))
def test_every_old_member_is_found_and_takes_its_old_keyword_arguments(module):
    missing = []
    for name, arguments in OLD_MEMBERS[module]:
        target = importlib.import_module(module)
        try:
            for part in name.split("."):
                is_field = part in getattr(target, "__annotations__", {})
                target = None if is_field else getattr(target, part)
        except AttributeError:
            missing.append(name)
            continue
        if arguments and not isinstance(target, property):
            today = inspect.signature(target).parameters
            renamed = getattr(target, "renamed_arguments", {})
            missing += [
                f"{name}({argument}=)"
                for argument in arguments
                if renamed.get(argument, argument) not in today and (f"{module}.{name}", argument) not in NO_SUCCESSOR
            ]
    assert not missing


@pytest.mark.parametrize(
    ("module", "name", "old"),
    [  # public since the layout anew, and renamed after it
        ("data.loader", "check_memory", {"ahead"}),
        ("data.tasks.label_forms", "check_separators", {"of_records"}),
        ("data.tasks.label_forms", "check_vectors", {"of_records"}),
        ("data.tasks.words", "cut", {"how"}),
        ("inference.search", "are_vectors", {"given"}),
        ("recipes", "description", {"name"}),
        ("runs.provenance", "read_provenance", {"asked"}),
        ("svg", "round_numbers", {"about", "whole"}),
    ],
)
def test_a_later_argument_keeps_its_old_name(module, name, old):
    function = getattr(importlib.import_module(f"bert_jax.{module}"), name)
    assert function.renamed_arguments.keys() == old
    assert set(function.renamed_arguments.values()) <= inspect.signature(function).parameters.keys()


def test_an_argument_is_accepted_under_its_old_name():
    def scale(value, *, factor=1):
        """Multiplies."""
        return value * factor

    accepting = _moved.renamed_arguments(what="value", times="factor")(scale)
    assert accepting(2, factor=3) == accepting(2, times=3) == accepting(what=2, times=3) == 6
    assert (accepting.__name__, accepting.__doc__) == ("scale", "Multiplies.")
    assert inspect.signature(accepting) == inspect.signature(scale)
    with pytest.raises(TypeError, match="'times' and 'factor'"):
        accepting(2, times=3, factor=3)
    with pytest.raises(TypeError, match="multiple values for argument 'value'"):
        accepting(2, what=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        accepting(2, other=2)


def test_fields_of_a_class_keep_their_old_names():
    from bert_jax.interop.formats import Difference
    from bert_jax.model.attention import Context

    difference = Difference("model.mlp", found="gated", said=None)
    assert (
        difference == Difference("model.mlp", value="gated", expressed=None) == pickle.loads(pickle.dumps(difference))
    )
    assert (difference.found, difference.said) == ("gated", None)
    with pytest.raises(TypeError, match="'found' and 'value'"):
        Difference("model.mlp", found="gated", value="gated", said=None)
    context = jax.tree.map(lambda leaf: leaf + 1, Context(visibility=1, distances=2))
    assert (context.mask, context.visibility, context.distances) == (2, 2, 3)
    assert dataclasses.replace(context, mask=5).visibility == 5


def test_an_encoder_takes_its_old_keyword_arguments():
    import numpy as np

    from bert_jax import model
    from bert_jax.model.encoder import Encoder
    from bert_jax.model.layers import Keys

    spec = model.Spec(vocab_size=20, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16, dtype="float32")
    encoder = Encoder(spec, rngs=Keys(jax.random.key(0)))
    ids = np.arange(8, dtype=np.int32).reshape(2, 4)
    batch = {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": 0 * ids + 1}
    hidden, _ = encoder(batch, None, every=True)
    assert hidden.shape == (3, 2, 4, 8)
