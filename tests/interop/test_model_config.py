"""Tests what config.json in the Hugging Face format says: it is read into config.model and task, and written back."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import special

import bert_jax
from bert_jax import config as config_lib
from bert_jax.interop import formats, huggingface, model_config
from bert_jax.model import layers
from bert_jax.model.spec import make_spec
from tests.interop.conftest import refusal


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


ODD_LABELS = [
    (dict(id2label={"1": "a", "2": "b", "3": "c"}), ("LABEL_0", "a", "b"), "the ids 1, 2, 3, not 0 to 2"),
    (dict(id2label={"0": "a", "2": "b", "5": "c"}), ("a", "LABEL_1", "b"), "the ids 0, 2, 5, not 0 to 2"),
    (dict(id2label={"-1": "a", "0": "b", "1": "c"}), ("b", "c", "LABEL_2"), "the ids -1, 0, 1, not 0 to 2"),
    (dict(id2label={"1": "LABEL_1", "2": "LABEL_0", "3": "x"}), ("LABEL_0", "LABEL_1", "LABEL_0"), "the ids 1, 2, 3"),
    (dict(id2label={"neg": 0, "pos": 1}), ("LABEL_0", "LABEL_1"), "id2label is no object of names by id"),
    (dict(id2label="a,b", num_labels=3), ("LABEL_0", "LABEL_1", "LABEL_2"), "id2label is no object of names by id"),
    (dict(problem_type="ranking"), ("LABEL_0", "LABEL_1"), "problem_type 'ranking' is none of"),
    (dict(problem_type="ranking", num_labels=1), ("LABEL_0",), "problem_type 'ranking' is none of"),
    (dict(problem_type=["regression"]), ("LABEL_0", "LABEL_1"), "problem_type ['regression'] is none of"),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("changes", "labels", "told"), ODD_LABELS)
def test_odd_ids_and_problems_open_as_in_transformers(make, tmp_path, capsys, changes, labels, told):
    made = make(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"], **changes)
    actual = huggingface.read(made.path)
    assert (actual.labels, actual.problem) == (labels, "single_label")
    lines = capsys.readouterr().err.splitlines()
    assert told in lines[0] and sum("id2label has the" in line or "none of" in line for line in lines) <= 1
    assert bert_jax.Embedder(actual, pooling="mean")(["a b"]).shape == (1, 8)
    scores = bert_jax.Classifier(actual)("a b")["scores"]
    assert len(scores) == len(labels)
    huggingface.write(actual, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.items() >= {key: changes[key] for key in ("problem_type",) if key in changes}.items()
    plain = {str(i): label for i, label in enumerate(labels)}
    assert written["id2label"] == (changes.get("id2label") if "has the ids" in lines[0] else plain)
    again = huggingface.read(tmp_path / "out")
    assert (again.labels, again.problem) == (labels, "single_label")


def test_one_output_with_an_unknown_problem_is_a_probability(make):
    made = make(pooler=True, task="sequence_classification", num_labels=1, problem_type="ranking")
    answer = bert_jax.Classifier(made.path)("a b")
    assert answer["label"] == "LABEL_0" and 0 < answer["score"] < 1  # as transformers' pipeline


def test_tags_with_odd_ids_open(make):
    names = {"1": "O", "2": "B-PER", "3": "I-PER", "4": "X"}
    actual = huggingface.read(make(task="token_classification", id2label=names, problem_type="ranking").path)
    assert (actual.labels, actual.scheme) == (("LABEL_0", "O", "B-PER", "I-PER"), "BIO")


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
        ({"num_hidden_layers": 3}, "missing bert.encoder.layer.2.attention.output.LayerNorm.bias"),
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
    """Activations are those of transformers' ACT2FN, and are written back by the name that they came with."""
    actual = huggingface.read(make(hidden_act=name).path)
    x = np.concatenate([np.linspace(-12, 12, 97), [0.001, 40.0]]).astype(np.float32)
    computed = layers.ACTIVATIONS[actual.model.spec.activation](x)
    np.testing.assert_allclose(computed, ACTIVATIONS[name](x.astype(np.float64)), rtol=2e-5, atol=1e-6)
    huggingface.write(actual, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_act"] == name


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
