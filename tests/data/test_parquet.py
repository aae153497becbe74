"""Parquet files: a missing package and a damaged file are one line each, and times of every unit are values."""

import datetime
import sys

import pyarrow
import pyarrow.parquet
import pytest

from bert_jax.data import parquet
from bert_jax.data.preparation import sources
from bert_jax.data.tasks import records
from bert_jax.errors import UserError
from bert_jax.inference.records import Records
from tests.data.tasks.conftest import config


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (
        lambda: sources.plan(str(path), sources.Options()),
        lambda: records.read(str(path), "config.task.train", config().task, ("text",)),
        lambda: list(Records(path, ("text",))),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert f"{path}: Parquet needs pyarrow, which is not installed; pip install pyarrow" in str(error.value)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="a.parquet: not a whole Parquet file"), parquet.opened(tmp_path / "a.parquet"):
        pass


def test_values_of_every_unit_of_time():
    for unit in ("s", "ms", "us"):
        first, second = parquet.values(pyarrow.array([3_000_000, None], pyarrow.timestamp(unit)))
        assert isinstance(first, datetime.datetime) and second is None
    assert parquet.values(pyarrow.array([3], pyarrow.timestamp("ns"))) == ["1970-01-01 00:00:00.000000003"]
    assert parquet.values(pyarrow.array([3, None])) == [3, None]
    assert parquet.values(pyarrow.array([b"\xc3\xa9", None])) == ["é", None]
    assert parquet.values(pyarrow.array([b"\xff"])) == [b"\xff"]


def test_bytes_that_are_no_text_make_a_whole_column_base64(tmp_path):
    """A column means one thing: bytes that happen to be UTF-8 are no text beside others that are not."""
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({
        "text": [b"a", b"b", b"c"], "key": [b"x", None, b"\x00\xff"], "name": [b"x", b"\xc3\xa9", None],
        "image": pyarrow.array([{"bytes": b"x", "path": "p"}, {"bytes": b"\xff", "path": "q"}, None], image),
        "keys": [[b"x"], [], [b"\xff"]], "list": [[b"x"], [], None], "hash": pyarrow.array([b"ab", b"\xff\xff", b"cd"],
        pyarrow.binary(2)),
    })  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    with parquet.opened(tmp_path / "a.parquet") as file:
        assert parquet.binary_columns(file, table.column_names) == {"key", "image", "keys", "hash"}
        assert parquet.binary_columns(file, ["text", "name"]) == frozenset()
    source = Records(tmp_path / "a.parquet", ("text",))
    assert list(source) == [("a",), ("b",), ("c",)]
    rows = list(source.rows())
    assert [row["key"] for row in rows] == ["eA==", None, "AP8="] and [row["name"] for row in rows] == ["x", "é", None]
    assert [row["image"] for row in rows] == [{"bytes": "eA==", "path": "p"}, {"bytes": "/w==", "path": "q"}, None]
    assert [row["keys"] for row in rows] == [["eA=="], [], ["/w=="]] and rows[0]["hash"] == "YWI="
    assert source.notes == [
        f"{tmp_path}/a.parquet: columns with bytes that are not UTF-8 come back in base64 (in .parquet as they are): "
        "hash, image, key, keys"
    ]
