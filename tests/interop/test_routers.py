"""Tests directories of sentence-transformers with routers: the modules of the default route are read and applied."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

import bert_jax
from bert_jax.errors import UserError
from bert_jax.interop import huggingface, routers
from tests.interop.conftest import refusal
from tests.interop.test_sentence_transformers import OLD, add_dense, list_modules


def add_router(path, structure, **parameters):
    """Writes router_config.json; the class of a module is what follows the last _ of its name."""
    path.mkdir(exist_ok=True)
    types = {
        entry: f"sentence_transformers.models.{entry.rpartition('_')[2]}"
        for name in structure.values()
        for entry in name
    }
    content = {"types": types, "structure": structure, "parameters": parameters}
    (path / "router_config.json").write_text(json.dumps(content))


def add_pooling(path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(OLD))


@pytest.fixture
def two_sided(make, tmp_path):
    """Returns a directory that begins with a router: a static model for queries, an encoder for documents."""
    made = make()
    path = tmp_path / "whole"
    path.mkdir()
    made.path.rename(path / "document_0_Transformer")
    add_pooling(path / "document_1_Pooling")
    (path / "query_0_StaticEmbedding").mkdir()
    list_modules(path, ("sentence_transformers.base.modules.router.Router", ""), ("Normalize", "1_Normalize"))
    return path


SIDES = {"query": ["query_0_StaticEmbedding"], "document": ["document_0_Transformer", "document_1_Pooling"]}
TEXTS = ["a b c", "d"]


def test_the_default_route_is_applied_and_written(two_sided, tmp_path, capsys):
    add_router(two_sided, SIDES, default_route="document")
    embedder = bert_jax.Embedder(two_sided)
    assert f"{two_sided}: of its routes, document is read" in capsys.readouterr().err
    own = bert_jax.Embedder(two_sided / "document_0_Transformer", pooling="mean", normalize=True)
    vectors = embedder.encode(TEXTS)
    np.testing.assert_allclose(vectors, own.encode(TEXTS), rtol=1e-6)
    huggingface.write(embedder.model, tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [(entry["path"], entry["name"]) for entry in listed] == [
        ("", "0"),
        ("document_1_Pooling", "1"),
        ("1_Normalize", "2"),
    ]
    np.testing.assert_array_equal(bert_jax.Embedder(tmp_path / "out").encode(TEXTS), vectors)


def test_texts_of_another_route_are_refused(two_sided):
    add_router(two_sided, SIDES, default_route="document")
    embedder = bert_jax.Embedder(two_sided)
    with pytest.raises(UserError, match="queries: .* sends the text of each query through modules of their own"):
        embedder.search("a", TEXTS)
    assert embedder.search(embedder.encode("a"), TEXTS, 1)[0]["index"] in (0, 1)
    add_router(two_sided, {"text": SIDES["document"], "query": SIDES["document"]})
    assert len(bert_jax.Embedder(two_sided).search("a", TEXTS)) == 2


@pytest.mark.parametrize(
    "parameters", [{"default_route": "query"}, {}, {"route_mappings": {"(None, 'text')": "query"}}]
)
def test_a_default_route_without_an_encoder(two_sided, parameters):
    add_router(two_sided, SIDES, **parameters)
    model = huggingface.read(two_sided)
    with pytest.raises(UserError, match="router_config.json: the default route query begins with StaticEmbedding"):
        bert_jax.Embedder(model)
    assert bert_jax.Embedder(model, pooling="mean").encode("a").shape == (8,)


def test_no_default_route(two_sided):
    add_router(two_sided, SIDES, allow_empty_key=False)
    with pytest.raises(UserError, match="router_config.json: names no default route"):
        bert_jax.Embedder(two_sided)


def test_routes_behind_the_pooling(make):
    """Asym of earlier versions: the routes share the encoder, and the file is called config.json."""
    made = make()
    add_pooling(made.path / "1_Pooling")
    structure = {"query": ["query_0_Dense"], "document": ["document_0_Dense"]}
    add_router(made.path / "2_Asym", structure, allow_empty_key=True)
    (made.path / "2_Asym" / "router_config.json").rename(made.path / "2_Asym" / "config.json")
    options = dict(activation_function="torch.nn.modules.linear.Identity", bias=False)
    dense = [
        add_dense(made.path / "2_Asym" / name[0], 8, 4, seed=i, **options) for i, name in enumerate(structure.values())
    ]
    list_modules(made.path, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Asym", "2_Asym"))
    embedder = bert_jax.Embedder(made.path)
    pooled = bert_jax.Embedder(made.path, pooling="mean")
    assert embedder.size == 4 and pooled.size == 4  # layers behind the pooling are applied whatever it is
    states = bert_jax.Embedder(_encoder_alone(made.path), pooling="mean").encode(TEXTS)
    np.testing.assert_allclose(embedder.encode(TEXTS), states @ dense[0]["linear.weight"].T, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="corpus: .* sends the text of each document through"):
        embedder.search("a", TEXTS)


def _encoder_alone(path: pathlib.Path):
    (path / "modules.json").rename(path / "modules.bak")
    return huggingface.read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": []}, "expected `types` and `structure`"),
        ({"structure": {"a": ["../x"]}}, "structure: a names '../x'; expected keys of `types`"),
        ({"structure": {"a": ["0_StaticEmbedding"]}, "types": {"0_StaticEmbedding": "x.BoW"}}, "none begins with"),
        ({"parameters": {"default_route": "z"}}, "default_route names 'z'; expected one of query, document"),
        ({"parameters": {"route_mappings": {"(None, None)": "z"}}}, "route_mappings names 'z'; expected one of"),
    ],
)  # fmt: skip
def test_damaged_routers_are_told_in_one_line(two_sided, changes, message):
    add_router(two_sided, SIDES)
    file = two_sided / "router_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert f"{file}: " in refusal(two_sided) and message in refusal(two_sided)


def test_folders_of_all_routes(two_sided):
    add_router(two_sided, SIDES)
    listed = json.loads((two_sided / "modules.json").read_text())
    assert routers.folders(two_sided, listed) == [*SIDES["query"], *SIDES["document"]]


def test_a_weighted_mean_of_layers(make):
    made = make(output_hidden_states=True)
    folder = made.path / "1_WeightedLayerPooling"
    folder.mkdir()
    (folder / "config.json").write_text('{"embedding_dimension": 8, "layer_start": 1, "num_hidden_layers": 2}')
    weights = np.array([0.25, 0.5], np.float32)
    safetensors.numpy.save_file({"layer_weights": weights}, folder / "model.safetensors")
    add_pooling(made.path / "2_Pooling")
    list_modules(made.path, ("Transformer", ""), ("WeightedLayerPooling", folder.name), ("Pooling", "2_Pooling"))
    ours = bert_jax.Embedder(made.path).encode(TEXTS)
    alone = _encoder_alone(made.path)
    layers = bert_jax.Embedder(alone, pooling="last_2_concat").encode(TEXTS).reshape(2, 2, 8)
    np.testing.assert_allclose(ours, np.einsum("l,tlh->th", weights, layers) / weights.sum(), rtol=1e-5, atol=1e-6)
    (made.path / "modules.bak").rename(made.path / "modules.json")
    safetensors.numpy.save_file({"layer_weights": weights[:1]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"layer_start 1 of 2 layers; expected as many weights, found \(1,\)"):
        bert_jax.Embedder(made.path)
    made.write_config(output_hidden_states=False)  # as sentence-transformers, which then pools the last layer
    np.testing.assert_allclose(bert_jax.Embedder(made.path).encode(TEXTS), layers[:, -1], rtol=1e-5, atol=1e-6)
