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
