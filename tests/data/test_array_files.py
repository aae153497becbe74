"""Tests that damaged index files are noticed and built again."""

import numpy as np
import pytest

from bert_jax.data import array_files, instances
from bert_jax.data.corpus import Corpus
from bert_jax.data.instances import Recipe


def test_what_was_put_is_opened(tmp_path):
    array = np.arange(1000)
    np.save(tmp_path / "part.npy", array)
    array_files.put(tmp_path / "part.npy", tmp_path / "whole.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.crc32", "whole.npy"]
    assert array_files.open_array(tmp_path / "whole.npy").tobytes() == array.tobytes()
    (tmp_path / "whole.crc32").unlink()  # an earlier version wrote none
    assert array_files.open_array(tmp_path / "whole.npy") is not None
    assert array_files.open_array(tmp_path / "part.npy") is None


@pytest.mark.parametrize("format", ["segment_pair", "doc_sentences"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_an_index_with_a_changed_bit_is_built_again(make_corpus, format, place):
    sentences = [f"word {'and ' * (i % 7)}more {i} . \n" + "\n" * (i % 4 == 0) for i in range(400)]
    corpus = Corpus.open(make_corpus("".join(sentences), name=f"{format}-{place}"))
    recipe = Recipe(format, 32, seed=1)
    before = np.array(instances.open_index(corpus, "train", recipe))
    (path,) = (corpus.path / "index").glob("*.npy")
    damaged = bytearray(path.read_bytes())
    damaged[128 + int(place * (len(damaged) - 128))] ^= 1
    path.write_bytes(damaged)
    assert instances.cached_index(corpus, "train", recipe) is None
    assert instances.open_index(corpus, "train", recipe).tobytes() == before.tobytes()
    assert path.read_bytes() != damaged
