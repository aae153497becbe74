"""Windows of texts that are longer than the model."""

from bert_jax.inference import windows


def test_windows_cover_a_text_and_are_full():
    for length, room in [(1, 4), (4, 4), (5, 4), (100, 30), (31, 30), (7, 1)]:
        ids = list(range(length))
        parts = windows.overlapping_windows(ids, room)
        assert sorted(set().union(*parts)) == ids
        assert all(len(part) == min(room, length) for part in parts)
        assert all(list(part) == list(range(part[0], part[0] + len(part))) for part in parts)
        assert len(parts) <= max(1, -(-length * 4 // max(1, 3 * room)) + 1)


def test_a_prompt_begins_every_window(tokenizer):
    rows = windows.rows_of_text(tokenizer, list(range(10, 30)), 8, "windows", 2)
    assert all(list(row.ids[1:3]) == [10, 11] and len(row.ids) == 8 for row in rows)
    assert {i for row in rows for i in row.ids[3:-1]} == set(range(12, 30))
