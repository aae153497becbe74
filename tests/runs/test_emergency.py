"""Copies of a state on a local disk are exact, of this run and mesh alone, and a run goes on from them."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax import sharding
from bert_jax.errors import UserError
from bert_jax.runs import checkpoints
from bert_jax.runs.emergency import EmergencyCopy
from bert_jax.training import pretraining
from tests.commands import logged_rows
from tests.training.conftest import make_config, make_corpus


def make_state(axes, value=0.5):
    """Returns arrays in parts, whole on every device, a scalar, and one of two bytes a number."""
    mesh = sharding.make_mesh(axes)
    kernel = jnp.arange(64.0).reshape(8, 8) + value
    divided, whole = NamedSharding(mesh, PartitionSpec("fsdp", "tensor")), NamedSharding(mesh, PartitionSpec())
    params = {"kernel": jax.device_put(kernel, divided), "low": jax.device_put(kernel.astype(jnp.bfloat16), divided)}
    return {"params": params, "opt_state": ({"count": jax.device_put(jnp.int32(7), whole)}, (), jnp.ones(0))}


MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def test_a_copy_is_exact(tmp_path):
    state, said = make_state(MESH), []
    copy = EmergencyCopy(str(tmp_path / "local"), tmp_path / "run", said.append)
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    (tmp_path / "run").mkdir()
    assert copy.load(template, 0) is None
    copy.save(9, make_state(MESH, 1.5), {"score": 0.25})
    copy.save(10, state, {"score": 0.5})
    restored, step, record = copy.load(template, 8)
    assert (step, record, said) == (10, {"score": 0.5}, [])
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for leaf, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert leaf.dtype == expected.dtype and leaf.sharding == expected.sharding
        np.testing.assert_array_equal(leaf, expected)

    assert copy.load(template, 10) is None and not said  # the checkpoint is as new
    other = make_state({"data": 1, "fsdp": 8, "tensor": 1})
    assert copy.load(other, 8) is None and "of another mesh; goes on from the checkpoint of step 8" in said.pop()
    (data,) = tmp_path.glob("local/*/process-0.bin")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert copy.load(template, 8) is None and "step 10 is damaged" in said.pop()
    copy.save(10, state, None)
    (tmp_path / "run" / "emergency.json").write_text(json.dumps({"run": "another"}))
    assert copy.load(template, 8) is None and not said  # of another run in a workdir of this name
    copy.remove()
    assert not list(tmp_path.glob("local/*"))


def test_a_copy_that_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "local").write_text("in the way")
    said = []
    EmergencyCopy(str(tmp_path / "local"), tmp_path, said.append).save(3, make_state(MESH), None)
    assert len(said) == 1 and "no copy of step 3" in said[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("text") / "made")


@pytest.mark.more
@pytest.mark.parametrize("optimizer_state", ["whole", "split"])
def test_a_run_goes_on_from_a_copy(corpus, tmp_path, monkeypatch, capfd, optimizer_state):
    """Stopped by a signal, with a checkpoint that fails: the same rows as those of a run that was never stopped."""
    config = make_config(corpus)
    config.mesh.optimizer_state = optimizer_state
    config.train.update(num_steps=9, eval_every=0, tensorboard=False, progress=False, report=False)
    pretraining.pretrain(config, tmp_path / "whole")

    config.train.emergency_dir = str(tmp_path / "local")
    enter, save = pretraining._Pretraining.enter, checkpoints.Checkpoints._open

    def stopped(self, index):
        if index == 5:
            signal.raise_signal(signal.SIGTERM)
        enter(self, index)

    def fails(self):
        if self._hurries:
            raise OSError("storage is gone")
        return save(self)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining._Pretraining, "enter", stopped)
        patch.setattr(checkpoints.Checkpoints, "_open", fails)
        with pytest.raises(UserError, match="the checkpoint of step 6 could not be saved"):
            pretraining.pretrain(config, tmp_path / "run")
    assert checkpoints.saved_steps(tmp_path / "run" / "checkpoints") == [4]
    assert len(list(tmp_path.glob("local/*/process-0.*"))) == 2
    pretraining.pretrain(config, tmp_path / "run")
    out = capfd.readouterr().out
    assert "goes on from the copy of step 6" in out and "; step 6 of 9" in out
    assert checkpoints.saved_steps(tmp_path / "run" / "checkpoints") == [6, 8, 9]
    assert logged_rows(tmp_path / "run") == logged_rows(tmp_path / "whole")
    assert not list(tmp_path.glob("local/*"))


def test_a_folder_far_away_is_refused(corpus, tmp_path):
    config = make_config(corpus)
    config.train.emergency_dir = "gs://bucket/copies"
    with pytest.raises(UserError, match="config.train.emergency_dir: found gs://bucket/copies; expected a directory"):
        pretraining.pretrain(config, tmp_path / "run")
