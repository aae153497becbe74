"""Tests the forms that labels come in: what transformers trains on is understood, look-alikes are refused."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bert_jax.data.tasks import label_forms
from bert_jax.errors import UserError
from tests.data.tasks.test_classification import jsonl, tsv


def rows(labels):
    return [{"text": "a", "label": label} for label in labels]


@pytest.mark.parametrize(
    "vectors", [[[0, 1, 1], [0, 0, 0]], [[0.0, 1.0], [1.0, 0.0]], [[True, False], [False, True]], [[0, 1], [1, 0]]]
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_vectors_of_zeros_and_ones(tmp_path, load, vectors, kind):
    if kind == "jsonl":
        path = jsonl(tmp_path, "a.jsonl", rows(vectors))
    else:
        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows(vectors)), path)
    task = load(train=path, held_out=path, problem="multi_label")
    assert task.labels == tuple(f"LABEL_{i}" for i in range(len(vectors[0])))
    assert task.train.labels.tolist() == [list(map(float, vector)) for vector in vectors]
    names = tuple("xyz"[: len(vectors[0])])
    task = load(train=path, held_out=path, problem="multi_label", labels=names)
    assert task.labels == names and task.train.labels.tolist() == [list(map(float, vector)) for vector in vectors]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0], [1], [0, 2]], [[1, 0, 0], [0, 1, 0], [1, 0, 1]]),  # ids
        ([[0, 1], [1, 0], [0, 1]], [[1, 1, 0], [1, 1, 0], [1, 1, 0]]),
        ([["x", "z"], [], ["y"]], [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (["x,z", "", "y"], [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (["x | z", "", "y"], [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ],
)
def test_ids_and_names_are_still_read(tmp_path, load, labels, expected):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    task = load(train=path, held_out=path, problem="multi_label", labels=("x", "y", "z"))
    assert task.train.labels.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["['x', 'y']", "['x']"],
            r"line 1: 'label' is .*x.*, a list written as text; expected names with \| or commas",
        ),
        (['["x"]'], "a list written as text"),
        (["{x, y}"], "a list written as text"),
        (["('x', 'y')"], "a list written as text"),
        (["x", "[0. 1. 1.]"], "line 2: .* a list written as text"),
        (["0 1 0"], "0 and 1 written as text"),
        (["1.0 0.0"], "0 and 1 written as text"),
        (["0,1,0"], "0 and 1 written as text"),
        (["array([0, 1])"], "a list written as text"),
        (["frozenset({'x'})"], "a list written as text"),
        (["set()", "x"], "a list written as text"),
        ([["0", "1"], ["1", "0"], ["0", "1"]], "words for true and false in every record, as many in each"),
        ([["True", "False"], ["False", "True"]], "words for true and false"),
        (["yes,no,yes", "no,no,yes"], "words for true and false"),
        ([["0.0", "1.0"], ["1.0", "0.0"]], "words for true and false|0 and 1"),
        (["1", "0 2"], "line 2: 'label' is '0 2', labels with spaces between them"),
        (["__label__x", "__label__x __label__y"], "line 2: .* labels with spaces between them"),
        (["x", "x;y"], "line 2: 'label' is 'x;y', which holds ';'"),
        (["x", "x；y"], "line 2: 'label' is 'x；y', which holds '；'"),
        (["喜", "怒", "喜、怒"], "line 3: label '喜、怒' joins '喜' and '怒', which are labels too"),
        (["x", "y", "x # y"], "line 3: label 'x # y' joins 'x' and 'y'"),
        (["x", "y", "x/y"], "line 3: label 'x/y' joins 'x' and 'y', which are labels too"),
        (["x|y", "x,y"], "line 2: label 'x,y' joins 'x' and 'y'"),
        (["x", "y", "y x"], "line 3: label 'y x' joins 'y' and 'x'"),
        (["x", "x y", "y z", "z"], "line 2: label 'x y' and others with spaces consist of words that other labels"),
        (["red blue", "blue green", "green red"], "line 1: label 'red blue' and others with spaces"),
        (["x", "nan"], "line 2: no labels in 'label'"),
        (["x", float("nan")], "line 2: no labels in 'label'"),
        ([["x"], [None]], r"line 2: 'label' is \[None\]; expected a name for each label"),
        ([["x"], [float("nan")]], r"line 2: 'label' is \[nan\]"),
        ([[0, 1, 1], [0, 1]], r"line 1: 'label' is \[0, 1, 1\], which names a label twice"),
        ([[2], [0, 0, 1]], r"line 2: 'label' is \[0, 0, 1\], which names a label twice"),
        (["x", "x\ny"], r"line 2: 'label' is 'x\\ny', which holds '\\n'"),
        (["010", "110"], "line 1: 'label' is '010', 0 and 1 written as text"),
        (
            ["0", "1", "1"],
            "line 1: 'label' is 0 or 1 in every record; expected labels, or a column of 0 and 1 for each",
        ),
        ([["0", "1", "1"], ["0", "0", "1"]], "line 1: .* names a label twice"),
        ([[0.2, 0.8], [1.0, 0.0]], r"line 1: 'label' is \[0.2, 0.8\]; expected names, ids, or vectors of 0 and 1"),
        ([{"x": 1}], "line 1: 'label' holds a dict"),
        ([1, 0], "line 1: 'label' holds a int; expected a list of labels or text"),
    ],
)
def test_other_forms_of_several_labels_are_refused(tmp_path, load, labels, message):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    with pytest.raises(UserError, match=message) as error:
        load(train=path, held_out=path, problem="multi_label")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [
    ["toxic", "severe toxic", "identity hate"],
    ["bad food|good service", "good food", "bad service"],
    [["bad food"], ["good food"], ["bad service"], ["good service"]],
    ["new york", "york"],
])  # fmt: skip
def test_names_with_spaces_are_names(tmp_path, load, labels):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    load(train=path, held_out=path, problem="multi_label")


def test_a_vector_written_as_text_is_not_two_ids(tmp_path, load):
    path = jsonl(tmp_path, "a.jsonl", rows(["1|0", "0|1"]))
    with pytest.raises(UserError, match="line 1: 'label' is '1|0', in every record a 0 and a 1; expected names"):
        load(train=path, held_out=path, problem="multi_label", labels=("x", "y"))
    path = jsonl(tmp_path, "b.jsonl", rows(["1|0", "1"]))
    task = load(train=path, held_out=path, problem="multi_label", labels=("x", "y"))
    assert task.train.labels.tolist() == [[1, 1], [0, 1]]


def test_a_vector_of_another_length_is_refused(tmp_path, load):
    train = jsonl(tmp_path, "a.jsonl", rows([[0, 1, 1], [0, 0, 1]]))
    held_out = jsonl(tmp_path, "b.jsonl", rows([[0, 1, 1], [0, 1]]))
    with pytest.raises(UserError, match=r"b.jsonl line 2: 'label' is \[0, 1\]; expected 3 values, each 0 or 1"):
        load(train=train, held_out=held_out, problem="multi_label")
    with pytest.raises(UserError, match="a vector of 3 values; expected 2, one for each label"):
        load(train=train, held_out=train, problem="multi_label", labels=("x", "y"))


def test_a_name_that_config_task_labels_has_is_no_other_form(tmp_path, load):
    names = ("x;y", "[x, z]", "x/y", "nan", "x")
    path = jsonl(tmp_path, "a.jsonl", rows(["x;y", "x/y|nan", "x"]))
    task = load(train=path, held_out=path, problem="multi_label", labels=names)
    assert task.train.labels.tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    path = tsv(tmp_path, "a.tsv", ["a\tnan", "b\tx", "c\t2.5"])
    assert load(train=path, held_out=path, labels=("nan", "x", "2.5")).train.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x", "y", "nan"], r"line 3: no label in 'label' \(found 'nan'\); expected one of x, y"),
        (["x", "y", float("nan")], r"line 3: no label in 'label' \(found nan\)"),
        (["x", "y", None], "line 3: no label in 'label'; expected one of x, y"),
        (["x", "y", "<NA>"], "line 3: no label"),
        (["x", "y", "#N/A N/A"], "line 3: no label"),
        (["x", "y", "1.#QNAN"], "line 3: no label"),
        (["x", "y", "NULL"], "line 3: no label .*; expected one of x, y, or config.task.labels with this name"),
        (["x", "NULL", "x"], r"line 2: no label in 'label' \(found 'NULL'\); expected one of x, or"),
        ([None, None], "line 1: no label in 'label'; expected a name or a number"),
        ([0, 1, -100], r"line 3: no label in 'label' \(found -100\)"),
        ([0.0, 1.0, 2.5], r"line 3: 'label' is 2.5, a fraction; expected classes, or config.task.problem=regression"),
        (["1", "2", "2,5"], "line 3: 'label' is 2,5, a fraction"),
        (["1", "2", "1e-3"], "line 3: 'label' is 1e-3, a fraction"),
        (["1", "0", "1.0"], "line 3: 'label' is '1.0', the same number as '1' before; expected one form of it"),
        (["caf\u00e9", "x", "cafe\u0301"], r"line 3: 'label' is '\w+.' in two forms of Unicode"),
        (["x", "y", 1], "line 1: 'label' is 'x', but a number at .*line 3; expected names or numbers in all records"),
        (["x", "y", ["x"]], "line 3: the label is a list; expected a name or a number"),
        (["x", "y", "None"], r"line 3: no label in 'label' \(found 'None'\); .*config.task.labels with this name"),
        ([True, "x"], "line 2: 'label' is 'x', but True at .*line 1; expected labels of one type and spelling"),
        ([True, 0, 1], "line 1: 'label' is 'true', but a number at .*line 2"),
        ([True, "True", False], "line 2: 'label' is 'True', but 'true' at .*line 2; expected labels of one type"),
        (["true", "True", "false"], "line 2: 'label' is 'True', but 'true'"),
        (["joy", "anger", "joy|anger"], "line 3: label 'joy|anger' joins 'joy' and 'anger', which are labels too"),
        (["joy", "anger", "joy & anger"], "line 3: .*multi_label"),
        (["joy", "joy+anger", "anger"], "line 2: label"),
        (["x", "y", {"a": 1}], "line 3: the label is a dict"),
    ],
)
def test_a_missing_class_is_none_and_a_fraction_is_refused(tmp_path, load, labels, message):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    with pytest.raises(UserError, match=message):
        load(train=path, held_out=path)


def test_marks_inside_names_are_no_separators(tmp_path, load):
    path = jsonl(tmp_path, "a.jsonl", rows(["C/C++", "R&B", "true", "false", "not true", "and/or"]))
    assert len(load(train=path, held_out=path).labels) == 6
    path = jsonl(tmp_path, "a.jsonl", rows([True, "true", False]))
    assert load(train=path, held_out=path).labels == ("false", "true")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["joy", "anger", "joy+anger"], r"line 3: label 'joy\+anger' joins 'joy' and 'anger', which are labels too"),
        (["joy+anger", "joy+fear", "anger+fear"], "line 1: .*, which other labels join too"),
        (["joy/anger", "fear & joy", "anger"], "line 1: .*, which other labels join too"),
        ([["joy", True], ["joy"]], "line 1: 'label' is True, but 'joy'"),
        ([["joy"], ["joy", 3]], "line 2: 'label' is 3, but 'joy'"),
    ],
)
def test_joined_and_mixed_labels_of_several_are_refused(tmp_path, load, labels, message):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    with pytest.raises(UserError, match=message):
        load(train=path, held_out=path, problem="multi_label")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1,0,0", "0,1,1"], "line 1: 'label' is '1,0,0', several numbers written as text; expected one class, or"),
        (["1 0 0", "0 1 1"], "line 1: 'label' is '1 0 0', several numbers"),
        (["x", "1|0|1"], "line 2: 'label' is '1.0.1', several numbers"),
        (["0.2 0.8", "0.9 0.1"], "several numbers"),
        (["1 3 5", "2;7"], "several numbers"),
        (["1,0", "0,1"], "line 1: 'label' is '1,0', as many words for true and false in every record"),
        (["010", "110"], "words for true and false"),
        (["True,False", "False,False"], "words for true and false"),
        (["yes no", "no no"], "words for true and false"),
        (["__label__a", "__label__a __label__b"], "line 2: .*, labels with spaces between them"),
        (["joy;fear", "fear;anger"], "line 1: label 'joy;fear' holds ';' between words that may be labels"),
        (["joy|fear", "anger|love"], r"line 1: label 'joy\|fear' holds '\|'"),
        (["x", "x;y", "z"], "line 2: label 'x;y' holds ';'"),
        (["x", "z", "x;y"], "line 3: label 'x;y' holds ';'"),
        (["x", "x\uff1by"], "line 2: label 'x\uff1by' holds '\uff1b'"),
        (["x\ny", "x", "z"], r"line 1: label 'x\\ny' holds '\\n'"),
        (["rock&amp;roll;pop", "pop"], "line 1: label 'rock&amp;roll;pop' holds ';'"),
        (["joy,fear", "fear,anger", "joy"], "line 1: .*, which other labels join too"),
        (["joy+fear", "joy+anger", "anger+fear"], "line 1: .*, which other labels join too"),
        (["joy fear", "joy", "fear"], "line 1: label 'joy fear' joins 'joy' and 'fear', which are labels too"),
        (["C/C++", "C", "C++"], r"line 1: label 'C/C\+\+' joins 'C' and 'C\+\+'"),
        (["\u559c", "\u6012", "\u559c\u3001\u6012"], "line 3: label .* which are labels too"),
        (["b'x'", "b'y'"], "line 1: 'label' is \"b'x'\", a value of Python written as text"),
        (["y", "Decimal('1')"], "line 2: .* a value of Python written as text"),
        (["<Label.GOOD: 1>", "<Label.BAD: 0>"], "a value of Python written as text"),
        (["<Label object at 0x7f12>", "y"], "a value of Python written as text"),
        (["x", "y", "?"], r"line 3: 'label' is '\?', as programs write a missing value; expected a label, or config"),
        (["x", "--", "y"], "line 2: 'label' is '--', as programs write a missing value"),
        *(
            (
                ["x", "y", missing],
                r"line 3: no label in 'label' \(found .*; expected one of x, y, or config.task.labels",
            )
            for missing in ("Nan", "#N/A", "#VALUE!", "#DIV/0!", "#NAME?", "#WERT!", "#NV", "Err:502", "Null", "(null)")
        ),
    ],
)
def test_several_and_missing_classes_in_one_text_are_refused(tmp_path, load, labels, message):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    with pytest.raises(UserError, match=message) as error:
        load(train=path, held_out=path)
    assert "\n" not in str(error.value) and "config.task.labels" in str(error.value)
    names = tuple(dict.fromkeys(labels))
    task = load(train=path, held_out=path, labels=names)  # the way out
    assert task.train.labels.tolist() == [names.index(label) for label in labels]


@pytest.mark.parametrize("labels", [
    ["0", "1"], ["-1", "0", "1"], ["10", "11"], ["18-25", "26-35"], ["1/2", "2/3", "1/3"], ["1st", "2nd"],
    ["C", "C++", "C#"], ["A", "A+", "B-"], ["rock;roll", "jazz", "pop"], ["a,b", "c"], ["food, drink", "drink"],
    ["Paris, France", "Lyon, France", "London, UK"], ["R&amp;B", "Rock &amp; Roll", "jazz"], ["x|", "y"],
    [";)", ":)", ":|"], ["?", "!", "."], ["+", "-", "neutral"], ["none", "for", "against"], ["N/A", "x"],
    ["very good", "good", "bad"], ["new york", "york"], ["black", "white", "black-white"], ["#winning!", "B'nai"],
])  # fmt: skip
def test_plain_names_of_classes_are_classes(tmp_path, load, labels):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    assert set(load(train=path, held_out=path).labels) == set(labels)


@pytest.mark.parametrize("label", ["?", "-", "#VALUE!", "Nan", "b'x'"])
def test_missing_values_are_no_labels_of_several(tmp_path, load, label):
    path = jsonl(tmp_path, "a.jsonl", rows(["x|y", label, "y"]))
    with pytest.raises(UserError, match="line 2: "):
        load(train=path, held_out=path, problem="multi_label")


def test_whole_numbers_as_pandas_writes_them(tmp_path, load):
    path = tsv(tmp_path, "a.tsv", ["a\t1.0", "b\t0.0"])
    assert load(train=path, held_out=path, labels=("no", "yes")).train.labels.tolist() == [1, 0]
    path = jsonl(tmp_path, "a.jsonl", rows([-1, 0, 1]))
    task = load(train=path, held_out=path)
    assert task.labels == ("-1", "0", "1") and task.train.labels.dtype == np.int32


def test_a_test_set_with_missing_labels_has_none(tmp_path, load):
    train = tsv(tmp_path, "a.tsv", ["a\tx", "b\ty"])
    test = tsv(tmp_path, "b.tsv", ["a\tnan", "b\tnan"])
    assert not load(train=train, held_out=train, test=test).test.labelled


def test_notes_say_how_files_were_read(tmp_path, load):
    train = tmp_path / "a.csv"
    train.write_text("text;label\na;x\n;\nb;y\n")
    assert load(train=train, held_out=train).notes == [
        f"{train}: fields are separated by a semicolon",
        f"{train}: 1 rows without any value were skipped, the first in line 3",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_pair": "text"}, "config.task.text=text, text_pair=text, label=label: found 'text' twice"),
        ({"label": "text"}, "label=text: found 'text' twice; expected a column of its own for each"),
        ({"label": "label,label", "problem": "multi_label"}, "found 'label' twice"),
        ({"label": ""}, "found '' for nothing"),
        ({"labels": ("x", "y", "x")}, "config.task.labels: found 'x' twice; expected each name once"),
        (
            {"columns": ("text", "label")},
            "a.tsv line 1: a header, which is not read where config.task.columns is given",
        ),
    ],
)
def test_a_column_or_a_name_that_is_given_twice_is_named(tmp_path, load, settings, message):
    path = tsv(tmp_path, "a.tsv", ["a\tx", "b\ty"])
    with pytest.raises(UserError, match=message):
        load(train=path, held_out=path, **settings)


def test_names_of_classes_that_may_be_none_are_told(tmp_path, load):
    path = jsonl(tmp_path, "a.jsonl", rows(["Pos", "pos", "neg", "NA"]))
    notes = "\n".join(load(train=path, held_out=path).notes)
    assert "the labels Pos, pos differ in case alone, and are classes of their own" in notes
    assert "the label 'NA' is a class; leave records out whose label is missing" in notes
    named = ("Pos", "pos", "neg", "NA")
    assert not [note for note in load(train=path, held_out=path, labels=named).notes if "label" in note]


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ("very\u200b good", r"very\u200b good"),
        ("very\u00a0good", r"very\xa0good"),
        ("very  good", "very  good"),
        ("\ufeffvery good", r"\ufeffvery good"),
        ("very \u00adgood", r"very \xadgood"),
        ("Very\u2009good", r"Very\u2009good"),
        ("very good\ufe0f", r"very good\ufe0f"),
        ("\uff56ery good", r"\uff56ery good"),
    ],
)
def test_names_that_look_alike_are_told(tmp_path, load, other, shown):
    path = jsonl(tmp_path, "a.jsonl", rows(["very good", other, "x"]))
    notes = [note for note in load(train=path, held_out=path).notes if "labels" in note]
    first, second = sorted(["very good", other])
    assert len(notes) == 1 and shown in notes[0] and notes[0].endswith(
        "differ in characters that look alike or do not show, and are classes of their own"
    )  # fmt: skip


def test_names_that_look_different_are_not_told():
    names = ["x", "x2", "x\u00b2", "caf\u00e9", "cafe", "non-x", "nonx", "\u2460", "1", "\u0645\u06cc", "\u0645\u064a"]
    assert label_forms.similar(names) == []
    assert len(label_forms.similar(["non-x", "non\u2011x", "it's", "it\u2019s"])) == 2


ARRAYS = [
    "array(['x'], dtype=object)", "array(['x', 'y'], dtype='<U1')", "array([0., 1.])", "np.array([0, 1])",
    "array([],\n      dtype=int64)", "tensor([0, 1], device='cuda:0')", "tensor([0., 1.], dtype=torch.float64)",
    "tensor([0.1, 0.9], grad_fn=<SoftmaxBackward0>)", "tensor([], size=(0, 2))", "torch.tensor([0, 1])",
    "Array([0, 1], dtype=int32)", "tf.Tensor([0 1], shape=(2,), dtype=int32)",
    "<tf.Tensor: shape=(1,), dtype=int32, numpy=array([0], dtype=int32)>", "Index(['x'], dtype='object', name='l')",
    "0    x\n1    y\ndtype: object", "Series([], dtype: object)", "shape: (1,)\nSeries: '' [str]\n[\n\t\"x\"\n]",
    "<pyarrow.ListScalar: ['x']>", "deque(['x'], maxlen=3)", "Counter({'x': 1})", "frozenset()", "list()", "()",
    "['x' 'y']", "[0 1 ... 1]", "dict_keys(['x'])", "(['x'])",
]  # fmt: skip
ELEMENTS = [
    "tensor(1)",
    "tensor(1, device='cuda:0')",
    "np.str_('x')",
    "np.int64(1)",
    "array(1)",
    "array('x', dtype='<U1')",
]


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
@pytest.mark.parametrize("label", [*ARRAYS, *ELEMENTS])
def test_what_numpy_torch_and_others_write_is_no_label(tmp_path, load, problem, label):
    path = jsonl(tmp_path, "a.jsonl", rows(["x", "y", label]))
    form = "a value of numpy or torch written as text" if label in ELEMENTS else "a list written as text"
    with pytest.raises(UserError, match=f"line 3: 'label' is .*, {form}; expected") as error:
        load(train=path, held_out=path, problem=problem)
    assert "\n" not in str(error.value)


def test_names_with_brackets_and_commas_are_classes(tmp_path, load):
    names = ["accuracy (high)", "f(x)", "x [y] z", "tensors (1)", "a, b", "<b>", "dtype", "array"]
    path = jsonl(tmp_path, "a.jsonl", rows(names))
    assert set(load(train=path, held_out=path).labels) == set(names)


@pytest.mark.parametrize("labels", [["['x', 'y']", "['x']"], ["[0, 1]", "[1, 0]"], ["x", "set()"], ["('x',)", "y"]])
def test_a_list_written_as_text_is_no_class(tmp_path, load, labels):
    path = jsonl(tmp_path, "a.jsonl", rows(labels))
    with pytest.raises(UserError, match="a list written as text; expected one class"):
        load(train=path, held_out=path)
    task = load(train=path, held_out=path, labels=tuple(labels))
    assert task.labels == tuple(labels)
