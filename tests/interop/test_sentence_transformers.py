"""Tests that directories of sentence-transformers are read as they are, and written back."""

import dataclasses
import fnmatch
import json

import numpy as np
import pytest
import safetensors.numpy
from scipy import special

import bert_jax
from bert_jax.data import rows
from bert_jax.errors import UserError
from bert_jax.interop import hub, huggingface


def dress(path, pooling, normalize=True, encoder="", prompts=None, **transformer):
    """Adds the files that sentence-transformers has beside the encoder."""
    modules = [("Transformer", encoder), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] * normalize)]
    listed = [{"type": f"sentence_transformers.models.{name}", "path": folder} for name, folder in modules]
    (path / "modules.json").write_text(json.dumps(listed))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (path / encoder / "sentence_bert_config.json").write_text(json.dumps(transformer))
    if prompts is not None:
        (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))


def refusal(path):
    with pytest.raises(UserError) as raised:
        huggingface.read(path)
    return str(raised.value)


OLD = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("pooling", "kinds"),
    [
        (OLD, ("mean",)),
        (OLD | {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, ("cls", "max", "mean")),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, ("cls",)),
        ({"embedding_dimension": 8, "pooling_mode": ["weightedmean", "lasttoken"]}, ("weightedmean", "lasttoken")),
        ({"embedding_dimension": 8, "pooling_mode": ["mean", "cls"], "include_prompt": False}, ("mean", "cls")),
    ],
)
def test_what_follows_the_encoder(make, tmp_path, pooling, kinds):
    made = make(pooler=True)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    dress(made.path, pooling, prompts=prompts, max_seq_length=7, do_lower_case=False)
    actual = huggingface.read(made.path)
    assert actual.settings == {
        "pooling": kinds, "normalize": True, "include_prompt": pooling.get("include_prompt", True),
        "prompts": {"query": "query: "}, "default_prompt_name": "query", "max_length": 7, "lower_case": False,
        "similarity": "dot",
    }  # fmt: skip
    huggingface.write(actual, tmp_path / "out")
    assert huggingface.read(tmp_path / "out").settings == actual.settings
    assert json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text()) == prompts


def test_an_encoder_in_a_folder_of_its_own_and_the_limits_of_length(make, tmp_path):
    made = make(name="folder", pooler=True)
    (tmp_path / "whole").mkdir()
    made.path.rename(tmp_path / "whole" / "0_Transformer")
    dress(tmp_path / "whole", OLD, normalize=False, encoder="0_Transformer")
    actual = huggingface.read(tmp_path / "whole")
    assert not actual.settings["normalize"] and "max_length" not in actual.settings
    (tmp_path / "whole" / "0_Transformer" / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert huggingface.read(tmp_path / "whole").settings["max_length"] == 11


def test_lower_case_of_the_encoders_module(make):
    made = make()
    (made.path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    dress(made.path, OLD)
    assert huggingface.read(made.path).tokenizer.encode(["A b"]) == [[1, 6]]
    dress(made.path, OLD, do_lower_case=True)
    assert huggingface.read(made.path).tokenizer.encode(["A b"]) == [[5, 6]]


def embed_refusal(path):
    """Returns why a model that is opened gives no embeddings, unless it is asked for a pooling of the encoder's own."""
    model = huggingface.read(path)
    assert "pooling" not in model.settings
    with pytest.raises(UserError) as raised:
        bert_jax.Embedder(model)
    assert bert_jax.Embedder(model, pooling="mean").size == 8
    return str(raised.value)


def list_modules(path, *modules):
    """Writes modules.json: (name of a class, folder) each."""
    types = [name if "." in name else f"sentence_transformers.models.{name}" for name, _ in modules]
    listed = [
        {"idx": i, "name": str(i), "path": folder, "type": kind}
        for i, ((_, folder), kind) in enumerate(zip(modules, types, strict=True))
    ]
    (path / "modules.json").write_text(json.dumps(listed))


def add_dense(path, inputs, outputs, seed=0, more=(), dtype=np.float32, bias=True, **config):
    """Writes a Dense and returns its arrays."""
    random = np.random.default_rng(seed)
    path.mkdir(exist_ok=True)
    arrays = {"linear.weight": random.standard_normal((outputs, inputs)).astype(dtype)}
    arrays |= {"linear.bias": random.standard_normal(outputs).astype(dtype)} if bias else {}
    arrays |= {name: random.standard_normal(shape).astype(dtype) for name, shape in more}
    config = {"in_features": inputs, "out_features": outputs, "bias": bias} | config
    (path / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(arrays, path / "model.safetensors")
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def test_what_cannot_be_computed_is_named_where_vectors_are_asked_for(make, tmp_path):
    made = make(pooler=True)
    dress(made.path, {"pooling_mode": "median"})
    assert "1_Pooling/config.json: pooling 'median' is not supported" in embed_refusal(made.path)
    dress(made.path, OLD, transformer_task="fill-mask")
    assert "transformer_task 'fill-mask' is not supported" in embed_refusal(made.path)
    dress(made.path, OLD, modality_config={"text": {"method_output_name": "pooler_output"}})
    assert "method_output_name 'pooler_output'" in embed_refusal(made.path)
    dress(made.path, OLD, processing_kwargs={"text": {"add_special_tokens": False}})
    assert "processing_kwargs.text: add_special_tokens is not supported" in embed_refusal(made.path)
    dress(made.path, OLD, prompts={"model_type": "SparseEncoder"})
    assert "a sparse encoder of modules Transformer, Pooling, Normalize; expected" in embed_refusal(made.path)
    dress(made.path, OLD, prompts={"model_type": "MultiVectorEncoder"})
    assert "Transformer and then any of Dense, MultiVectorMask, Normalize, but not Pooling" in embed_refusal(made.path)
    dress(made.path, OLD, prompts={})
    add_dense(made.path / "2_Dense", 8, 4, activation_function="transformers.activations.GELUActivation")
    list_modules(made.path, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))
    assert "activation_function transformers.activations.GELUActivation; expected one of torch.nn's" in embed_refusal(made.path)  # fmt: skip # noqa: E501
    add_dense(made.path / "2_Dense", 8, 4, in_features=9)
    assert "2_Dense: weights" in embed_refusal(made.path)
    list_modules(made.path, ("Transformer", ""), ("Dense", "2_Dense"), ("pylate.models.ColBERT", "3_X"))
    assert "from sentence_embedding to sentence_embedding; expected a layer that changes token" in embed_refusal(
        made.path
    )
    list_modules(made.path, ("Transformer", ""), ("CNN", "1_CNN"), ("Pooling", "1_Pooling"))
    assert "modules Transformer, CNN, Pooling; expected" in embed_refusal(made.path)
    list_modules(made.path, ("Transformer", ""), ("Normalize", "2_Normalize"))
    assert "modules Transformer, Normalize; expected a Pooling" in embed_refusal(made.path)
    list_modules(made.path, ("MLMTransformer", ""), ("Pooling", "1_Pooling"))
    assert "the encoder's module is MLMTransformer" in embed_refusal(made.path)
    (made.path / "extra").mkdir()
    (made.path / "extra" / "weights.bin").write_bytes(b"kept")
    list_modules(made.path, ("Transformer", ""), ("CNN", "extra"))
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    assert (tmp_path / "out" / "extra" / "weights.bin").read_bytes() == b"kept"
    assert (tmp_path / "out" / "modules.json").read_text() and "CNN" in embed_refusal(tmp_path / "out")


def test_colberts_own_layout_is_an_encoder_but_no_embedder(make):
    made = make(architectures=["HF_ColBERT"])
    made.write(made.arrays | {"linear.weight": np.ones((4, 8), np.float32)})
    assert huggingface.read(made.path).model.spec.task is None
    assert "a vector for each token of a text; expected bert_jax.MultiVectorEmbedder" in embed_refusal(made.path)
    assert bert_jax.MultiVectorEmbedder(made.path).encode_document(["a"])[0].shape[1] == 4
    assert bert_jax.Embedder(huggingface.read(made.path), pooling="mean").encode(["a"]).shape == (1, 8)
    mapless = make(name="mapless", architectures=["HF_ColBERT"])
    assert "HF_ColBERT without linear.weight; expected the map" in embed_refusal(mapless.path)
    other = make(name="other", architectures=["ColBERTModel"])
    assert "ColBERTModel, whose vectors of tokens are read from the layouts of PyLate" in embed_refusal(other.path)


def test_directories_without_an_encoder_are_refused(make):
    made = make(pooler=True)
    dress(made.path, OLD)
    (made.path / "modules.json").write_text('[{"path": ""}]')
    assert "expected objects with `type` and `path`" in refusal(made.path)
    (made.path / "modules.json").write_text("[]")
    assert "no modules" in refusal(made.path)
    list_modules(made.path, ("Transformer", "../other"))
    assert "path '../other'; expected a folder inside" in refusal(made.path)
    list_modules(made.path, ("WordEmbeddings", "0_WordEmbeddings"), ("Pooling", "1_Pooling"))
    message = refusal(made.path)
    assert "begins with WordEmbeddings, which is no transformer; expected Transformer" in message
    assert f"; without modules.json, {made.path} opens as a plain encoder" in message


def test_an_encoder_that_is_not_the_first_module_is_loaded(make):
    made = make()
    (made.path / "document_0_Transformer").mkdir()
    for file in list(made.path.iterdir()):
        if file.is_file():
            file.rename(made.path / "document_0_Transformer" / file.name)
    list_modules(made.path, ("sentence_transformers.models.Router", ""))
    assert bert_jax.load(made.path)[0].params
    assert "the encoder's module is Router; expected Transformer" in embed_refusal(made.path)


def test_damaged_settings_are_named_where_vectors_are_asked_for(make):
    made = make(pooler=True)
    dress(made.path, OLD, prompts={"truncate_dim": "x"})
    assert "config_sentence_transformers.json: truncate_dim 'x'; expected a positive" in embed_refusal(made.path)
    dress(made.path, OLD, prompts={"prompts": ["query: "]})
    assert "prompts ['query: ']; expected an object of texts by name" in embed_refusal(made.path)


GELU = lambda x: x * 0.5 * (1 + special.erf(x / 2**0.5))  # noqa: E731
SIGMOID = "torch.nn.modules.activation.Sigmoid"
CHAINS = {
    "tanh": ([("torch.nn.modules.activation.Tanh", 8, 4, {})], np.tanh),
    "none said": ([(None, 8, 6, {})], np.tanh),
    "identity, no bias": ([("torch.nn.modules.linear.Identity", 8, 12, {"bias": False})], lambda x: x),
    "gelu, float16": ([("torch.nn.modules.activation.GELU", 8, 5, {"dtype": np.float16})], GELU),
    "residual": ([("torch.nn.modules.activation.ReLU", 8, 3, {"use_residual": True})], lambda x: np.maximum(x, 0)),
    "two": ([(SIGMOID, 8, 6, {}), (SIGMOID, 6, 2, {})], special.expit),
}  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("chain", CHAINS)
def test_dense_layers_are_applied_and_written_back(make, tmp_path, chain):
    made = make(pooler=True)
    dress(made.path, OLD, normalize=False)
    plain = bert_jax.Embedder.from_pretrained(made.path).encode(["a b c", "d"]).astype(np.float64)
    layers, activation = CHAINS[chain]
    modules, expected = [("Transformer", ""), ("Pooling", "1_Pooling")], plain
    for i, (name, inputs, outputs, options) in enumerate(layers, 2):
        named = {"activation_function": name} if name else {}
        more = [("residual.weight", (outputs, inputs))] if options.get("use_residual") else []
        arrays = add_dense(made.path / f"{i}_Dense", inputs, outputs, i, more, **options | named)
        modules.append(("Dense", f"{i}_Dense"))
        mapped = activation(expected @ arrays["linear.weight"].T + arrays.get("linear.bias", 0))
        expected = mapped + expected @ arrays["residual.weight"].T if more else mapped
    list_modules(made.path, *modules)
    embedder = bert_jax.Embedder.from_pretrained(made.path)
    vectors = embedder.encode(["a b c", "d"])
    assert embedder.size == expected.shape[1]
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)
    normalized = bert_jax.Embedder.from_pretrained(made.path, normalize=True).encode("d")
    np.testing.assert_allclose(normalized, expected[1] / np.linalg.norm(expected[1]), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="a layer reads vectors of 8 numbers, but is given 16"):
        bert_jax.Embedder.from_pretrained(made.path, pooling=("cls", "mean"))
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    for folder in [folder for _, folder in modules[1:]]:
        for file in (made.path / folder).iterdir():
            assert (tmp_path / "out" / folder / file.name).exists()
    np.testing.assert_array_equal(bert_jax.Embedder.from_pretrained(tmp_path / "out").encode(["a b c", "d"]), vectors)


def test_layers_before_the_pooling_and_a_cut_at_the_end(make, tmp_path):
    made = make(pooler=True)
    dress(made.path, OLD, prompts={"truncate_dim": 3})
    words = bert_jax.Embedder.from_pretrained(made.path, pooling="cls", normalize=False)
    assert words.size == 3
    place = {"module_input_name": "token_embeddings"}
    add_dense(made.path / "2_Dense", 8, 6, activation_function="torch.nn.modules.linear.Identity", **place)
    modules = [("Transformer", ""), ("Dense", "2_Dense"), ("Pooling", "1_Pooling"), ("Dropout", "3_Dropout"), ("Normalize", "4_N")]  # fmt: skip # noqa: E501
    list_modules(made.path, *modules)
    model = huggingface.read(made.path)
    hidden = model.apply(rows.pad(model.tokenizer, [rows.join(model.tokenizer, [5, 6])], 8))["hidden"][0, :4]
    arrays = model.settings["token_layers"][0].arrays
    pooled = (np.asarray(hidden) @ arrays["kernel"] + arrays["bias"]).mean(0)
    vector = bert_jax.Embedder(model).encode("a b")
    np.testing.assert_allclose(vector, (pooled / np.linalg.norm(pooled))[:3], rtol=1e-4, atol=1e-5)
    unit = bert_jax.Embedder(model, normalize=True).encode("a b")
    np.testing.assert_allclose(unit, vector / np.linalg.norm(vector), rtol=1e-4, atol=1e-6)
    huggingface.write(model, tmp_path / "out")
    np.testing.assert_array_equal(bert_jax.Embedder.from_pretrained(tmp_path / "out").encode("a b"), vector)


@pytest.mark.parametrize("kind", ["Transformer", "BERT"])
def test_old_layouts_become_todays(make, tmp_path, kind):
    """The encoder's folder and module had its architecture's name; sentence-transformers lacks such modules today."""
    made = make(name="folder", pooler=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    made.path.rename(whole / f"0_{kind}")
    dress(whole, OLD | {"pooling_mode_max_tokens": True}, encoder=f"0_{kind}", max_seq_length=5, do_lower_case=True)
    list_modules(whole, (kind, f"0_{kind}"), ("Pooling", "1_Pooling"))
    actual = huggingface.read(whole)
    assert actual.settings["pooling"] == ("max", "mean") and actual.settings["max_length"] == 5
    huggingface.write(actual, tmp_path / "out")
    again = huggingface.read(tmp_path / "out")
    assert again.settings == actual.settings
    first = json.loads((tmp_path / "out" / "modules.json").read_text())[0]
    assert (first["path"], first["type"]) == ("", "sentence_transformers.models.Transformer")
    texts = ["A b", "c d e f g h a"]
    vectors = [bert_jax.Embedder(model).encode(texts) for model in (actual, again)]
    np.testing.assert_array_equal(*vectors)


def test_pickled_weights_of_an_old_layout_are_convertible_as_a_whole(make, tmp_path):
    made = make(name="folder", pooler=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    made.path.rename(whole / "0_Transformer")
    dress(whole, OLD, encoder="0_Transformer")
    (whole / "0_Transformer" / "model.safetensors").rename(whole / "0_Transformer" / "pytorch_model.bin")
    assert f" --model={whole} --output=DIR reads it" in refusal(whole)


CROSS = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("labels", "prompts", "config", "activation"),
    [
        (1, CROSS, {}, special.expit),
        (1, CROSS | {"activation_fn": "torch.nn.modules.linear.Identity"}, {}, lambda x: x),
        (1, CROSS | {"activation_fn": "torch.nn.modules.activation.Tanh"}, {}, np.tanh),
        (1, CROSS | {"activation_fn": "somewhere.Else"}, {}, special.expit),
        (1, None, {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, lambda x: x),
        (1, None, {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, special.expit),
        (1, None, {"sentence_transformers": {"version": "4.1.0"}}, special.expit),
        (3, CROSS | {"activation_fn": "torch.nn.modules.linear.Identity"}, {}, lambda x: x),
        (3, None, {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, lambda x: x),
        (3, None, {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, lambda x: x),
        (3, CROSS, {}, special.softmax),
        (3, CROSS | {"activation_fn": "somewhere.Else"}, {}, special.softmax),
        (3, CROSS, {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, special.expit),
        (3, None, {"sentence_transformers": {"version": "4.1.0"}}, special.softmax),
        (3, CROSS | {"activation_fn": "torch.nn.modules.activation.Sigmoid"}, {}, special.expit),
    ],
)
def test_a_cross_encoder_is_a_classifier(make, tmp_path, labels, prompts, config, activation):
    made = make(
        pooler=True, task="sequence_classification", id2label={str(i): f"L{i}" for i in range(labels)}, **config
    )
    plain = bert_jax.Classifier(dataclasses.replace(huggingface.read(made.path), settings={}, problem="regression"))
    logits = np.array(list(plain("a b", "c")["scores"].values()))
    if prompts:
        dress(made.path, OLD, prompts=prompts, transformer_task="sequence-classification", max_seq_length=7)
        list_modules(made.path, ("Transformer", ""))
    actual = huggingface.read(made.path)
    assert actual.problem == ("regression" if labels == 1 else "single_label")
    classify = bert_jax.Classifier(actual)
    assert classify.max_length == (7 if prompts else 11)
    answer = classify("a b", "c")
    np.testing.assert_allclose(list(answer["scores"].values()), activation(logits), rtol=1e-5)
    assert answer["score"] == max(answer["scores"].values())
    assert answer["label"] == (None if labels == 1 else f"L{np.argmax(logits)}")
    huggingface.write(actual, tmp_path / "out")
    assert bert_jax.Classifier.from_pretrained(tmp_path / "out")("a b", "c") == answer
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "problem_type" not in written and written.items() >= config.items()
    if prompts:
        for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
            assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((made.path / name).read_text())


def test_labels_of_a_cross_encoder_whose_scores_are_logits(make):
    labels = {"id2label": {"0": "a", "1": "b", "2": "c"}, "problem_type": "multi_label_classification"}
    made = make(pooler=True, task="sequence_classification", **labels)
    dress(made.path, OLD, prompts=CROSS | {"activation_fn": "torch.nn.modules.linear.Identity"})
    list_modules(made.path, ("Transformer", ""))
    made.write(made.arrays | {"classifier.bias": np.array([0.1, -20, 20], np.float32)})
    answer = bert_jax.Classifier(made.path)("a b", "c")
    logits = answer["scores"]
    assert logits["b"] < 0 < logits["c"] and answer["score"] == logits["c"]
    assert answer["label"] == (["c", "a"] if logits["a"] >= 0 else ["c"])


def test_prompts_of_a_cross_encoder(make, tmp_path):
    made = make(pooler=True, task="sequence_classification", num_labels=1)
    prompts = {"prompts": {"query": "a b ", "none": ""}, "default_prompt_name": "query"}
    dress(made.path, OLD, prompts=CROSS | prompts, transformer_task="sequence-classification")
    list_modules(made.path, ("Transformer", ""))
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    for path in (made.path, tmp_path / "out"):
        classify = bert_jax.Classifier(path)
        assert classify("c", "d") == classify("a b c", "d", prompt="") == classify("c", "d", prompt="a b ")
        assert classify("c", "d", prompt_name="none") == classify("c", "d", prompt="") != classify("c", "d")
        with pytest.raises(UserError, match="prompt_name: found 'other'; the prompts of .* are: none, query"):
            classify("c", "d", prompt_name="other")


def test_what_a_cross_encoder_cannot_is_named_where_scores_are_asked_for(make):
    made = make(pooler=True, task="sequence_classification", num_labels=1)
    dress(made.path, OLD, prompts=CROSS)
    model = huggingface.read(made.path)
    with pytest.raises(UserError, match="a cross-encoder with modules Transformer, Pooling, Normalize"):
        bert_jax.Classifier(model)
    assert bert_jax.Embedder(model).size == 8


def test_what_is_fetched_from_the_hub(tmp_path, monkeypatch):
    """Folders of modules whatever they are called; pickles of an encoder for convert alone."""
    there = ("modules.json", "0_Transformer/pytorch_model.bin", "1_Pooling/config.json", "2_Dense/pytorch_model.bin", "head/model.safetensors", "onnx/model.onnx")  # fmt: skip # noqa: E501

    def snapshot(name, patterns):
        for file in there:
            if any(fnmatch.fnmatch(file, pattern) for pattern in patterns):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).touch()
        list_modules(tmp_path, ("Transformer", "0_Transformer"), ("Pooling", "1_Pooling"), ("Dense", "head"))
        return tmp_path

    monkeypatch.setattr(hub, "_snapshot", snapshot)
    hub.directory("someone/model")
    assert not (tmp_path / there[1]).exists() and not (tmp_path / there[5]).exists()
    assert all((tmp_path / file).exists() for file in there[2:5])
    hub.directory("someone/model", pickles=True)
    assert (tmp_path / there[1]).exists()
