"""Words of a command line: one form of flags, words without a flag, and what absl says of values."""

import errno
import os

import pytest
from absl import flags

from bert_jax import arguments
from bert_jax.errors import UserError


@pytest.fixture(autouse=True)
def values(monkeypatch):
    """Gives the module flags of a command's own in place of this process's."""
    own = flags.FlagValues()
    for name in ("model", "input", "output", "text"):
        flags.DEFINE_string(name, None, "", flag_values=own)
    flags.DEFINE_bool("overwrite", False, "", flag_values=own)
    flags.DEFINE_integer("jobs", 0, "", lower_bound=0, upper_bound=1024, flag_values=own)
    flags.DEFINE_integer("rows", 1, "", lower_bound=1, flag_values=own)
    flags.DEFINE_integer("least", 3, "", lower_bound=3, flag_values=own)
    flags.DEFINE_float("rate", 0.0, "", flag_values=own)
    flags.DEFINE_list("names", [], "", flag_values=own)
    flags.DEFINE_enum("kind", "mean", ["mean", "max"], "", flag_values=own)
    monkeypatch.setattr(arguments.flags, "FLAGS", own)
    return own


def test_a_flag_and_its_value_become_one_word():
    words = [
        "--model",
        "M",
        "a",
        "--overwrite",
        "b",
        "--output=-",
        "--text",
        "--odd",
        "--other",
        "c",
        "--",
        "--model",
        "x",
    ]
    assert arguments.joined(words) == [
        "--model=M", "a", "--overwrite", "b", "--output=-", "--text=--odd", "--other", "c", "--", "--model", "x",
    ]  # fmt: skip
    words = ["--config.train.report", "no", "--config.seed", "3", "--noconfig.train.report", "d"]
    assert arguments.joined(words, "pretraining") == [
        "--config.train.report", "no", "--config.seed=3", "--noconfig.train.report", "d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["A", "B"], "A, B: unexpected arguments; did you mean --model=A --output=B? (see --help)"),
        (["--model=A", "B C"], "B C: unexpected argument; did you mean --text='B C'? (see --help)"),
        (["--text=one", "two", "*"], "two, *: unexpected arguments; did you mean --text='one two *'? (see --help)"),
        (["--overwrite", "off"], "off: unexpected argument; did you mean --overwrite=False? (see --help)"),
        (["rows=3"], "rows=3: unexpected argument; did you mean --rows=3? (see --help)"),
        (["seed=3"], "seed=3: unexpected argument; did you mean --config.seed=3? (see --help)"),
        (["-", "--", "x"], "-: unexpected argument; did you mean --model=-? (see --help)"),
        (
            ["--model=A", "--output=B", "C"],
            "C: unexpected argument; options look like --name=value, with quotes around",
        ),
        (["x" * 999], f"{'x' * 57}...: unexpected argument; options look like --name=value"),
    ],
)
def test_words_without_a_flag_are_named_with_what_was_meant(words, line):
    with pytest.raises(UserError) as error:
        arguments.check_words(words, 0, ("model", "output"), ("text",), "pretraining")
    assert str(error.value).startswith(line)


def test_a_pattern_without_quotes_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("d/a.txt", "d/b.txt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"b\.txt: unexpected argument; did you mean --input='d/\*\.txt'"):
        arguments.check_words(["--input=d/a.txt", "d/b.txt"], 0, ("output",), (), "")


def test_expected_words_and_values_of_unknown_flags_are_no_mistake():
    arguments.check_words(["W", "--model=A", "--unknown", "value", "--", "--other", "x"], 1, ("model",), (), "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--overwrite=maybe"], "--overwrite=maybe: expected True or False, or the flag alone"),
        (["--overwrite="], "--overwrite=: expected True or False, or the flag alone"),
        (["--nooverwrite=1"], "--nooverwrite=1: found a value; expected --nooverwrite, or --overwrite=True"),
        (["--model"], "--model: no value; expected --model=VALUE (see --help)"),
        (["--jobs=x: y"], "--jobs=x: y: expected a whole number"),
        (["--jobs=" + "1" * 5000], f"--jobs={'1' * 57}...: expected a whole number"),
        (["--jobs=-1"], "--jobs=-1: expected a whole number from 0 to 1,024"),
        (["--rows=0"], "--rows=0: expected a whole number of at least 1"),
        (["--least=1"], "--least=1: expected a whole number of at least 3"),
        (["--rate=fast"], "--rate=fast: expected a number"),
        (['--names="a"b'], '--names="a"b: expected words separated by commas'),
        (["--kind=men"], "--kind=men: expected one of mean, max; did you mean mean?"),
    ],
)
def test_a_value_that_no_flag_takes_is_told_in_the_projects_words(values, words, line):
    with pytest.raises((flags.Error, ValueError)) as error:
        values(["program", *words])
    assert arguments.in_words(str(error.value)) == line


def test_a_required_flag_is_named(values):
    flags.mark_flag_as_required("model", flag_values=values)
    with pytest.raises(flags.Error) as error:
        values(["program"])
    assert arguments.in_words(str(error.value)) == "--model: missing; expected --model=VALUE (see --help)"


def of_path(number, path):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "path", "words", "line"),
    [
        (errno.EACCES, "runs/a", ["--model=runs/a"], "--model=runs/a: Permission denied; expected a path"),
        (errno.EACCES, "runs/a/run.json", ["runs/a"], "runs/a: run.json: Permission denied; expected a path"),
        (errno.ENOENT, "/c/b/x", ["--config.data.corpus=/c/a,/c/b"], "--config.data.corpus=/c/b: x: No such file or"),
        (errno.ENOENT, "/b/x", ["--config.task.held_out=one=/a,two=/b"], "--config.task.held_out=/b: x: No such file"),
        (errno.ENAMETOOLONG, "n" * 300, [f"--input={'n' * 300}"], f"--input={'n' * 117}...: File name too long; "),
        (errno.EDQUOT, "/elsewhere", ["--model=runs"], "/elsewhere: Disk quota exceeded; expected a path"),
        (errno.ENOENT, "/elsewhere", ["--model=runs"], ""),  # a fault of the program
        (errno.ENOENT, "/runs2/x", ["--model=/runs"], ""),
        (errno.EACCES, None, ["--model=runs"], ""),
    ],
)
def test_an_error_of_a_path_names_the_flag_that_leads_to_it(number, path, words, line):
    told = arguments.about_a_path(of_path(number, path), words)
    assert told.startswith(line) and bool(told) == bool(line)


def test_a_flag_with_two_values_is_told(values):
    flags.DEFINE_multi_string("document", [], "", flag_values=values)
    words = arguments.joined(
        ["--model=A", "--model", "B", "--document=x", "--document=y", "--overwrite", "--overwrite=yes", "--rows=2",
         "--rows=2", "--config.seed=1", "--config.seed=2", "--", "--rows=3"], "pretraining",
    )  # fmt: skip
    assert arguments.repeated(words, "pretraining") == [
        "--model: given 2 times, as A, B; the last one, B, counts",
        "--config.seed: given 2 times, as 1, 2; the last one, 2, counts",
    ]
    flags.DEFINE_alias("path", "model", flag_values=values)
    assert arguments.repeated(["--model=A", "--path=B"]) == ["--model: given 2 times, as A, B; the last one, B, counts"]
    assert arguments.repeated(["--overwrite", "--nooverwrite", "--odd", "odd"]) == [
        "--overwrite: given 2 times, as True, False; the last one, False, counts"
    ]
