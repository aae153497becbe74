"""Tests CoNLL files as they are published: CoNLL-U's lines that are no words, columns that are not words or tags."""

import pytest

from bert_jax.errors import UserError
from tests.data.tasks.test_records import read

CONLLU = """# sent_id = 1
# text = Du bist im Haus
1-2\tdu'st\t_\t_\t_\t_\t_\t_\t_\t_
1\tdu\tdu\tPRON\tPPER\t_\t2\tnsubj\t_\t_
2\tbist\tsein\tAUX\tVAFIN\t_\t0\troot\t_\t_
2.1\tda\tda\tADV\tADV\t_\t_\t_\t2:advmod\t_
3\tim\tin\tADP\tAPPR\t_\t4\tcase\t_\tSpaceAfter=No

# newpar
1\tHaus\tHaus\tNOUN\tNN\t_\t0\troot\t_\t_
"""


def sentences(path, **task):
    return read(path, ("words",), ("tags",), name="token_classification", **task)


def test_conllu_has_words_alone(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU, "utf-8")
    table = sentences(path, token_column=1, label_column=3)
    assert table.columns["words"] == [["du", "bist", "im"], ["Haus"]]
    assert table.columns["tags"] == [["PRON", "AUX", "ADP"], ["NOUN"]]
    assert table.notes == (
        f"{path}: 2 lines such as CoNLL-U's 1-2 or 2.1, which hold no word of their own, were skipped, the first being "
        "line 3",
    )


@pytest.mark.parametrize(
    ("content", "task", "message"),
    [
        (CONLLU, {}, r"line 3: config\.task\.token_column=0 numbers the words .* such as 1"),
        (CONLLU, {"token_column": 1}, r"line 4: config\.task\.label_column=-1 is CoNLL-U's MISC"),
        ("1\tEU\tB-ORG\n2\tsays\tO\n", {}, "numbers the words"),
        ("Token\tTag\nEU\tB-ORG\n", {}, r"line 1: a header \(Token, Tag\)"),
        ("B-ORG EU\nO says\n", {}, r"line 1: config\.task\.token_column=0 holds tags \(B-ORG\)"),
        ("EU B-ORG\rsays O\r", {}, "line 1: lines end with CR alone"),
    ],
)
def test_columns_that_are_no_words_or_tags_are_named(tmp_path, content, task, message):
    (tmp_path / "a.conll").write_text(content, newline="")
    with pytest.raises(UserError, match=message):
        sentences(tmp_path / "a.conll", **task)


def test_sentences_of_numbers_are_words(tmp_path):
    (tmp_path / "a.conll").write_text("1 O\n2 O\n\n3-2 O\nEU B-ORG\n")
    assert sentences(tmp_path / "a.conll").columns["words"] == [["1", "2"], ["3-2", "EU"]]


def test_line_ends_white_space_and_marks_of_order(tmp_path):
    (tmp_path / "a.conll").write_bytes(b"\xef\xbb\xbfEU B-ORG\r\nsays O \r\n \t\r\n\r\n\xef\xbb\xbfParis B-LOC")
    assert sentences(tmp_path / "a.conll").columns["words"] == [["EU", "says"], ["Paris"]]


def test_files_that_hold_no_tags_are_named(tmp_path, load):
    for content, message in (
        ("EU,B-ORG\nsays,O\n", "line 1: no list of tags; found nothing; expected a word and its tag on each line"),
        ("EU O\nsays O\n", "line 1: no tag here or after marks an entity"),
        ("EU (ORG*)\nsays *\n", r"line 1: tag '\(ORG\*\)' looks like an entity's in another form"),
    ):
        (tmp_path / "a.conll").write_text(content)
        with pytest.raises(UserError, match=message):
            load("token_classification", train=tmp_path / "a.conll", held_out=tmp_path / "a.conll")
