"""Plans that a run is compared with."""

import json

import pytest

from bert_jax.diagnosis import plans, reading
from bert_jax.errors import UserError
from tests.diagnosis.conftest import findings


def test_under_the_plan(healthy, tmp_path):
    phase = {"rows": 16, "sequence": 32, "roofline": {"tokens_per_second": 1e9, "mfu": 0.5}}
    entry = {"fits": True, "phases": [phase]}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"small on v5e:4x4": entry, "other": {"fits": True, "phases": [phase | {"rows": 8}]}}))
    run = reading.read(str(healthy))
    by_name, _ = findings(healthy, plans.read(str(path), "", run))
    assert "of the 1,000,000,000 that small on v5e:4x4 allows" in by_name["under_plan"].message
    phase["roofline"]["tokens_per_second"] = 1.0
    path.write_text(json.dumps({"recipe": "small", "topology": {"name": "v5e:4x4"}, **entry}))
    by_name, text = findings(healthy, plans.read(str(path), "", run))
    assert "under_plan" not in by_name and "1 is the bound of small on v5e:4x4" in text.replace("\n", " ")
    path.write_text(json.dumps({"a": entry, "b": entry}))
    with pytest.raises(UserError, match="--plan_entry; expected one of a, b"):
        plans.read(str(path), "", run)
    assert plans.read(str(path), "b", run).name == "b"
    for wrong in ("[]", "{", '{"a": {"fits": true, "phases": [{}]}}', '{"a": 1}'):
        path.write_text(wrong)
        with pytest.raises(UserError, match="--plan="):
            plans.read(str(path), "", run)
