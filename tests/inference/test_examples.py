"""Every form that callers may pass gives the same examples; anything else is refused."""

import collections
import json

import numpy as np
import pyarrow
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference.examples import Reader
from bert_jax.model import Task
from tests.inference.conftest import make_model

TEXT = Reader(("text",), 1)
PAIR = Reader(("text", "text_pair"), 1)
OWN = Reader(("text", "text_pair"), 1, columns=("premise", "hypothesis"))
SENTENCE = Reader(("text", "text_pair"), 1, columns=("sentence",))
QUESTION = Reader(("question", "context"), 2)
RANKED = Reader(("query", "document"), 2)
TAGS = Reader(("text",), 1, words=True, columns=("tokens",))
Row = collections.namedtuple("Row", ("idx", "premise", "hypothesis"))


class Series:
    """A column, or a row, as pandas has it."""

    def __init__(self, values, index=None):
        self._values, self.index = list(values), list(range(len(values))) if index is None else list(index)

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def to_dict(self):
        return dict(zip(self.index, self._values, strict=True))


class Frame:
    """A table, as pandas has it, whose iteration gives the names of its columns."""

    def __init__(self, records):
        self._records = records

    def __iter__(self):
        return iter(self._records[0])

    def itertuples(self):
        raise NotImplementedError

    def to_dict(self, orient):
        assert orient == "records"
        return self._records


def read(reader, given):
    examples, single = reader.read(given)
    return list(examples), single


@pytest.mark.parametrize(
    ("reader", "given"),
    [
        (PAIR, ("a", "b")), (PAIR, {"text": "a", "text_pair": "b", "id": 3}),
        (OWN, {"premise": "a", "hypothesis": "b", "label": 1}), (OWN, {"text": "a", "text_pair": "b"}),
        (OWN, Row(1, "a", "b")), (OWN, Series(["a", "b"], ["premise", "hypothesis"])),
        (SENTENCE, {"sentence": "a", "text_pair": "b"}), (SENTENCE, {"text": "a", "text_pair": "b"}),
        (QUESTION, ("a", "b")), (QUESTION, {"question": "a", "context": "b"}),
    ],
)  # fmt: skip
def test_one_pair(reader, given):
    assert read(reader, given) == ([("a", "b")], True)


@pytest.mark.parametrize(
    ("reader", "given"),
    [
        (PAIR, [("a", "b"), ["c", "d"]]), (PAIR, (("a", "b"), ("c", "d"))), (PAIR, np.array([["a", "b"], ["c", "d"]])),
        (PAIR, {"text": ["a", "c"], "text_pair": ["b", "d"], "label": [0, 1]}),
        (PAIR, [{"text": "a", "text_pair": "b"}, ("c", "d")]), (PAIR, (pair for pair in (("a", "b"), ("c", "d")))),
        (OWN, pyarrow.table({"premise": ["a", "c"], "hypothesis": ["b", "d"], "label": [0, 1]})),
        (OWN, Frame([{"premise": "a", "hypothesis": "b"}, {"premise": "c", "hypothesis": "d"}])),
        (OWN, [Row(1, "a", "b"), Row(2, "c", "d")]),
        (QUESTION, {"question": ["a", "c"], "context": ["b", "d"]}), (QUESTION, [["a", "b"], ("c", "d")]),
    ],
)  # fmt: skip
def test_several_pairs(reader, given):
    assert read(reader, given) == ([("a", "b"), ("c", "d")], False)


REVIEW = Reader(("text", "text_pair"), 1, columns=("review",))
Rated = collections.namedtuple("Rated", ("review", "stars"))
RATED = np.array([("a", "bad"), ("c", "good")], dtype=[("review", "U5"), ("stars", "U5")])
RATED_STRUCTS = pyarrow.array([{"review": "a", "stars": "bad"}, {"review": "c", "stars": "good"}])


@pytest.mark.parametrize(
    "given",
    [
        RATED, RATED.view(np.recarray), list(RATED), np.ma.array(RATED), (RATED[0], RATED[1]),
        RATED[["stars", "review"]], iter(RATED), [Rated("a", "bad"), Rated("c", "good")],
        [Series(["a", "bad"], Rated._fields), {"review": "c"}],
        RATED_STRUCTS, list(RATED_STRUCTS), [dict(zip(Rated._fields, row, strict=True)) for row in RATED.tolist()],
    ],
)  # fmt: skip
def test_rows_with_named_fields_are_records(given):
    """The second field of a record is a pair's second text only where it has the name of one."""
    if not hasattr(given, "__next__"):
        with pytest.raises(UserError, match="text 1: no `text` string in"):
            read(PAIR, given)
    assert read(REVIEW, given) == ([("a",), ("c",)], False)


@pytest.mark.parametrize(
    "given", [RATED[0], RATED.view(np.recarray)[0], np.array(("a", "bad"), RATED.dtype), Rated("a", "bad"),
              RATED_STRUCTS[0], np.ma.array(RATED)[0]],
)  # fmt: skip
def test_one_row_with_named_fields_is_a_record(given):
    assert read(REVIEW, given) == ([("a",)], True)
    with pytest.raises(UserError, match="text 1: no `text` string in"):
        read(PAIR, given)


def test_fields_of_a_row_may_be_a_pair_or_words():
    pairs = np.array([(1, "a", "b")], dtype=[("id", int), ("premise", "U5"), ("hypothesis", "U5")])
    assert read(OWN, pairs) == ([("a", "b")], False) and read(OWN, pairs[0]) == ([("a", "b")], True)
    words = np.array([(["a", "b"],)], dtype=[("tokens", "U5", (2,))])
    assert read(TAGS, words) == ([(["a", "b"],)], False)
    with pytest.raises(UserError, match="text 1: no `review` string in"):
        read(REVIEW, np.array([(b"a",)], dtype=[("review", "S5")]))


@pytest.mark.parametrize("reader", [TEXT, PAIR, OWN, TAGS])
def test_texts(reader):
    for given in ("a", np.str_("a"), np.array("a"), {"text": "a"}, {"text": np.str_("a"), "label": None}):
        assert read(reader, given) == ([("a",)], True)
    for given in (
        ["a", "b"], np.array(["a", "b"]), np.array(["a", "b"], object), Series(["a", "b"]), (text for text in "ab"),
        pyarrow.array(["a", "b"]), {"a": 1, "b": 2}.keys(), [{"text": "a"}, "b"], Frame([{"text": "a"}, {"text": "b"}]),
    ):  # fmt: skip
        examples, single = read(reader, given)
        assert (examples, single) == ([("a",), ("b",)], False)
        assert all(type(text) is str for (text,) in examples)
    assert read(reader, []) == ([], False)


def test_lists_of_words():
    for given in (
        [["a", "b"], ("c",)], {"tokens": [["a", "b"], ["c"]]}, [{"words": ["a", "b"]}, {"tokens": np.array(["c"])}],
    ):  # fmt: skip
        assert read(TAGS, given) == ([(["a", "b"],), (["c"],)], False)
    assert read(TAGS, {"text": ["a", "b"]}) == read(TAGS, {"words": ["a", "b"]}) == ([(["a", "b"],)], True)


@pytest.mark.parametrize(
    ("reader", "given", "message"),
    [
        (TEXT, None, "text: found None; expected a string or a dict with `text`, or a list of them"),
        (TEXT, 3, "text: found int"), (TEXT, b"a", r"text: found bytes \(decode them\)"), (TEXT, 1.5, "found float"),
        (TEXT, {"a", "b"}, "text: found set, which has no order"),
        (TEXT, ["a", None], "text 2: found None; expected a string"), (TEXT, ["a", 3], "text 2: found int"),
        (TEXT, ["a", "b", b"c"], "text 3: found bytes"), (TEXT, np.array([1.0]), "text 1: found float"),
        (TEXT, [["a"]], "text 1: found list"), (TEXT, ["a", {"txt": "b"}], "text 2: no `text` string in"),
        (TEXT, [{"text": float("nan")}], "text 1: no `text` string in"),
        (PAIR, [("a", 3)], "text 1: text_pair: found int; expected a string"), (PAIR, ("a", "b", "c"), "a tuple of 3"),
        (PAIR, [["a", ["b"]]], "text 1: text_pair: found list"), (PAIR, [["a"]], "text 1: found a list of 1"),
        (PAIR, {"premise": "a", "hypothesis": "b"}, "no `text` string in"),
        (PAIR, {"text": "a", "hypothesis": "b"}, "text 1: found `text` with `hypothesis`, but no `text_pair`"),
        (PAIR, {"text": ["a"], "text_pair": ["b", "c"]}, r"columns of different lengths \(text 1, text_pair 2\)"),
        (PAIR, {"text": ["a"], "text_pair": "b"}, r"columns of different lengths \(text 1, text_pair none\)"),
        (OWN, {"text": "a", "hypothesis": "b"}, "found `text`, `hypothesis`; expected `text` and `text_pair` or `prem"),
        (OWN, [{"premise": "a"}], "text 1: found `premise`; expected `text` and `text_pair` or `premise` and `hyp"),
        (QUESTION, "a", "text 1: found a string alone; expected a pair of strings or a dict with `question` and `cont"),
        (QUESTION, ["a", "b"], "text 1: found a string alone"), (QUESTION, {"question": "a"}, "no `context` string"),
        *(
            (reader, {"text": "a", name: "b c"}, f"text 1: found `text` with `{name}`")
            for reader in (TEXT, PAIR, SENTENCE)
            for name in ("textPair", "text_b", "Sentence 2", "question2", "query", "premise", "context", "pair")
        ),
        (TEXT, {"text": "a", "text_pair": "b"}, "of which one text would be read; expected a string or a dict"),
        (TEXT, ["a", {"text": "b", "text_pair": ["c"]}], "text 2: found `text` with `text_pair`"),
        (TEXT, {"text": ["a"], "text_pair": ["b"]}, "text: found `text` with `text_pair`"),
        (PAIR, pyarrow.table({"text": ["a"], "sentence2": ["b"]}), "text 1: found `text` with `sentence2`"),
        (SENTENCE, {"sentence": "a", "sentence_2": "b"}, "found `sentence` with `sentence_2`, but no `text_pair`"),
        (OWN, {"text": "a", "question2": "b"}, "text 1: found `text` with `question2`, but no `text_pair`"),
        *(
            (reader, dict.fromkeys(reader.fields, "a b") | {name: "b c"},
             f"found `{reader.fields[0]}` and `{reader.fields[1]}` with `{name}`, of which two texts would be read")
            for reader in (PAIR, QUESTION, RANKED)
            for name in ("sentence2", "passage", "text_b", "hypothesis", "Premise")
        ),
        (QUESTION, {"question": "a", "context": "b", "text": "c d"}, "pass the two texts as a tuple where they are al"),
        (PAIR, {"text": ["a"], "text_pair": ["b"], "context": ["c d"]}, "text: found `text` and `text_pair` with `con"),
        (TAGS, {"tokens": ["a"], "text_pair": "b"}, "text 1: found `tokens` with `text_pair`"),
        *(
            (reader, {name: {0: "a b", 1: "c"}, "label": {0: 1, 1: 0}},
             f"text 1: {name}: found a dict of 2 entries, a column by its rows as pandas' to_dict.* makes it; expected "
             r"the table itself, or a dict of lists, to_dict\('list'\)$")
            for reader, name in ((TEXT, "text"), (PAIR, "text"), (SENTENCE, "sentence"), (QUESTION, "question"))
        ),
        (SENTENCE, {"sentence": 3}, "expected a dict with `sentence`$"),
        (SENTENCE, {"txt": "b"}, r"expected a dict with `text` \(or `sentence`\); did you mean txt\?$"),
        (TAGS, [["a", 3]], "text 1, word 2: found int"), (TAGS, {"words": ["a", None]}, "expected a list of words"),
    ],
)  # fmt: skip
def test_what_is_no_example_is_refused(reader, given, message):
    with pytest.raises(UserError, match=message) as error:
        read(reader, given)
    assert "\n" not in str(error.value)


def test_what_is_certainly_no_text_of_the_example_stays_beside_it():
    for other in (
        {"id": "q 7", "label": "good", "score": 0.3, "scores": [1.0], "title": "t u"}, {"document": "D12", "query": 3},
        {"text_pair": None, "context": " ", "question": float("nan")}, {"sent": "2026-01-02 10:00", "pairs": ["a"]},
    ):  # fmt: skip
        assert read(TEXT, {"text": "a"} | other) == read(PAIR, {"text": "a"} | other) == ([("a",)], True)
    assert read(TAGS, {"words": ["a"], "sentence": "a b"}) == ([(["a"],)], True)  # the text that they were cut from
    pair = {"question": "a", "context": "b"}
    for other in ({"id": "q 7", "title": "t u", "answers": ["c"]}, {"document": "D12"}, {"text": None}):
        assert read(QUESTION, pair | other) == ([("a", "b")], True)


def test_texts_beside_each_other():
    assert list(PAIR.pairs("a", "b")[0]) == [("a", "b")]
    assert list(PAIR.pairs(Series(["a"]), (text for text in "b"))[0]) == [("a", "b")]
    for first, second, message in (
        (["a"], ["b", "c"], "text_pair: found 2 texts; expected 1, one for each text"),
        ({"text": "a"}, "b", "text: found a record beside the other texts"),
        (["a"], 3, "text_pair: found int"), (["a"], [3], "text 1: text_pair: found int"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            list(PAIR.pairs(first, second)[0])


def test_every_predictor_reads_its_examples_so(tokenizer):
    classify = bert_jax.Classifier(
        make_model(tokenizer, Task("sequence_classification", 2), ("x", "y"), problem="single_label",
                   settings={"columns": ("premise", "hypothesis")})
    )  # fmt: skip
    expected = classify("ab", "cd")
    assert classify(("ab", "cd")) == classify({"text": "ab", "text_pair": "cd"}) == expected
    assert classify({"premise": "ab", "hypothesis": "cd"}) == expected
    assert classify([("ab", "cd")]) == classify([{"text": "ab", "text_pair": "cd"}]) == [expected]
    assert classify(["ab", "cd"]) != [expected, expected]

    answer = bert_jax.QuestionAnswerer(make_model(tokenizer, Task("question_answering", 2), ("start", "end")))
    expected = answer("ab", "cd ef")
    assert answer({"question": "ab", "context": "cd ef"}) == answer(("ab", "cd ef")) == expected
    assert answer(["ab", "ab"], "cd ef") == answer([{"question": "ab", "context": "cd ef"}, ("ab", "cd ef")])

    assert list(answer.stream([{"question": "ab", "context": "cd ef"}, ("ab", "cd ef")])) == [expected, expected]
    with pytest.raises(UserError, match="text 1: found a string alone; expected a pair of strings"):
        list(answer.stream(["ab"]))

    tag = bert_jax.TokenTagger(make_model(tokenizer, Task("token_classification", 2), ("O", "X")))
    assert tag({"words": ["ab", "cd"]}) == tag(words=["ab", "cd"]) == tag([["ab", "cd"]])[0]
    with pytest.raises(UserError, match="words: found strings beside lists of words"):
        tag(words=["ab", ["cd"]])

    fill = bert_jax.FillMask(make_model(tokenizer))
    assert fill({"text": "ab [MASK]"}) == fill("ab [MASK]") == fill(Series(["ab [MASK]"]))[0]
    embed = bert_jax.Embedder(make_model(tokenizer))
    assert (embed({"text": "ab"}) == embed("ab")).all() and embed(["ab", {"text": "cd"}]).shape == (2, 32)


def test_the_argument_of_a_class_is_a_name_or_a_model(tokenizer, tmp_path):
    from bert_jax.interop import huggingface

    huggingface.write(make_model(tokenizer), tmp_path / "model")
    for name in (tmp_path / "model", str(tmp_path / "model")):
        expected = bert_jax.FillMask.from_pretrained(name, dtype="float32")("ab [MASK]")
        assert bert_jax.FillMask(name, dtype="float32")("ab [MASK]") == expected
        assert bert_jax.FillMask(bert_jax.load(name))("ab [MASK]") == expected
        assert bert_jax.Inspector(name).attention("ab")[0] == ["[CLS]", "ab", "[SEP]"]
        assert bert_jax.Embedder(name).size == 32
    with pytest.raises(UserError, match="model: found int; expected a model's name"):
        bert_jax.FillMask(3)
    for kind in (bert_jax.Classifier, bert_jax.TokenTagger, bert_jax.QuestionAnswerer):
        with pytest.raises(UserError, match="needs a model fine-tuned for"):
            kind(tmp_path / "model")


def test_the_columns_of_fine_tuning_go_with_an_export(tokenizer, tmp_path):
    from bert_jax.interop import huggingface

    task = Task("sequence_classification", 2)
    for columns, written in ((("premise", "hypothesis"), True), (("text", "text_pair"), False)):
        model = make_model(tokenizer, task, ("x", "y"), problem="single_label", settings={"columns": columns})
        huggingface.write(model, tmp_path / columns[0])
        config = json.loads((tmp_path / columns[0] / "config.json").read_text())
        assert ("bert_jax" in config) == written
        classify = bert_jax.Classifier(tmp_path / columns[0])
        assert classify(dict(zip(columns, ("ab", "cd"), strict=True))) == classify("ab", "cd")
    config = json.loads((tmp_path / "premise" / "config.json").read_text()) | {"bert_jax": {"columns": "premise"}}
    (tmp_path / "premise" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json: bert_jax.columns is 'premise'; expected the names of one column"):
        bert_jax.Classifier(tmp_path / "premise")
