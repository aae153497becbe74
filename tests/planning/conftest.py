"""Provides the planning tests with a tiny recipe, and with libtpu where it is installed."""

import importlib.util
import platform
import sys

import pytest

from bert_jax import config as config_lib
from bert_jax.planning import chips, compilation, devices


def tiny(**data):
    config = config_lib.base()
    config.model.update(hidden_size=128, num_layers=1, num_heads=2, intermediate_size=128, vocab_size=128)
    config.model.update(max_positions=128, hidden_dropout=0.0, attention_dropout=0.0)
    config.data.update(sequence_length=128, batch_size=256, max_predictions=8, **data)
    config.train.num_steps = 1000
    return config


@pytest.fixture
def config():
    return tiny()


@pytest.fixture(scope="session")
def libtpu():
    """Prepares the compiler for TPUs; skips the test where libtpu is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        if not (sys.platform == "linux" and platform.machine() == "x86_64"):
            pytest.skip("this machine: there is no libtpu for it, so nothing compiles for TPUs")
        pytest.skip("libtpu is not installed (pip install 'bert_jax[plan]'), so nothing compiles for TPUs")
    devices.prepare_environment()


@pytest.fixture(scope="session")
def compiled(libtpu):
    """(config, step, the compiler's executable) of the tiny recipe with XLA's attention, for four v5e chips."""
    config = tiny()
    config.model.attention_kernel = "xla"
    (phase,) = config_lib.phases(config)
    lowered = compilation.lower_phase(config, chips.parse("v5e:2x2"), phase)
    executable = lowered.step.compile()
    return config, compilation.read(executable, lowered), executable
