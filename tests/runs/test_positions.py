"""The longest rows of a model are read from its files without jax, or not known."""

import json

import pytest

from bert_jax.config import finetuning, load_recipe
from bert_jax.runs import positions
from tests.runs.test_continuation import begin


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "roberta-prelayernorm", "max_position_embeddings": 514}, 512),
        ({"model_type": "xlm-roberta-xl", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "longformer", "max_position_embeddings": 4098, "pad_token_id": 1}, 4096),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0}, 512),
        ({"model_type": "modernbert", "max_position_embeddings": 8192, "pad_token_id": 50283}, 8192),
        ({"model_type": "nomic_bert", "max_position_embeddings": 2048}, None),
        ({"model_type": "new", "max_position_embeddings": 8192, "rope_scaling": {"type": "ntk", "factor": 2}}, 8192),
        ({"model_type": "eurobert", "max_position_embeddings": 8192, "rope_scaling": {"type": "dynamic"}}, None),
        ({"model_type": "esm", "max_position_embeddings": 1026, "position_embedding_type": "absolute"}, None),
        ({"model_type": "bert"}, None),
        ({"model_type": "bert", "max_position_embeddings": "512"}, None),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}, None),
        ([], None),
        ("{", None),
    ],
)
def test_hugging_face_directories(tmp_path, config, longest):
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    assert positions.of_directory(tmp_path) == longest


def test_runs_and_what_is_no_directory(tmp_path):
    config = load_recipe("small")
    assert positions.of_directory(f"{begin(tmp_path / 'run', config)}@5") == config.model.max_positions
    cut = begin(tmp_path / "cut", config)
    (cut / "config.json").write_text("{")
    assert positions.of_directory(cut) is None
    for name in ("account/model", "gs://bucket/run", tmp_path / "absent", tmp_path):
        assert positions.of_directory(name) is None


def test_a_run_of_fine_tuning(tmp_path):
    """Its config has some keys of the model, of which the number of positions is none."""
    folder = begin(tmp_path / "run", finetuning.base())
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"model": {"max_positions": 48}}))
    assert positions.of_directory(folder) == 48
