"""Tests what the compiler sends between a mesh's devices: parameters and sums, no whole activations."""

import re

import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.training import step as step_lib

ROWS, LENGTH, SLOTS, LAYERS = 32, 24, 5, 2
GATHERS = re.compile(r"= ([^=]*?) (?:all-gather|all-to-all)(?:-start)?\(")


@pytest.fixture
def compiled(capfd):
    """Returns a function from mesh sizes and vocabulary to a training step's program and the compiler's warnings."""

    def compile(sizes, vocab_size, scan_layers):
        config = config_lib.base()
        config.model.update(hidden_size=48, num_layers=LAYERS, num_heads=8, intermediate_size=160, max_positions=40)
        config.model.scan_layers = scan_layers
        mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)))
        model = model_lib.build(config.model, vocab_size)
        whole, slots = np.zeros((ROWS, LENGTH), np.int32), np.zeros((ROWS, SLOTS), np.int32)
        batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), whole)
        batch |= dict.fromkeys(("masked_positions", "masked_labels"), slots)
        batch |= {"masked_weights": slots.astype(np.float32), "next_sentence_label": np.zeros(ROWS, np.int32)}
        state = step_lib.abstract_state(config, model, mesh, 10)
        train_step = step_lib.make_train_step(config, model, mesh, 10)
        lowered = train_step.lower(state, batch, np.int32(0), step_lib.dropout_key(config))
        capfd.readouterr()
        program = lowered.compile().as_text()
        return program, capfd.readouterr().err

    return compile


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("sizes", "vocab_size", "scan_layers"),
    [
        ((1, 8, 1), 112, True),
        ((2, 2, 2), 113, False),
        pytest.param((1, 1, 8), 112, True, marks=pytest.mark.full),
    ],
)
def test_no_activation_is_gathered_and_no_stack_of_parameters(compiled, sizes, vocab_size, scan_layers):
    program, warnings = compiled(sizes, vocab_size, scan_layers)
    assert "Involuntary full rematerialization" not in warnings
    moved = [
        tuple(map(int, shape.split(",")))
        for line in GATHERS.findall(program)
        for shape in re.findall(r"\[([\d,]+)\]", line)
    ]
    assert moved or sizes == (1, 1, 8)
    rows = {ROWS // sizes[0] // parts for parts in (1, sizes[1])} | {ROWS}
    for shape in moved:
        assert not (len(shape) > 2 and rows & set(shape) and {LENGTH, SLOTS} & set(shape)), shape
        assert len(shape) < 3 or shape[0] != LAYERS, shape
    if sizes[1] > 1:  # a layer's kernels, whole but for the tensor axis, when they are needed
        assert (48, 160 // sizes[2]) in moved
