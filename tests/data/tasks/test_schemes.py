"""Tagging schemes are detected, and converted to BIO or BIOES."""

import pytest

from bert_jax.data.tasks import schemes

IOB1 = [["I-PER", "I-PER", "B-PER", "O"], ["I-LOC", "I-PER"]]
BIO = [["B-PER", "I-PER", "B-PER", "O"], ["B-LOC", "B-PER"]]
BIOES = [["B-PER", "E-PER", "S-PER", "O"], ["S-LOC", "S-PER"]]
BILOU = [[{"E": "L", "S": "U"}.get(tag[0], tag[0]) + tag[1:] for tag in tags] for tags in BIOES]


@pytest.mark.parametrize(("tags", "scheme"), [(IOB1, "IOB1"), (BIO, "BIO"), (BIOES, "BIOES"), (BILOU, "BIOES")])
def test_schemes_are_detected_and_converted(tags, scheme):
    assert schemes.detect(tags) == scheme
    assert schemes.convert(tags, scheme) == (BIOES if scheme == "BIOES" else BIO, [])


def test_invalid_sequences_are_read_as_conlleval_does():
    assert schemes.convert([["O", "I-A", "I-B"], ["B-A"]], "BIO") == ([["O", "B-A", "B-B"], ["B-A"]], [(0, 1)])
    assert schemes.convert([["O", "I-A", "I-A"], ["B-A", "O"]], "BIOES") == (
        [["O", "B-A", "E-A"], ["S-A", "O"]],
        [(0, 1), (1, 0)],
    )
    assert schemes.convert([["B-A", "O"]], "IOB1") == ([["B-A", "O"]], [])
    assert schemes.detect([["NN", "O"]]) == "" and schemes.detect([["O"]]) == "BIO"
    assert schemes.first_non_entity_tag([["O", "B-A"], ["I_A"]]) == (1, 0)
    assert schemes.first_non_entity_tag([["O", "NN"]]) is None
