"""Compares with sentence-transformers: what it saves is read, agrees, and is read by it again (make test-parity)."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from bert_jax.model import Task
from bert_jax.model.projection import TORCH_ACTIVATIONS
from experiments.parity import random_models, vocabularies
from tests.inference import conftest
from tests.inference.conftest import texts

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def base(save):
    return save("BertModel")


def relative(ours, theirs):
    assert ours.shape == theirs.shape and np.isfinite(theirs).all()
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def assert_agrees(path, folder, tolerance=1e-5, **options):
    """The same vectors from a directory, and from what is written of it, here and there."""
    import sentence_transformers

    asked = texts(24, most=20)
    expected = sentence_transformers.SentenceTransformer(str(path), device="cpu").encode(asked, **options)
    assert relative(bert_jax.Embedder.from_pretrained(path).encode(asked, **options), expected) < tolerance
    huggingface.write(huggingface.read(path), folder / "written")
    again = sentence_transformers.SentenceTransformer(str(folder / "written"), device="cpu").encode(asked, **options)
    np.testing.assert_array_equal(again, expected)
    again = bert_jax.Embedder.from_pretrained(folder / "written").encode(asked, **options)
    assert relative(again, expected) < tolerance


def saved(path, modules, **options):
    import sentence_transformers

    sentence_transformers.SentenceTransformer(modules=modules, device="cpu", **options).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("activation", [*TORCH_ACTIVATIONS, "PReLU"])
def test_a_dense_layer_with_every_activation(base, tmp_path, activation):
    import torch
    from sentence_transformers import models

    torch.manual_seed(1)
    dense = models.Dense(64, 24, bias=activation != "Identity", activation_function=getattr(torch.nn, activation)())
    pooling = models.Pooling(32, pooling_mode=("mean", "cls"))
    assert_agrees(saved(tmp_path / "model", [models.Transformer(str(base)), pooling, dense]), tmp_path)


def chains(models):
    """Returns lists of modules by name, from the second on."""
    tokens = {"module_input_name": "token_embeddings"}
    mean, unit = models.Pooling(32), models.Normalize()
    return {
        "two": [mean, models.Dense(32, 20), models.Normalize(), models.Dense(20, 8, use_residual=True), unit],
        "residual": [mean, models.Dense(32, 32, use_residual=True), models.LayerNorm(32), models.Dropout(0.5)],
        "tokens": [models.Dense(32, 16, **tokens), models.Normalize(**tokens), models.Pooling(16, pooling_mode="max")],
        "lasttoken": [models.Pooling(32, pooling_mode=("lasttoken", "weightedmean", "mean_sqrt_len_tokens"))],
    }


@pytest.mark.parametrize("chain", ["two", "residual", "tokens", "lasttoken"])
def test_chains_of_modules(base, tmp_path, chain):
    import torch
    from sentence_transformers import models

    torch.manual_seed(2)
    encoder = models.Transformer(str(base))
    assert_agrees(saved(tmp_path / "model", [encoder, *chains(models)[chain]]), tmp_path)


def test_settings_beside_the_modules(base, tmp_path):
    from sentence_transformers import models

    def modules(**options):
        return [models.Transformer(str(base), **options), models.Pooling(32, include_prompt=False), models.Normalize()]

    prompts = {"prompts": {"query": "ab cd: ", "document": ""}, "default_prompt_name": "query"}
    path = saved(tmp_path / "prompts", modules(), similarity_fn_name="dot", truncate_dim=8, **prompts)
    for name in ("query", "document"):
        assert_agrees(path, tmp_path / name, prompt_name=name)
    written = json.loads((tmp_path / "query" / "written" / "config_sentence_transformers.json").read_text())
    assert written == json.loads((path / "config_sentence_transformers.json").read_text())
    assert written["similarity_fn_name"] == "dot"
    for i, options in enumerate(({"max_seq_length": 6}, {"do_lower_case": True}, {"processing_kwargs": {"text": {"max_length": 7}}})):  # fmt: skip # noqa: E501
        assert_agrees(saved(tmp_path / str(i), modules(**options)), tmp_path / f"of {i}")


def test_embedding_gemma(tmp_path):
    """Its layout: Gemma's vocabulary, two dense layers without a bias behind the mean, unit length, prompts by task."""
    import torch
    import transformers
    from sentence_transformers import models

    _, path = vocabularies.gemma(tmp_path, "encoder", "gemma3_text", tokenizer_class="GemmaTokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=10, query_pre_attn_scalar=7, intermediate_size=36, max_position_embeddings=512, sliding_window=9,
        sliding_window_pattern=3, use_bidirectional_attention=True, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(3)
    encoder = transformers.Gemma3TextModel(config)
    random_models.rescale(torch, encoder, 0.2)
    encoder.save_pretrained(path)
    dense = {"bias": False, "activation_function": torch.nn.Identity()}
    modules = [models.Transformer(str(path)), models.Pooling(24), models.Dense(24, 96, **dense)]
    modules += [models.Dense(96, 24, **dense), models.Normalize()]
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    saved(tmp_path / "model", modules, prompts=prompts)
    names = [module["path"] for module in json.loads((tmp_path / "model/modules.json").read_text())]
    assert names[2:4] == ["2_Dense", "3_Dense"]
    for name in prompts:
        assert_agrees(tmp_path / "model", tmp_path / name, prompt_name=name, tolerance=1e-6)


@pytest.mark.parametrize("kind", ["Transformer", "BERT"])
def test_old_layouts_with_pickles(base, tmp_path, kind):
    """Folders of the first versions; sentence-transformers reads what is written of them, and not always these."""
    import sentence_transformers
    import torch
    import transformers

    path, encoder = tmp_path / "model", tmp_path / "model" / f"0_{kind}"
    shutil.copytree(base, encoder)
    (encoder / "model.safetensors").unlink()
    torch.save(transformers.BertModel.from_pretrained(base).state_dict(), encoder / "pytorch_model.bin")
    (encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": true}')
    for name in ("1_Pooling", "2_Dense"):
        (path / name).mkdir()
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32} | pooling))
    dense = {"in_features": 64, "out_features": 12, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip # noqa: E501
    (path / "2_Dense" / "config.json").write_text(json.dumps(dense))
    linear = {f"linear.{name}": array for name, array in torch.nn.Linear(64, 12).state_dict().items()}
    torch.save(linear, path / "2_Dense" / "pytorch_model.bin")
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate((kind, "Pooling", "Dense"))
    ]
    (path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=f"--model={path} "):
        huggingface.read(path)
    huggingface.write(huggingface.read(path, pickles=True), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.bin"))
    asked = texts(24, most=20)
    ours = bert_jax.Embedder.from_pretrained(tmp_path / "out").encode(asked)
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(asked)
    assert relative(ours, theirs) < 1e-5
    if kind == "Transformer":
        expected = sentence_transformers.SentenceTransformer(str(path), device="cpu").encode(asked)
        assert relative(ours, expected) < 1e-5
    huggingface.write(huggingface.read(tmp_path / "out"), tmp_path / "half", "float16")
    half = sentence_transformers.SentenceTransformer(str(tmp_path / "half"), device="cpu").encode(asked)
    assert relative(half.astype(np.float32), theirs) < 1e-2


@pytest.mark.parametrize(
    ("labels", "activation"),
    [(1, None), (1, "Identity"), (1, "Tanh"), (3, None), (3, "Identity"), (3, "Sigmoid")],
)
def test_cross_encoders(save, tmp_path, labels, activation):
    import sentence_transformers
    import torch

    path = save("BertForSequenceClassification", num_labels=labels)
    given = {"activation_fn": getattr(torch.nn, activation)()} if activation else {}
    model = sentence_transformers.CrossEncoder(str(path), device="cpu", max_length=12, **given)
    model.save(str(tmp_path / "model"))
    pairs = list(zip(texts(12, most=8), texts(12, seed=3, most=8), strict=True))
    expected = model.predict(pairs).reshape(12, labels)
    answers = bert_jax.Classifier.from_pretrained(tmp_path / "model")(*map(list, zip(*pairs, strict=True)))
    ours = np.array([list(answer["scores"].values()) for answer in answers])
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=5e-6)
    huggingface.write(huggingface.read(tmp_path / "model"), tmp_path / "out")
    again = sentence_transformers.CrossEncoder(str(tmp_path / "out"), device="cpu")
    np.testing.assert_array_equal(again.predict(pairs).reshape(12, labels), expected)
    assert again.max_length == 12


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid"])
def test_a_reranker_of_ones_own(tmp_path, activation):
    import sentence_transformers

    tokenizer = conftest.hugging_face.wordpiece(conftest.VOCABULARY, True, "test")
    settings = {"activation": activation, "max_length": 12}
    head = Task("sequence_classification", 1)
    model = conftest.make_model(tokenizer, head, ("score",), problem="regression", settings=settings)
    huggingface.write(model, tmp_path / "model")
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu")
    documents = texts(12, most=20)
    expected = theirs.predict([("ab cd", document) for document in documents])
    np.testing.assert_allclose(bert_jax.Reranker(model).scores("ab cd", documents), expected, rtol=1e-5, atol=1e-6)
    assert theirs.max_length == 12 and activation in str(theirs.activation_fn)
    ranked = bert_jax.Reranker(tmp_path / "model").rank("ab cd", documents, top_k=5)
    hits = theirs.rank("ab cd", documents, top_k=5)
    assert [hit["index"] for hit in ranked] == [hit["corpus_id"] for hit in hits]


def test_prompts_of_cross_encoders(save, tmp_path):
    import sentence_transformers

    path = save("BertForSequenceClassification", num_labels=1)
    prompts = {"query": "ab cd ", "other": "ef "}
    model = sentence_transformers.CrossEncoder(
        str(path), device="cpu", max_length=12, prompts=prompts, default_prompt_name="query"
    )
    model.save(str(tmp_path / "model"))
    pairs = list(zip(texts(12, most=8), texts(12, seed=3, most=8), strict=True))
    classify = bert_jax.Classifier(tmp_path / "model")
    for options in ({}, {"prompt_name": "other"}, {"prompt": "gh "}):
        ours = [answer["score"] for answer in classify(pairs, **options)]
        np.testing.assert_allclose(ours, model.predict(pairs, **options), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("kind", ["SparseEncoder", "MultiVectorEncoder"])
def test_other_kinds_of_encoders_load_and_go_back(save, tmp_path, kind):
    import sentence_transformers

    encoder = getattr(sentence_transformers, kind)
    path = save("BertForMaskedLM")
    encoder(str(path), device="cpu").save(str(tmp_path / "model"))
    model = huggingface.read(tmp_path / "model")
    with pytest.raises(UserError, match="vectors are sparse" if kind == "SparseEncoder" else "a vector for each token"):
        bert_jax.Embedder(model)
    assert bert_jax.Embedder(model, pooling="mean").encode("ab cd").shape == (32,)
    huggingface.write(model, tmp_path / "out")
    first, second = (encoder(str(tmp_path / name), device="cpu").encode(texts(6)) for name in ("model", "out"))
    for one, other in zip(first, second, strict=True):
        one, other = (array.to_dense() if kind == "SparseEncoder" else array for array in (one, other))
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_another_module_is_refused(base, tmp_path):
    from sentence_transformers import models

    path = saved(tmp_path / "cnn", [models.Transformer(str(base)), models.CNN(32, 8, [1, 3]), models.Pooling(24)])
    with pytest.raises(UserError, match="modules Transformer, CNN, Pooling; expected"):
        bert_jax.Embedder(huggingface.read(path))


@pytest.mark.parametrize("kind", ["two encoders", "mapped", "behind the pooling"])
def test_the_default_route_of_a_router(base, tmp_path, kind):
    import torch
    from sentence_transformers import models
    from sentence_transformers.base.modules import Router

    torch.manual_seed(5)
    encoder = [models.Transformer(str(base)), models.Pooling(32)]
    sides = [[models.Transformer(str(base)), models.Pooling(32, pooling_mode="cls")], encoder]
    if kind == "behind the pooling":
        modules = [*encoder, Router.for_query_document([models.Dense(32, 8)], [models.Dense(32, 8)])]
    elif kind == "mapped":
        mappings = {("query", "text"): "first", (None, "text"): "second"}
        modules = [Router(dict(zip(("first", "second"), sides, strict=True)), route_mappings=mappings)]
    else:
        modules = [Router.for_query_document(*sides), models.Normalize()]
    assert_agrees(saved(tmp_path / "model", modules), tmp_path)


@pytest.mark.parametrize("hidden_states", [True, False])
def test_a_weighted_mean_of_layers(base, tmp_path, hidden_states):
    import torch
    from sentence_transformers import models

    torch.manual_seed(6)
    encoder = models.Transformer(str(base), config_kwargs={"output_hidden_states": hidden_states})
    layers = encoder.model.config.num_hidden_layers
    weights = torch.nn.Parameter(torch.rand(layers))
    mean = models.WeightedLayerPooling(32, num_hidden_layers=layers, layer_start=1, layer_weights=weights)
    assert_agrees(saved(tmp_path / "model", [encoder, mean, models.Pooling(32)]), tmp_path)


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_and_search_are_theirs(base, tmp_path, kind):
    import sentence_transformers
    from sentence_transformers import models, util

    path = saved(tmp_path / "saved", [models.Transformer(str(base)), models.Pooling(32)], similarity_fn_name=kind)
    theirs = sentence_transformers.SentenceTransformer(str(path), device="cpu")
    ours = bert_jax.Embedder(tmp_path / "saved")
    vectors = theirs.encode(texts(30, most=12))
    queries = vectors[:4]
    expected = theirs.similarity(queries, vectors).numpy()
    np.testing.assert_allclose(ours.similarity(queries, vectors), expected, rtol=1e-4, atol=5e-3)
    pairwise = theirs.similarity_pairwise(queries, vectors[4:8]).numpy()
    np.testing.assert_allclose(ours.similarity(queries, vectors[4:8], pairwise=True), pairwise, rtol=1e-4, atol=1e-4)
    expected = util.semantic_search(queries, vectors, top_k=5, score_function=theirs.similarity)
    hits = ours.search(queries, vectors, 5)
    assert [[hit["index"] for hit in row] for row in hits] == [[hit["corpus_id"] for hit in row] for row in expected]


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_sparse_encoders(save, tmp_path, pooling, activation):
    """The same weights from a SparseEncoder's directory, and from what is written of it, here and there."""
    import sentence_transformers
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    modules = [MLMTransformer(str(save("BertForMaskedLM"))), SpladePooling(pooling, activation)]
    prompts = {"query": "ab ", "document": ""}
    sentence_transformers.SparseEncoder(modules=modules, device="cpu", prompts=prompts).save(str(tmp_path / "model"))
    asked = texts(24, most=20)
    theirs = sentence_transformers.SparseEncoder(str(tmp_path / "model"), device="cpu")
    expected = theirs.encode(asked, prompt_name="query").to_dense().numpy()
    ours = bert_jax.SparseEmbedder(tmp_path / "model")
    assert relative(ours.encode(asked, prompt_name="query").toarray(), expected) < 1e-5
    huggingface.write(huggingface.read(tmp_path / "model"), tmp_path / "written")
    made = dataclasses.replace(huggingface.read(tmp_path / "model"), origin=None)
    huggingface.write(made, tmp_path / "anew")
    for folder in ("written", "anew"):
        again = sentence_transformers.SparseEncoder(str(tmp_path / folder), device="cpu")
        np.testing.assert_array_equal(again.encode(asked, prompt_name="query").to_dense().numpy(), expected)
