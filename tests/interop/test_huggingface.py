"""Tests directories in the Hugging Face format: every layout is read, bytes survive, every mismatch is reported."""

import dataclasses
import errno
import json
import os

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from scipy import special

from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface, model_config, tensors
from bert_jax.model import layers
from bert_jax.model.spec import make_spec
from bert_jax.runs.models import open_model
from tests.interop.conftest import TOKENS

# What a model can hold: the pairs that a file's names must tell apart.
HEADS = {
    "BertModel": dict(pooler=True),
    "BertModel without pooler": dict(),
    "BertForPreTraining": dict(pooler=True, language_model=True, next_sentence=True),
    "BertForMaskedLM": dict(language_model=True),
    "BertForMaskedLM with pooler": dict(pooler=True, language_model=True),
    "BertForNextSentencePrediction": dict(pooler=True, next_sentence=True),
    "BertForSequenceClassification": dict(pooler=True, task="sequence_classification"),
    "BertForTokenClassification": dict(task="token_classification"),
    "BertForTokenClassification with pooler": dict(task="token_classification", pooler=True),
    "BertForQuestionAnswering": dict(task="question_answering"),
    "RobertaModel": dict(model_type="roberta", pooler=True),
    "RobertaForMaskedLM": dict(model_type="roberta", language_model=True),
    "RobertaForSequenceClassification": dict(model_type="roberta", task="sequence_classification"),
    "XLMRobertaForTokenClassification": dict(model_type="xlm-roberta", task="token_classification"),
    "CamembertForQuestionAnswering": dict(model_type="camembert", task="question_answering"),
}


def read_arrays(path):
    return tensors.read(path)[0]


def assert_same_bytes(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape, name
        assert actual[name].tobytes() == array.tobytes(), name


def refusal(path, **arguments):
    with pytest.raises(UserError) as raised:
        huggingface.read(path, **arguments)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", HEADS)
def test_what_the_file_holds_is_built_and_written_back(make, tmp_path, name):
    architecture = name.split()[0]
    made = make(**HEADS[name], architectures=[architecture])
    actual = open_model(made.path)
    assert actual.model.spec == made.model.spec
    assert actual.family == made.config["model_type"]
    huggingface.write(actual, tmp_path / "out")
    bare = architecture.endswith("Model")
    expected = {key.removeprefix(f"{made.table.prefix}.") if bare else key: a for key, a in made.arrays.items()}
    assert_same_bytes(read_arrays(tmp_path / "out"), expected)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == [architecture]
    again = huggingface.read(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, actual.params, again.params)
    assert (again.labels, again.problem, again.scheme) == (actual.labels, actual.problem, actual.scheme)
    assert again.model.spec == actual.model.spec


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_old_spellings_and_dtypes(make, tmp_path, dtype):
    made = make(pooler=True, language_model=True, next_sentence=True, dtype=dtype, architectures=["BertForMaskedLM"])
    old = {}
    for name, array in made.arrays.items():
        if "LayerNorm" in name:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name] = array
    old["bert.embeddings.position_ids"] = np.arange(11)[None]
    old["cls.predictions.decoder.weight"] = made.arrays["bert.embeddings.word_embeddings.weight"].copy()
    old["cls.predictions.decoder.bias"] = made.arrays["cls.predictions.bias"].copy()
    made.write(old)
    actual = huggingface.read(made.path)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(actual.params))
    huggingface.write(actual, tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_decoder_stored_instead_of_what_it_is_tied_to(make, tmp_path):
    made = make(language_model=True, dtype="bfloat16")
    arrays = dict(made.arrays)
    arrays["cls.predictions.decoder.weight"] = arrays.pop("bert.embeddings.word_embeddings.weight")
    arrays["cls.predictions.decoder.bias"] = arrays.pop("cls.predictions.bias")
    made.write(arrays)
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)


def test_names_without_a_prefix_beside_heads(make):
    made = make("roberta", language_model=True)
    huggingface.read(made.path)
    made.write({name.removeprefix("roberta."): array for name, array in made.arrays.items()})
    assert huggingface.read(made.path).model.spec.language_model


def test_shards(make, tmp_path):
    made = make(pooler=True)
    (made.path / "model.safetensors").unlink()
    tensors.write(made.arrays, made.path, shard_bytes=600)
    assert len(list(made.path.glob("model-*-of-*.safetensors"))) > 2
    actual = huggingface.read(made.path)
    huggingface.write(actual, tmp_path / "out")
    assert set(read_arrays(tmp_path / "out")) == {name.removeprefix("bert.") for name in made.arrays}
    shard = sorted(made.path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert f"model.safetensors.index.json: names {shard.name}" in refusal(made.path)


def test_config_json_becomes_config_model(make):
    made = make(
        "roberta", pad_token_id=3, max_position_embeddings=20, layer_norm_eps=1e-5, hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.3, type_vocab_size=1, hidden_act="gelu_new", task="token_classification",
        classifier_dropout=0.4, id2label={"0": "O", "1": "B-PER", "2": "I-PER"},
    )  # fmt: skip
    actual = huggingface.read(made.path)
    spec = actual.model.spec
    assert (spec.position_offset, spec.max_positions, spec.type_vocab_size) == (4, 16, 1)
    assert (spec.norm_epsilon, spec.hidden_dropout, spec.attention_dropout) == (1e-5, 0.2, 0.3)
    assert (spec.activation, spec.task.dropout, actual.labels) == ("gelu_tanh", 0.4, ("O", "B-PER", "I-PER"))
    assert actual.scheme == "BIO"
    assert set(actual.config) == set(config_lib.base().model)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(), (("LABEL_0", "LABEL_1"), "single_label")),
        (dict(num_labels=1), (("LABEL_0",), "regression")),
        (dict(problem_type="multi_label_classification"), (("LABEL_0", "LABEL_1"), "multi_label")),
        (dict(id2label={"1": "good", "0": "bad"}), (("bad", "good"), "single_label")),
        (dict(id2label={"0": 7, "1": 9}, num_labels=5), (("7", "9"), "single_label")),
        (dict(id2label={}, _num_labels=3), (("LABEL_0", "LABEL_1", "LABEL_2"), "single_label")),
        (dict(id2label=["bad", "good"], problem_type=None), (("bad", "good"), "single_label")),
        (dict(num_labels=1, problem_type="regression"), (("LABEL_0",), "regression")),
    ],
)  # fmt: skip
def test_labels_and_problem(make, tmp_path, changes, expected):
    made = make(pooler=True, task="sequence_classification", **changes)
    actual = huggingface.read(made.path)
    assert (actual.labels, actual.problem) == expected
    huggingface.write(actual, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.get("problem_type") == changes.get("problem_type")  # nothing is invented
    assert ("problem_type" in written) == ("problem_type" in changes)
    again = huggingface.read(tmp_path / "out")
    assert (again.labels, again.problem) == expected


def test_odd_labels_are_kept_and_told(make, tmp_path, capsys):
    names = {"0": "neg", "1": "neutral", "2": "neutral"}
    ids = {"neg": 0, "neutral": 1, "pos": 2}
    made = make(pooler=True, task="sequence_classification", id2label=names, label2id=ids)
    actual = huggingface.read(made.path)
    assert actual.labels == ("neg", "neutral", "neutral")
    told = capsys.readouterr().err
    assert "id2label has neutral more than once" in told
    assert "label2id disagrees with id2label on pos; id2label is used" in told
    huggingface.write(actual, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["id2label"], written["label2id"]) == (names, ids)


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (["O", "B-PER", "I-PER"], "BIO"),
        (["O", "B-PER", "I-PER", "E-PER", "S-PER"], "BIOES"),
        (["NOUN", "VERB"], ""),
        (["O", "U-PER", "L-PER"], ""),
        (["O", "B-PER", "I-PER", "U-PER", "L-PER"], "BIOES"),
        (["O", "B-PER", "I-PER", "X", "[CLS]", "[SEP]"], "BIO"),
    ],
)
def test_schemes_of_labels(labels, scheme):
    config = {"model_type": "bert", "id2label": {str(i): label for i, label in enumerate(labels)}}
    assert model_config.to_task(config, "token_classification", "config.json")[3] == scheme


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "xlnet"}, "model_type 'xlnet' is not supported; expected one of bert, roberta"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
        ({"hidden_act": "prelu"}, "hidden_act 'prelu' is not supported; expected one of gelu"),
        ({"hidden_size": "8"}, "hidden_size '8'; expected a positive number"),
        ({"num_attention_heads": 3}, "hidden_size 8 is not divisible by num_attention_heads 3"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob 1.0; expected a rate"),
        ({"hidden_size": 10}, "bert.embeddings.word_embeddings.weight has shape (17, 8), expected (17, 10)"),
        ({"vocab_size": 12}, "bert.embeddings.word_embeddings.weight has shape (17, 8), expected (12, 8)"),
        ({"num_hidden_layers": 1}, "unused bert.encoder.layer.1.attention.output.LayerNorm.bias"),
        ({"num_hidden_layers": 3}, "missing bert.encoder.layer.2.attention.output.LayerNorm.bias"),
        ({"architectures": ["BertForMultipleChoice"]}, "architecture BertForMultipleChoice is not supported"),
        ({"architectures": [None]}, "architectures [None]; expected a list of names"),
        ({"model_type": ["bert"]}, "model_type ['bert'] is not supported"),
        ({"hidden_act": ["gelu"]}, "hidden_act ['gelu'] is not supported"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_named(make, changes, message):
    made = make(language_model=True)
    made.write_config(**changes)
    assert message in refusal(made.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token_id": "1"}, "pad_token_id '1'; expected the id of a token"),
        ({"pad_token_id": -1}, "pad_token_id -1; expected the id of a token"),
        ({"num_labels": "2"}, "num_labels '2'; expected a positive number"),
        ({"classifier_dropout": "0.1"}, "classifier_dropout '0.1'; expected a rate"),
    ],
)
def test_settings_of_a_classifier_that_do_not_fit_are_named(make, changes, message):
    made = make("roberta", task="sequence_classification")
    made.write_config(**changes)
    assert message in refusal(made.path)


def test_a_head_of_roberta_has_its_own_activation(make):
    made = make("roberta", language_model=True, hidden_act="relu")
    spec = huggingface.read(made.path).model.spec
    assert (spec.activation, spec.head_activation) == ("relu", "gelu")


def test_damaged_directories_are_told_in_one_line(make, tmp_path):
    made = make(pooler=True)
    weights_file, config = made.path / "model.safetensors", made.path / "config.json"
    whole = weights_file.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        weights_file.write_bytes(whole[:size])
        assert "model.safetensors: cut off or no safetensors file" in refusal(made.path)
    weights_file.write_bytes(b"\x10" + bytes(7) + b"not json, really" + bytes(100))
    assert "no safetensors file" in refusal(made.path)
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for changes in ({"data_offsets": [0]}, {"data_offsets": ["0", 4]}, {"shape": [1.0]}, {"dtype": [4]}):
        header = json.dumps({"a": entry | changes}).encode()
        weights_file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        assert "model.safetensors: cut off or no safetensors file" in refusal(made.path)
    weights_file.write_bytes(whole)
    text = config.read_text()
    config.write_text(text[:-9])
    assert "config.json: not JSON" in refusal(made.path)
    config.write_text("[]")
    assert "found list; expected dict" in refusal(made.path)
    config.unlink()
    assert "without config.json" in refusal(made.path)
    config.write_text(text)
    weights_file.unlink()
    assert "no weights; expected model.safetensors" in refusal(made.path)
    (made.path / "pytorch_model.bin").write_bytes(b"\x80\x02anything")
    assert "bert-jax convert" in refusal(made.path)
    assert "no such directory" in refusal(tmp_path / "nowhere")


def test_every_mismatch_is_in_one_error(make):
    made = make(pooler=True)
    arrays = dict(made.arrays)
    del arrays["bert.pooler.dense.bias"]
    arrays["classifier.weight"] = np.zeros((3, 8), np.float32)
    arrays["classifier.bias"] = np.zeros(3, np.float32)
    arrays["bert.encoder.layer.7.output.dense.bias"] = np.zeros(8, np.float32)
    arrays["bert.embeddings.LayerNorm.gamma"] = np.zeros(8, np.float32)
    arrays["bert.encoder.layer.0.output.dense.bias"] = np.zeros(8, np.int32)
    made.write(arrays)
    message = refusal(made.path)
    for part in (
        "missing bert.pooler.dense.bias", "classifier.weight has shape (3, 8), expected (2, 8)",
        "unused bert.encoder.layer.7.output.dense.bias", "LayerNorm.gamma", "is stored as int32",
    ):  # fmt: skip
        assert part in message


def test_a_head_without_the_pooler_that_it_reads(make):
    made = make(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"])
    made.write({name: array for name, array in made.arrays.items() if "pooler" not in name})
    assert "model.safetensors: does not fit the model: missing bert.pooler.dense.weight" in refusal(made.path)


def test_a_decoder_of_its_own_is_refused(make):
    made = make(language_model=True)
    other = made.arrays["bert.embeddings.word_embeddings.weight"] + 1
    made.write(made.arrays | {"cls.predictions.decoder.weight": other})
    assert "cls.predictions.decoder.weight differs from bert.embeddings" in refusal(made.path)


def test_vocabularies_and_embeddings_of_different_sizes(make, capsys, monkeypatch):
    made = make()  # 14 tokens, 17 rows
    assert huggingface.read(made.path).model.spec.vocab_size == 17
    assert not capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "_TOY", 17)
        huggingface.read(made.path)
        told = capsys.readouterr().err
        assert "14 tokens, but the word embedding of model.safetensors has 17 rows; is it" in told
        assert "3 rows belong to no token" in told and told.count("\n") == 1
    with (made.path / "vocab.txt").open("a") as file:
        file.write("i\nj\nk\nl\n")
    assert "the tokenizer has 18 tokens, but the word embedding of model.safetensors has 17 rows" in refusal(made.path)


@pytest.mark.parametrize(("rows", "told"), [(1100, 1), (1128, 0), (1136, 1), (19_493, 1)])
def test_spare_rows_of_the_embedding_are_kept(make, tmp_path, capsys, rows, told):
    """As in published files, where the embedding of IndoBERT has 19,479 rows more than its vocabulary."""
    made = make(language_model=True, vocab_size=rows)
    tokens = [*TOKENS, *(f"t{i}" for i in range(1008 - len(TOKENS)))] if rows < 2000 else TOKENS
    (made.path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    actual = huggingface.read(made.path)
    assert capsys.readouterr().err.count("rows belong to no token") == told
    assert (actual.model.spec.vocab_size, actual.tokenizer.vocab_size) == (rows, len(tokens))
    huggingface.write(actual, tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows


def wrapped(name, kind):
    """Returns a name as a wrapper of torch, or a trainer's module around the model, has it."""
    if kind == "encoder compiled":
        return name.replace("encoder.layer", "encoder._orig_mod.layer")
    return {"trainer": "net.model.", "both": "module._orig_mod."}.get(kind, f"{kind}.") + name


@pytest.mark.parametrize("kind", ["module", "_orig_mod", "both", "encoder compiled", "trainer", "0.auto_model"])
def test_names_of_a_wrapped_model(make, tmp_path, capsys, kind):
    made = make(pooler=True, language_model=True)
    names = {wrapped(name, kind): array for name, array in made.arrays.items()}
    made.write(names | {"loss_fct.weight": np.ones(2, np.float32), "bert.embeddings.position_ids": np.arange(11)[None]})
    actual = huggingface.read(made.path)
    told = capsys.readouterr().err
    assert told.count("\n") == 2
    assert "are read without the wrapper" in told and "are left out: loss_fct.weight" in told
    assert actual.model.spec == made.model.spec
    huggingface.write(actual, tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)


def test_two_models_in_one_file_are_not_one(make):
    made = make(pooler=True)
    made.write({f"{tower}.{name}": array for name, array in made.arrays.items() for tower in ("query", "document")})
    assert "does not fit the model: missing" in refusal(made.path)


def test_arrays_of_other_modules_are_left_out(make, capsys):
    made = make(task="token_classification", architectures=["BertCrfForTokenClassification"])
    more = ("crf.transitions", "criterion.weight", "aux_head.0.weight", "pooler_2.bias", "logit_scale")
    made.write(made.arrays | {name: np.ones(3, np.float32) for name in more})
    assert huggingface.read(made.path).model.spec.task.name == "token_classification"
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "left out: aux_head.0.weight, crf.transitions, criterion.weight and 2 more" in told


def test_a_head_that_only_looks_like_the_familys(make, capsys):
    made = make(pooler=True)
    made.write(made.arrays | {"classifier.dense.weight": np.ones((8, 8), np.float32)})
    assert not huggingface.read(made.path).model.spec.task
    assert "left out: classifier.dense.weight" in capsys.readouterr().err
    made = make("deberta", name="deberta", type_vocab_size=0)
    made.write(made.arrays | {"pooler.dense.weight": np.ones((8, 8), np.float32)})
    assert not huggingface.read(made.path).model.spec.task


def test_float64_is_read_as_float32(make, tmp_path, capsys):
    made = make(pooler=True, torch_dtype="float64")
    made.write({name: array.astype(np.float64) for name, array in made.arrays.items()})
    actual = huggingface.read(made.path)
    assert "stored as float64, which are read as float32" in capsys.readouterr().err
    huggingface.write(actual, tmp_path / "out")
    expected = {name.removeprefix("bert."): array for name, array in made.arrays.items()}
    assert_same_bytes(read_arrays(tmp_path / "out"), expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"


@pytest.mark.parametrize(
    ("model_type", "changes", "told"),
    [
        ("bert", {"architectures": ["BertModel"]}, "read as bert"),
        ("roberta", {"architectures": ["RobertaForMaskedLM"]}, "read as roberta"),
        ("xlm-roberta", {"architectures": ["XLMRobertaModel"]}, "read as xlm-roberta"),
        ("bert", {"architectures": None}, "read as bert"),
    ],
)
def test_a_config_without_model_type(make, capsys, model_type, changes, told):
    made = make(model_type, language_model=True, **changes)
    made.write_config(model_type=None)
    assert huggingface.read(made.path).family == model_type
    assert f"without model_type; {told}" in capsys.readouterr().err


def test_a_config_without_model_type_that_several_families_fit(make):
    made = make(pooler=True)
    made.write({name.removeprefix("bert."): array for name, array in made.arrays.items()})
    made.write_config(model_type=None)
    message = refusal(made.path)
    assert "config.json: without model_type; expected one of bert" in message and "roberta" in message
    named = made.path.rename(made.path.with_name("tiny-bert-uncased"))
    assert huggingface.read(named).family == "bert"


ACTIVATIONS = {
    "gelu_10": lambda x: np.clip(x * 0.5 * (1 + special.erf(x / 2**0.5)), -10, 10),
    "quick_gelu": lambda x: x * special.expit(1.702 * x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "laplace": lambda x: 0.5 * (1 + special.erf((x - 0.707107) / (0.282095 * 2**0.5))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": special.expit,
    "sqrtsoftplus": lambda x: np.logaddexp(x, 0) ** 0.5,
    "gelu_accurate": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "swish": lambda x: x * special.expit(x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(make, tmp_path, name):
    """As transformers.activations.ACT2FN defines them, and written back by the name that they came with."""
    actual = huggingface.read(make(hidden_act=name).path)
    x = np.concatenate([np.linspace(-12, 12, 97), [0.001, 40.0]]).astype(np.float32)
    computed = layers.ACTIVATIONS[actual.model.spec.activation](x)
    np.testing.assert_allclose(computed, ACTIVATIONS[name](x.astype(np.float64)), rtol=2e-5, atol=1e-6)
    huggingface.write(actual, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_act"] == name


def test_an_empty_vocabulary(make):
    made = make()
    (made.path / "vocab.txt").write_text("")
    assert "its vocabulary of 0 has no [UNK]" in refusal(made.path)


def test_a_name_is_found_in_the_hubs_cache(make, tmp_path, monkeypatch):
    import huggingface_hub.constants

    made = make(pooler=True)
    repository = tmp_path / "cache" / "models--someone--tiny"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    made.path.rename(repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert huggingface.read("someone/tiny").name == "someone/tiny"
    message = refusal("someone/other")
    assert message.startswith("someone/other: no such directory") and "hub" in message


def test_what_the_format_cannot_say_is_refused(make, tmp_path):
    def message(pretrained, **changes):
        spec = dataclasses.replace(pretrained.model.spec, **changes)
        changed = dataclasses.replace(pretrained, model=dataclasses.replace(pretrained.model, spec=spec))
        with pytest.raises(UserError) as raised:
            huggingface.write(changed, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(raised.value)

    classifier = huggingface.read(make(pooler=True, task="sequence_classification").path)
    task = classifier.model.spec.task
    assert "config.model.attention=causal" in message(classifier, attention="causal")
    assert "config.model.position_offset=2" in message(classifier, position_offset=2)
    for pooling in ("dense", "mean", "attention"):
        assert f"config.task.pooling={pooling}" in message(classifier, task=dataclasses.replace(task, pooling=pooling))
    tagger = huggingface.read(make("roberta", name="tagger", task="token_classification").path)
    crf = dataclasses.replace(tagger.model.spec.task, crf=True)
    assert "config.task.crf=True" in message(tagger, task=crf)
    assert "config.objective.next_sentence=True" in message(tagger, next_sentence=True)
    head = dict(language_model=True, task=None, activation="relu", head_activation="relu")
    assert "config.model.head_activation=relu, where it is gelu" in message(tagger, **head)
    no_origin = dataclasses.replace(tagger, origin=None)
    assert "config.model.position_offset=5" in message(no_origin, position_offset=5)


def test_a_switch_of_the_model_is_said_by_the_format_or_told():
    """Changes each field of BERT's spec: a family that claims to express the model reads the same field back."""
    others = {
        "activation": "relu", "positions": "rotary", "norm": "rms_norm", "norm_place": "pre", "mlp": "gated",
        "attention": "causal", "num_kv_heads": 2, "head_size": 4, "layer_groups": 1, "local_window": 4,
        "mlm_transform": False, "head_activation": "tanh", "decoder_bias": False, "head_bias": False,
        "tied_decoder": False, "mlp_bias": False, "attention_bias": False, "key_bias": False, "norm_bias": False,
        "embedding_norm": False, "embedding_size": 4, "conv_kernel_size": 3, "type_vocab_size": 0,
    }  # fmt: skip
    base = config_lib.base().model.to_dict() | {"num_heads": 4, "pooler": False, "hidden_size": 24}
    spec = make_spec(base, 17, next_sentence=False)
    assert formats.choose_family(spec) == "bert"
    for key, value in others.items():
        changed = dataclasses.replace(spec, **{key: value})
        family = formats.choose_family(changed)
        actual = formats.differences(changed, family)
        if actual:
            assert any(one.key == f"model.{key}" for one in actual), (key, family)
            continue
        config = model_config.from_model(changed, family)
        settings = model_config.to_model(config, "config.json") | {"pooler": False}
        assert getattr(make_spec(settings, 17, next_sentence=False), key) == value, (key, family)
    assert formats.choose_family(dataclasses.replace(spec, embedding_size=4)) == "electra"
    assert formats.choose_family(dataclasses.replace(spec, embedding_size=4, layer_groups=1)) == "albert"
    assert formats.choose_family(dataclasses.replace(spec, type_vocab_size=0)) == "distilbert"


def test_nothing_is_overwritten_and_nothing_left_behind(make, tmp_path, monkeypatch):
    actual = huggingface.read(make().path)
    out = tmp_path / "out"
    out.mkdir()
    huggingface.write(actual, out)  # empty
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="is there already"):
        huggingface.write(actual, out)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        huggingface.write(actual, tmp_path / "file")
    monkeypatch.setattr(tensors, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        huggingface.write(actual, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "file"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("shard_bytes", [tensors.SHARD_BYTES, 1])
def test_weights_that_cannot_be_written(tmp_path, monkeypatch, number, shard_bytes):
    """Safetensors has errors of its own for what the system says."""
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}

    def fail(*_, **__):
        words = os.strerror(number)
        raise safetensors.SafetensorError(f"Error while serializing: I/O error: {words} (os error {number})")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        tensors.write(arrays, tmp_path, shard_bytes)
    assert error.value.errno == number


def test_another_dtype_on_request(make, tmp_path):
    actual = huggingface.read(make(pooler=True).path)
    huggingface.write(actual, tmp_path / "half", "float16")
    assert {array.dtype.name for array in read_arrays(tmp_path / "half").values()} == {"float16"}
    actual.params["pooler"]["dense"]["bias"][0] = 1e6
    with pytest.raises(UserError, match="--dtype=float16: cannot hold the numbers of bert.pooler.dense.bias"):
        huggingface.write(actual, tmp_path / "more", "float16")


def test_the_tokenizers_files_are_kept_and_config_json_says_the_rest(make, tmp_path):
    made = make(pooler=True, chunk_size_feed_forward=0, _name_or_path="someone", torch_dtype="float32")
    (made.path / "special_tokens_map.json").write_text('{ "unk_token":"[UNK]" }')
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    for name in ("vocab.txt", "special_tokens_map.json"):
        assert (tmp_path / "out" / name).read_bytes() == (made.path / name).read_bytes()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.items() >= made.config.items()


def test_a_loaded_model_under_jit(make):
    model = huggingface.read(make().path)
    ids = np.array([[2, 7, 3]], np.int32)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    plain, jitted = model.apply(batch), jax.jit(model.apply)(batch)
    assert plain.keys() == jitted.keys()
    for name in plain:
        np.testing.assert_allclose(jitted[name], plain[name], rtol=1e-5, atol=1e-6)


def test_overwrite_replaces_a_model_and_nothing_else(make, tmp_path):
    actual, out = huggingface.read(make().path), tmp_path / "out"
    huggingface.write(actual, out, "float16", card="first")
    huggingface.write(actual, out, card="second", overwrite=True)
    expected = tmp_path / "expected"
    huggingface.write(actual, expected, card="first")  # a README.md is kept
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in expected.iterdir()
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds notes.txt, which --overwrite would delete; move it away"):
        huggingface.write(actual, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and (out / "model.safetensors").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run of pre-training; expected a new or an empty directory"):
        huggingface.write(actual, tmp_path / "run", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "run"])
