"""Tests checkpoints on real disks: which are kept, what restoring returns, and what a damaged or full disk costs."""

import functools
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import storage
from bert_jax.errors import UserError
from bert_jax.runs import checkpoints, models, workdir


def make_state(step, size=40):
    """Returns a state whose numbers all depend on its step."""
    layers = {"0": {"kernel": jnp.full((size, size), float(step))}, "1": {"bias": jnp.full((3,), step + 0.5)}}
    moments = jax.tree.map(lambda leaf: leaf + 0.25, layers)
    opt_state = ({"count": jnp.int32(step), "mu": moments}, ())
    return {"params": {"layers": layers}, "opt_state": opt_state, "bad_step": jnp.int32(-1)}


def make_config(**train):
    config = config_lib.base()
    config.model.vocab_size = 100
    config.train.update(train)
    return config


def write_run(path, config):
    """Makes a workdir as `workdir.write_pretraining` does, without a corpus."""
    path.mkdir(parents=True, exist_ok=True)
    storage.write_json(path / "run.json", {"format_version": workdir.FORMAT_VERSION, "corpora": []})
    storage.write_json(path / "config.json", config.to_dict())


def save_steps(path, steps, config=None, say=print, metrics=None):
    saver = checkpoints.Checkpoints(path, config or make_config(), say)
    for step in steps:
        loss = (metrics or {}).get(step)
        saver.save(step, make_state(step), loss and {checkpoints.METRIC: loss})
    saver.close()
    return checkpoints.saved_steps(path / "checkpoints")


def restored(path, say=print):
    state, step = checkpoints.Checkpoints(path, make_config(), say).restore(make_state(0))
    for name in ("params", "opt_state"):
        expected = make_state(step)[name]
        assert jax.tree.structure(state[name]) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, state[name], expected)
    return step


def test_what_is_kept(tmp_path):
    config = make_config(keep_newest=2, keep_best=1, keep_every=40, checkpoint_every=10)
    losses = {10: 3.0, 20: 1.0, 30: 2.0, 50: 5.0, 60: float("nan")}
    kept = save_steps(tmp_path, range(10, 110, 10), config, metrics=losses)
    assert kept == [20, 40, 80, 90, 100]  # the best; every 40th; the newest two


def test_a_checkpoint_is_judged_by_the_metric_of_its_objective():
    assert checkpoints.selection_loss({"eval/mlm_loss": 2.0, "eval/rtd_loss": 0.3}, "eval/rtd_loss") == 0.3
    assert checkpoints.selection_loss({"eval/mlm_loss": 2.0}) == 2.0 and np.isnan(checkpoints.selection_loss({}))


def test_best_is_known_after_a_restart(tmp_path):
    config = make_config(keep_newest=1, keep_best=1)
    save_steps(tmp_path, [10, 20], config, metrics={10: 1.0, 20: 2.0})
    assert save_steps(tmp_path, [30, 40], config, metrics={30: 1.5}) == [10, 40]


def test_state_may_be_donated_once_save_returns(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state):
        return jax.tree.map(lambda leaf: leaf + leaf.dtype.type(1), state)

    saver = checkpoints.Checkpoints(tmp_path, make_config(keep_newest=9))
    state = make_state(0, size=1000)
    for step in range(1, 31):
        state = advance(state)
        if step % 10 == 0:
            saver.save(step, state)
    saver.close()
    for step in (10, 20, 30):
        write_run(tmp_path, make_config())
        params = checkpoints.load_params(tmp_path, step)[0]
        assert np.unique(params["layers"]["0"]["kernel"]) == [step]


def test_load(tmp_path):
    config = make_config(keep_newest=5)
    config.data.weights = (1.0, 2.0)
    write_run(tmp_path, config)
    with pytest.raises(UserError, match="no checkpoint yet"):
        checkpoints.load_params(tmp_path)
    save_steps(tmp_path, [10, 20, 30], config, metrics={10: 3.0, 20: 1.0, 30: 2.0})
    for wanted, expected in ((None, 30), ("best", 20), (10, 10)):
        params, loaded, step = checkpoints.load_params(tmp_path, wanted)
        assert step == expected and loaded == config
        jax.tree.map(np.testing.assert_array_equal, params, make_state(expected)["params"])
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    with pytest.raises(UserError, match="no checkpoint of step 40; expected one of 10, 20, 30"):
        checkpoints.load_params(tmp_path, 40)


def test_load_outside_a_run(tmp_path):
    with pytest.raises(UserError, match="not the workdir of a run"):
        checkpoints.load_params(tmp_path)


def test_a_workdir_that_lost_its_description(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="it has checkpoints/, but no run.json; expected both"):
        models.open_model(tmp_path)


def test_restore_lays_the_state_out_anew(tmp_path):
    mesh = jax.make_mesh((1,), ("data",))
    save_steps(tmp_path, [10])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), make_state(0))
    state, _ = checkpoints.Checkpoints(tmp_path, make_config()).restore(template)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(state))


DAMAGES = {
    "a data file cut": lambda path: cut(largest(path / "params")),
    "a data file emptied": lambda path: largest(path / "opt_state").write_bytes(b""),
    "a data file gone": lambda path: largest(path / "opt_state").unlink(),
    "a flipped bit": lambda path: flip(largest(path / "params")),
    "an index gone": lambda path: (path / "params" / "manifest.ocdbt").unlink(),
    "the optimizer gone": lambda path: shutil.rmtree(path / "opt_state"),
    "the manifest gone": lambda path: (path / "manifest.json").unlink(),
    "the manifest cut": lambda path: cut(path / "manifest.json"),
    "the metrics cut": lambda path: cut(path / "metrics" / "metrics"),
    "everything gone": lambda path: [shutil.rmtree(path), path.mkdir()],
}


def largest(path):
    return max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back(tmp_path, damage):
    save_steps(tmp_path, [10, 20, 30], metrics={10: 1.0, 20: 1.0, 30: 1.0})
    directory = tmp_path / "checkpoints"
    DAMAGES[damage](directory / "30")
    left = sorted(path.relative_to(directory / "30") for path in (directory / "30").rglob("*"))
    said = []
    assert restored(tmp_path, said.append) == 20
    assert len(said) == 1 and "step 30 is damaged" in said[0] and "corrupt-30" in said[0]
    aside = directory / "corrupt-30"
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == left  # nothing is deleted
    assert save_steps(tmp_path, [30, 40]) == [20, 30, 40]  # and the run goes on
    assert aside.exists()


def test_damage_twice_and_everywhere(tmp_path):
    save_steps(tmp_path, [10, 20])
    directory = tmp_path / "checkpoints"
    cut(largest(directory / "20"))
    assert restored(tmp_path) == 10
    save_steps(tmp_path, [20])
    cut(largest(directory / "20"))
    assert restored(tmp_path) == 10
    assert (directory / "corrupt-20").exists() and (directory / "corrupt-20-2").exists()
    cut(largest(directory / "10"))
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        restored(tmp_path)
    assert (directory / "10").exists()


def test_half_written_directory_is_not_a_checkpoint(tmp_path):
    save_steps(tmp_path, [10])
    shutil.copytree(tmp_path / "checkpoints" / "10", tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp")
    assert restored(tmp_path) == 10


def test_load_refuses_damage(tmp_path):
    write_run(tmp_path, make_config())
    save_steps(tmp_path, [10, 20])
    cut(largest(tmp_path / "checkpoints" / "20" / "params"))
    with pytest.raises(UserError, match=r"20: damaged \(params/.* bytes, expected"):
        checkpoints.load_params(tmp_path)
    assert checkpoints.load_params(tmp_path, 10)[2] == 10


def test_full_disk_costs_no_checkpoint(small_disk):
    said = []
    config = make_config(keep_newest=1)
    rng = np.random.default_rng(0)

    def noise(step):  # that compression does not shrink
        kernel = jnp.asarray(rng.standard_normal(150_000), jnp.float32) + step
        return {"params": {"kernel": kernel}, "opt_state": {"count": jnp.int32(step)}}

    saver = checkpoints.Checkpoints(small_disk, config, said.append)
    first = noise(10)
    saver.save(10, first)
    saver.finish_save()
    assert said == []
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 300_000))
    saver.save(20, noise(20))
    saver.finish_save()
    assert said == [
        "warning: saving the checkpoint of step 20 failed: No space left on device; the last good one is step 10"
    ]
    assert [path.name for path in pathlib.Path(small_disk / "checkpoints").iterdir()] == ["10"]
    state, step = checkpoints.Checkpoints(small_disk, config).restore(first)
    assert step == 10
    np.testing.assert_array_equal(state["params"]["kernel"], first["params"]["kernel"])
    filler.unlink()
    saver.save(30, noise(30))
    saver.close()
    assert len(said) == 1 and checkpoints.saved_steps(small_disk / "checkpoints") == [30]
