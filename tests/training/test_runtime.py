"""Compiled programs outlive the process, and where they are kept."""

import collections
import contextlib

import jax
import pytest

from bert_jax.errors import UserError
from bert_jax.training import pretraining, runtime


@contextlib.contextmanager
def events():
    """Counts jax's cache_hits and cache_misses."""
    seen = collections.Counter()

    def note(name, **_):
        if name.startswith("/jax/compilation_cache/cache_"):
            seen[name.rpartition("/")[2]] += 1

    jax.monitoring.register_event_listener(note)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(note)


@pytest.mark.full
def test_a_run_that_starts_again_compiles_nothing(config, tmp_path):
    config.train.update(num_steps=2, compilation_cache=str(tmp_path / "programs"))
    seen = []
    for name in ("one", "other"):
        jax.clear_caches()  # as a process that has just started
        with events() as counts:
            pretraining.pretrain(config, tmp_path / name)
        seen.append(counts)
    assert seen[0]["cache_misses"] and not seen[1]["cache_misses"]
    assert seen[1]["cache_hits"] >= seen[0]["cache_misses"]
    (folder,) = (tmp_path / "programs").iterdir()
    assert any(path.name.startswith("jit_train_step") for path in folder.iterdir())
    assert (tmp_path / "one" / "metrics.jsonl").exists()


def test_where_programs_are_kept(tmp_path, compiled):
    def now():
        return jax.config.jax_compilation_cache_dir

    with runtime.compilation_cache("auto", tmp_path):
        assert now() == str(compiled)  # the user's own
    with runtime.compilation_cache("", tmp_path):
        assert now() is None
        with runtime.compilation_cache("auto", tmp_path):
            assert now().startswith(str(tmp_path / "compiled"))
            jax.jit(lambda x: x * 3)(1.0)
        assert now() is None
    assert now() == str(compiled)
    assert [path.name for path in tmp_path.glob("compiled/*/jit*")]


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="config.train.compilation_cache: .*file/x cannot be written: Not a directory"),
        runtime.compilation_cache(str(tmp_path / "file" / "x"), tmp_path),
    ):
        pass
