"""Files whose names hold brackets, commas, "~" or other bytes; links in circles; the output among the inputs."""

import os

import pytest

from bert_jax.data.preparation.matching import find_files, split_items
from bert_jax.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Makes a tree of files and goes there."""
    names = [
        "a.txt", "2.txt", "[2019].txt", "news [2019]/a.txt", "news [2019]/b.txt", "x,y.txt", "da,ta/z.txt",
        "in/a/b.txt", "in/.hidden/c.txt", "in/c[1].txt", "out/corpus/tokenizer/vocab.txt", "out/d.txt",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"Text of {name}.\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("a.txt", ["a.txt"]),
        ("[2019].txt", ["[2019].txt"]),
        ("[0-9].txt", ["2.txt"]),
        ("news [2019]/*.txt", ["news [2019]/a.txt", "news [2019]/b.txt"]),
        ("./news [2019]/[a].txt", ["./news [2019]/a.txt"]),
        ("n*/[ab].txt", ["news [2019]/a.txt", "news [2019]/b.txt"]),
        ("i?/c[1].txt", ["in/c[1].txt"]),
        ("i*/**/*.txt", ["in/a/b.txt", "in/c[1].txt"]),
        ("in/**", ["in/a/b.txt", "in/c[1].txt"]),
        ("**/b.txt", ["in/a/b.txt", "news [2019]/b.txt"]),
        ("out/**/*.txt", ["out/corpus/tokenizer/vocab.txt", "out/d.txt"]),
        ("da,ta/*.txt", ["da,ta/z.txt"]),
    ],
)
def test_patterns(tree, pattern, files):
    assert find_files(pattern) == files
    assert find_files(f"{tree}/{pattern}") == [f"{tree}/{name}" for name in files]


def test_home_directory(tree):
    assert find_files("~/*.txt") == [str(tree / name) for name in ("2.txt", "[2019].txt", "a.txt", "x,y.txt")]
    assert find_files("~/in/a/b.txt") == [str(tree / "in/a/b.txt")]


@pytest.mark.parametrize(
    ("spec", "items"),
    [
        ("a.txt,2.txt", ["a.txt", "2.txt"]),
        ("x,y.txt", ["x,y.txt"]),
        ("a.txt, x,y.txt ,2.txt", ["a.txt", "x,y.txt", "2.txt"]),
        ("da,ta/*.txt,a.txt,", ["da,ta/*.txt", "a.txt"]),
        ("python-docs,tfds:a:b,x,y.txt,gs://b/*.txt", ["python-docs", "tfds:a:b", "x,y.txt", "gs://b/*.txt"]),
        ("no,such.txt", ["no", "such.txt"]),
        ("", []),
        (" , ,", []),
    ],
)
def test_commas_in_names(tree, spec, items):
    assert split_items(spec) == items


@pytest.mark.parametrize("output", ["out/corpus", "./out/corpus/", "link"])
def test_the_output_is_no_input(tree, output):
    (tree / "link").symlink_to("out/corpus")
    assert find_files("out/**/*.txt", output) == ["out/d.txt"]
    with pytest.raises(UserError, match="--input=out/corpus/.*: all files that match are in --output; expected"):
        find_files("out/corpus/**/*.txt", output)
    assert find_files("out/**/*.txt", tree / "out" / "corpus-2") == find_files("out/**/*.txt")


def test_links_in_circles(tree):
    for name in ("one", "two", "in/up", "in/a/up"):
        (tree / name).symlink_to(tree)
    (tree / "self").symlink_to("self")
    (tree / "in" / "loop.txt").symlink_to("loop.txt")
    (tree / "in" / "linked").symlink_to(tree / "da,ta")
    found = find_files("**/*.txt")
    assert [path for path in found if "linked" not in path] == sorted(
        str(path.relative_to(tree))
        for path in tree.rglob("[!.]*.txt")
        if path.is_file() and ".hidden" not in path.parts
    )
    assert [path for path in found if "linked" in path] == ["in/linked/z.txt"]
    assert sum(os.path.samefile(path, "in/a/b.txt") for path in find_files("in/**/*.txt")) == 1


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["a.txt", "b.txt"], "; try f/*.txt; expected"), (["a.txt", "b.txt.gz"], "; try f/*.txt,f/*.txt.gz; expected"),
        (["a.jsonl", "sub/a.txt"], "; try f/*.jsonl; expected"),
        (["a.md", "sub/b.parquet"], "; try f/**/*.parquet; expected"),
        (["a.md"], " without such a file; expected"), ([], " without such a file; expected"),
    ],
)  # fmt: skip
def test_the_files_of_a_folder_are_named(tmp_path, monkeypatch, names, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f" / "sub").mkdir(parents=True)
    for name in names:
        (tmp_path / "f" / name).touch()
    with pytest.raises(UserError) as error:
        find_files("f/")
    assert f"it is a folder{hint}" in str(error.value)
    for pattern in hint.removeprefix("; try ").partition(";")[0].split(",") if "try" in hint else ():
        assert find_files(pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("no/*.txt", "no file matches"), ("in", "it is a folder; try in/\\*.txt"), ("~/in/", "it is a folder"),
        ("loop.txt", "a link that leads to no file"), ("gone.txt", "a link that leads to no file"),
        ("pipe.txt", "no file, but a device or pipe"), ("no[", "no file matches"), ("~nobody/a.txt", "no file matches"),
    ],
)  # fmt: skip
def test_what_is_no_file_is_named_in_one_line(tree, pattern, reason):
    (tree / "loop.txt").symlink_to("loop.txt")
    (tree / "gone.txt").symlink_to("nowhere.txt")
    os.mkfifo(tree / "pipe.txt")
    with pytest.raises(UserError, match=f"--input=.*: {reason}") as error:
        find_files(pattern)
    assert "\n" not in str(error.value)


def test_names_that_are_not_utf_8(tree):
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        (tree / name).write_text("Text.\n")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    assert find_files("caf*.txt") == [name] == find_files(name)
