"""Logs that are torn, sparse or old."""

import shutil

import pytest

from bert_jax.diagnosis import reading
from bert_jax.errors import UserError
from tests.diagnosis.conftest import findings, rewrite, serious


def test_logs_that_are_torn_sparse_or_old(copy):
    log = copy / "metrics.jsonl"
    content = log.read_text()
    log.write_text("\x00\n[1]\n{}\n" + content + '{"step": 305, "lo')
    assert not serious(findings(copy)[0])
    log.write_text(content)
    rewrite(copy, dict, lambda rows: [row for row in rows if row["step"] % 100 == 0])
    assert not serious(findings(copy)[0])
    rewrite(copy, lambda row: {key: value for key, value in row.items() if not key.startswith(("time/", "eval/"))})
    assert serious(findings(copy)[0]) == {"no_evaluation"}
    log.write_text("")
    with pytest.raises(UserError, match="no step has been logged yet"):
        reading.read(str(copy))
    (copy / "run.json").unlink()
    with pytest.raises(UserError, match="no run there"):
        reading.read(str(copy))
    with pytest.raises(UserError, match=f"there is one in {copy.parent}"):
        shutil.move(copy / "config.json", copy / "run.json")
        reading.read(str(copy.parent))
