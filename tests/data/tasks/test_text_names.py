"""Names of columns of texts in well-known data, however they are written."""

import pytest

from bert_jax.data.tasks import text_names


@pytest.mark.parametrize(
    ("names", "read", "unread"),
    [
        (("id", "text", "text_pair", "label", "score"), ("text",), ["text_pair"]),
        (("Sentence1", "Sentence 2", "idx"), ("Sentence1",), ["Sentence 2"]),
        (("premise", "hypothesis"), ("hypothesis",), ["premise"]),
        (("question", "context", 3), (), ["question", "context"]),
        (("id", "title", "sent", "answer", "tokens", "url", "doc_id"), (), []),
    ],
)  # fmt: skip
def test_unread_texts(names, read, unread):
    assert text_names.unread_texts(names, read) == unread


def test_second_texts_and_identifiers():
    assert all(map(text_names.is_second, ("text_b", "textPair", "hypothesis", "q2", "second sentence", "question2")))
    assert not any(map(text_names.is_second, ("text", "premise", "context", "text_a", "pairs")))
    assert all(map(text_names.is_identifier, ("D12", "a/b.txt", "q-7", "2026-01-02")))
    assert not any(map(text_names.is_identifier, ("cat", "two words", "é1 x")))


def test_a_note_names_the_key_that_reads_a_column():
    rows = [{"id": 1, "sentence2": None}, {"id": 2, "sentence2": "a b"}]
    (line,) = text_names.unread_note(rows, ("sentence1",), "text_pair")
    assert line == "the data has a column 'sentence2', which is not read: config.task.text_pair=sentence2 reads it"
    (line,) = text_names.unread_note([{"hard_negatives": ["a", "b"]}], (), "negatives")
    assert line.endswith("config.task.negatives=hard_negatives reads it")
    for others in ([], [{"document": "D12", "title": "t u"}], [{"sentence2": ""}]):
        assert text_names.unread_note(others, ("text",), "text_pair") == []
    assert text_names.unread_note([{"negative_score": 0.3, "negated": "x"}], (), "negatives") == []
