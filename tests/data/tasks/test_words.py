"""Windows of words hold every word, and label each from the window with the most context."""

import numpy as np

from bert_jax.data.tasks import words


def test_windows_hold_every_word_once_with_context():
    rng = np.random.default_rng(0)
    for _ in range(300):
        room = int(rng.integers(1, 20))
        counts = rng.integers(0, max(1, room // 4) + 1, int(rng.integers(0, 60))).tolist()
        windows = words.windows(counts, room)
        assert all(sum(counts[window.start : window.stop]) <= room for window in windows)
        assert all(w.start <= w.own_start <= w.own_stop <= w.stop for w in windows)
        assert [i for w in windows for i in range(w.own_start, w.own_stop)] == list(range(len(counts)))
    assert words.windows([1] * 20, 8) == [(0, 8, 0, 7), (6, 14, 7, 13), (12, 20, 13, 20)]
    assert words.merge(words.windows([1] * 20, 8), [range(0, 8), range(6, 14), range(12, 20)]) == list(range(20))
