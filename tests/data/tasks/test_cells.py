"""Cells of labelled records are read, or refused with their place."""

import json

import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.data.tasks import cells, records
from bert_jax.errors import UserError


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"a": "text", "b": 1.5}, {"a": " ", "b": "2"}, {"a": None, "b": "x"}, {"a": [1], "b": "inf"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = finetune_config.base()
    config.task.name = "embedding"
    return records.read(str(path), "config.task.train", config.task, ("a", "b"))


def test_texts(table):
    assert cells.text(table, 0, "a") == "text"
    for record, expected in ((1, "'a' is empty"), (2, "'a' holds nothing"), (3, "'a' holds a list")):
        with pytest.raises(UserError, match=f"data.jsonl.*{record + 1}: {expected}; expected text"):
            cells.text(table, record, "a")


def test_numbers(table):
    assert [cells.number(table, i, "b", table.columns["b"][i]) for i in (0, 1)] == [1.5, 2.0]
    for record in (2, 3):
        with pytest.raises(UserError, match="'b' holds .*; expected a number"):
            cells.number(table, record, "b", table.columns["b"][record])


def test_lists():
    assert [cells.listed(value) for value in (["a"], ("a",), np.array(["a"]), '["a"]')] == [["a"]] * 4
    assert [cells.listed(value) for value in ("a", "[a", None, 1.0)] == ["a", "[a", None, 1.0]


def test_a_column_is_named_for_one_thing():
    cells.check_named_once(["a", "", "b", ""])
    with pytest.raises(UserError, match="column 'b' is named for two things"):
        cells.check_named_once(["a", "b", "b"])
