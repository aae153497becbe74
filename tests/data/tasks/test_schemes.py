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


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        ([["b-per", "i-per", "o"], ["i-loc"]], "BIO", [["B-per", "I-per", "O"], ["B-loc"]]),
        ([["B", "I", "O", "B"]], "BIO", [["B", "I", "O", "B"]]),
        ([["b", "i", "o"]], "BIO", [["B", "I", "O"]]),
        ([["B", "M", "E", "S"]], "BIOES", [["B", "I", "E", "S"]]),  # word segmentation
        ([["B-PER", "I-PER", "L-PER", "U-PER"]], "BIOES", [["B-PER", "I-PER", "E-PER", "S-PER"]]),
        ([["B-PER", "M-PER", "E-PER", "W-PER"]], "BIOES", [["B-PER", "I-PER", "E-PER", "S-PER"]]),
        ([["B-MILITARY RANK", "I-MILITARY RANK", "O"]], "BIO", [["B-MILITARY RANK", "I-MILITARY RANK", "O"]]),
    ],
)
def test_other_spellings(tags, scheme, expected):
    assert schemes.detect(tags) == scheme
    assert schemes.convert(tags, scheme)[0] == expected


def test_tags_that_mark_no_entities():
    for tags in (
        ["NOUN", "X", "VERB"],
        ["N", "V", "I", "B"],
        ["0", "1"],
        ["LABEL_0", "LABEL_1"],
        ["I", "O"],
        ["O", "BUY", "ITEM"],
        ["O", "B minor", "I major"],
        ["O", "Big apple", "Illegal apple"],
        ["B PER", "I PER"],
    ):
        assert schemes.detect([tags]) == "" and schemes.look_alike([tags]) is None, tags


@pytest.mark.parametrize(
    ("tags", "index"),
    [
        (["'O'", "'B-PER'", "'I-PER'"], 1),
        (["O", '"B-PER"', '"I-PER"'], 1),
        (["[O]", "[B-PER]", "[I-PER]"], 1),
        (["<B-PER>", "<I-PER>"], 0),
        (["['O',", "'B-PER',", "'I-PER']"], 1),
        (["(B-PER)", "O"], 0),
        (["\u201cB-PER\u201d", "\u201cO\u201d"], 0),
        (["b'b-per'", "b'o'"], 0),
        (["'S-PER'", "'O'", "'B-PER'"], 0),
        (["'O'", "'B'", "'I'"], 0),
        (["[B_PER]", "[I_PER]", "[O]"], 0),
        (["B_PER", "I_PER"], 0),
        (["OUT", "B_PER", "I_PER"], 1),
        (["X", "PER-B", "PER-I"], 1),
        (["0", "BPER", "IPER"], 1),
        (["O", "begin-PER", "inside-PER"], 1),
        (["outside", "Inside_PER"], 1),
        (["O", "PER:begin", "PER:inside"], 1),
        (["outside", "begin", "inside"], 0),
        (["NN/O", "NNP/B-PER", "NNP/I-PER"], 1),
        (["ner=O", "ner=B-PER", "ner=I-PER"], 1),
        (["np.str_('B-PER')", "np.str_('I-PER')", "np.str_('O')"], 0),
    ],
)
def test_look_alikes_without_the_letter_o(tags, index):
    assert schemes.detect([tags]) == "" and schemes.look_alike([tags]) == (0, index)


def test_other_tags_are_no_look_alikes():
    for tags in (
        ["NN", "VB", ".", "-LRB-", "-RRB-", "``", "''", ",", "$", "#", "PRP$", ":"],
        ["A.1", "B.1", "C.1", "E.1", "I.1"],
        ["start_date", "end_date", "O"],
        ["first_name", "middle_name", "last_name", "O"],
        ["S[b]\\NP", "N/N", "(S\\NP)/NP", "I"],
        ["<b>", "<i>", "<u>", "O"],
        ["[CLS]", "[SEP]", "<s>", "A"],
        ["inside", "outside"],
        ["N-B", "N-S", "V-B"],
        ["Case=Nom|Number=Sing", "_"],
        ["O-", "B+"],
    ):
        assert schemes.detect([tags]) == "" and schemes.look_alike([tags]) is None, tags


@pytest.mark.parametrize("tag", ["B-PER|B-LOC", "I-PER,B-LOC", "b-per; i-loc", "S_PER/B_LOC"])
def test_nested_tags(tag):
    assert schemes.first_nested([["O"], ["O", tag]]) == (1, 1)
    assert schemes.first_nested([["O", "B-PER", "B-PER|LOC", "I-a,b"]]) is None


@pytest.mark.parametrize(
    "tags",
    [
        ["O", "B_PER", "I_PER"],
        ["o", "b:per", "i:per"],
        ["O", "B=PER", "I=PER"],
        ["O", "B\u2013PER", "I\u2013PER"],
        ["O", "BPER", "IPER"],
        ["O", "B-", "I-"],
        ["O", "B_PER", "L_PER"],
        ["O", "PER-B", "PER-I"],
        ["O", "Per_B", "Per_I"],
        ["O", "PER\u2014B", "PER\u2014E"],
        ["O", "B PER", "I PER"],
        ["o", "b per", "i per"],
        ["O", "B MILITARY RANK", "I MILITARY RANK"],
        ["O", "B MILITARY_RANK", "E MILITARY_RANK"],
        ["O", "B- PER", "I- PER"],
        ["O", "B - PER", "I - PER"],
        ["O", "B_ PER", "I_ PER"],
        ["O", "B\u00a0PER", "I\u00a0PER"],
        ["O", "PER B", "PER I"],
        ["O", "MILITARY RANK-B", "MILITARY RANK-I"],
    ],
)
def test_look_alikes(tags):
    assert schemes.detect([["O"], tags]) == "" and schemes.look_alike([["O"], tags]) == (1, 1)


@pytest.mark.parametrize(
    ("labels", "scheme", "written"),
    [
        (["O", "B-PER", "I-PER"], "BIO", (False, False)),
        (["O", "B-PER", "I-PER", "X", "[CLS]", "[SEP]"], "BIO", (False, False)),
        (["O", "B-PER", "I-PER", "PAD", "<pad>"], "BIO", (False, False)),
        (["O", "B-PER", "I-PER", "MISC"], "BIO", (False, False)),
        (["o", "b-per", "i-per"], "BIO", (True, False)),
        (["o", "b-per", "i-per", "x"], "BIO", (True, False)),
        (["O", "B-PER", "I-PER", "L-PER", "U-PER"], "BIOES", (False, False)),
        (["O", "S-PER"], "BIOES", (False, False)),
        (["B", "I", "O"], "BIO", (False, True)),
        (["NOUN", "X", "VERB", "_"], "", (False, False)),
        (["LABEL_0", "LABEL_1"], "", (False, False)),
    ],
)
def test_the_scheme_of_a_models_labels_is_decided_label_by_label(labels, scheme, written):
    assert schemes.of_labels(labels) == (scheme, written)
