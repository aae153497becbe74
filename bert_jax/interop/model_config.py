"""config.json of a Hugging Face model: to the keys of config.model, and back."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping

from bert_jax.errors import UserError
from bert_jax.model import Task

# Our activations: how Hugging Face calls each, the name that is written first.
_ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"),
    "relu": ("relu",),
}
# Our key: theirs, and what a config.json without it means (their configuration classes' defaults).
_KEYS = {
    "hidden_size": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "type_vocab_size": ("type_vocab_size", 2),
    "norm_epsilon": ("layer_norm_eps", 1e-12),
    "hidden_dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "initializer_range": ("initializer_range", 0.02),
}
# Keys that change what the model computes, and the values that mean "as BERT does".
_REFUSED = {
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "is_encoder_decoder": (None, False),
    "pruned_heads": (None, {}),
    "quantization_config": (None, {}),
}
_PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
# The end of an architecture's name: the task that it fine-tunes.
_TASKS = {
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}


@dataclasses.dataclass(frozen=True)
class ModelType:
    """A `model_type`.

    Attributes:
      family: the name table that its weights follow, "bert" or "roberta".
      class_prefix: how the names of its classes begin.
      pooling: what its classifiers of sequences read, as Task's.
      vocab_size, pad_id: what a config.json without them means.
    """

    family: str
    class_prefix: str
    pooling: str
    vocab_size: int
    pad_id: int


MODEL_TYPES = {
    "bert": ModelType("bert", "Bert", "pooler", 30522, 0),
    "roberta": ModelType("roberta", "Roberta", "dense", 50265, 1),
    "xlm-roberta": ModelType("roberta", "XLMRoberta", "dense", 30522, 1),
    "camembert": ModelType("roberta", "Camembert", "dense", 30522, 1),
}


def load(path: pathlib.Path) -> dict:
    """A config.json whose model_type is supported. Raises UserError."""
    config = load_json(path)
    found = config.get("model_type")
    if not isinstance(found, str) or found not in MODEL_TYPES:
        raise UserError(f"{path}: model_type {found!r} is not supported; expected one of {', '.join(MODEL_TYPES)}")
    return config


def load_json(path: pathlib.Path, kind: type = dict):
    """What a JSON file holds. Raises UserError if that is no `kind`."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, kind):
        raise UserError(f"{path}: found {type(found).__name__}; expected {kind.__name__}")
    return found


def to_model(config: Mapping, path: pathlib.Path) -> dict:
    """The keys of config.model, but for `pooler`, which the weights decide.

    Raises:
      UserError: a key that changes what the model computes has a value that is not supported, or no sensible one.
    """
    kind = MODEL_TYPES[config["model_type"]]
    for key, allowed in _REFUSED.items():
        if config.get(key) not in allowed:
            raise UserError(f"{path}: {key} {config[key]!r} is not supported; expected {allowed[-1]!r}")
    act = config.get("hidden_act", "gelu")
    known = {theirs: ours for ours, names in _ACTIVATIONS.items() for theirs in names}
    if not isinstance(act, str) or act not in known:
        raise UserError(f"{path}: hidden_act {act!r} is not supported; expected one of {', '.join(known)}")
    model = {ours: config.get(theirs, default) for ours, (theirs, default) in _KEYS.items()}
    pad_id = config.get("pad_token_id")
    if pad_id is not None and (not isinstance(pad_id, int) or pad_id < 0) and kind.family == "roberta":
        raise UserError(f"{path}: pad_token_id {pad_id!r}; expected the id of a token")
    offset = 0 if kind.family == "bert" else (kind.pad_id if pad_id is None else pad_id) + 1
    model |= {
        "vocab_size": config.get("vocab_size", kind.vocab_size),
        "max_positions": config.get("max_position_embeddings", 512),
        "activation": known[act],
        "position_offset": offset,
        "attention": "bidirectional",
        "dtype": "auto",
        "scan_layers": False,
        "attention_kernel": "auto",
        "remat": "none",
    }
    _check_numbers(model, path)
    model["max_positions"] -= offset
    if model["max_positions"] < 1:
        raise UserError(f"{path}: max_position_embeddings leaves no position behind pad_token_id {offset - 1}")
    if model["hidden_size"] % model["num_heads"]:
        raise UserError(
            f"{path}: hidden_size {model['hidden_size']} is not divisible by num_attention_heads {model['num_heads']}"
        )
    return model


def to_task(config: Mapping, name: str, pooling: str, path: pathlib.Path) -> tuple[Task, tuple[str, ...], str, str]:
    """(task, labels, problem, scheme) of a head that the weights hold. Raises UserError.

    Args:
      config: of config.json.
      name: as Task's.
      pooling: what a sequence's classifier reads.
      path: of config.json, for messages.
    """
    if name == "question_answering":  # transformers' head has no dropout
        return Task(name, 2, pooling, dropout=0.0), ("start", "end"), "", ""
    labels = _labels(config, path)
    dropout = config.get("classifier_dropout")
    dropout = config.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{path}: classifier_dropout {dropout!r}; expected a rate in [0, 1)")
    task = Task(name, len(labels), pooling, dropout)
    if name == "token_classification":
        return task, labels, "", _scheme(labels)
    default = "regression" if len(labels) == 1 else "single_label"
    found = config.get("problem_type")
    problem = next((ours for ours, theirs in _PROBLEMS.items() if theirs == found), None)
    if found is not None and problem is None:
        raise UserError(f"{path}: problem_type {found!r}; expected one of {', '.join(_PROBLEMS.values())}")
    return task, labels, problem or default, ""


def architecture_task(config: Mapping, path: pathlib.Path) -> str:
    """The task that `architectures` names, "" for none. Raises UserError for a head that is not supported."""
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise UserError(f"{path}: architectures {architectures!r}; expected a list of names")
    for architecture in architectures:
        if architecture.endswith("ForMultipleChoice"):
            known = ", ".join(_TASKS)
            raise UserError(f"{path}: architecture {architecture} is not supported; expected one of {known}")
        for ending, task in _TASKS.items():
            if architecture.endswith(ending):
                return task
    return ""


def architecture(model_type: str, task: Task | None, language_model: bool, next_sentence: bool) -> str:
    """The transformers class whose heads a model has."""
    if task:
        ending = next(ending for ending, name in _TASKS.items() if name == task.name)
    elif language_model:
        ending = "ForPreTraining" if next_sentence else "ForMaskedLM"
    else:
        ending = "ForNextSentencePrediction" if next_sentence else "Model"
    return MODEL_TYPES[model_type].class_prefix + ending


def from_model(
    spec, model_type: str, tokenizer, labels: tuple[str, ...], problem: str, original: Mapping | None = None
) -> dict:
    """The config.json of a model.

    Args:
      spec: the model's.
      model_type: a key of MODEL_TYPES.
      tokenizer: whose special ids it names.
      labels: names of the task's outputs.
      problem: as Pretrained's.
      original: the config.json that the model came with: what it says besides is kept.
    """
    original = dict(original or {})
    activations = _ACTIVATIONS[spec.activation]
    config = {theirs: getattr(spec, ours) for ours, (theirs, _) in _KEYS.items()}
    config |= {
        "architectures": [architecture(model_type, spec.task, spec.language_model, spec.next_sentence)],
        "model_type": model_type,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_positions + spec.position_offset,
        "hidden_act": original["hidden_act"] if original.get("hidden_act") in activations else activations[0],
        "is_decoder": False,
        "tie_word_embeddings": True,
        "pad_token_id": original.get("pad_token_id", tokenizer.pad_id),
    }
    if spec.position_offset:
        config["pad_token_id"] = spec.position_offset - 1
    if model_type != "bert" and not original:
        config |= {"bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id}
    task = spec.task
    for key in ("id2label", "label2id", "problem_type", "num_labels"):
        original.pop(key, None)
    if task and task.name != "question_answering":
        if task.dropout != spec.hidden_dropout or original.get("classifier_dropout") is not None:
            config["classifier_dropout"] = task.dropout
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
        if problem:
            config["problem_type"] = _PROBLEMS[problem]
    return original | config


def _labels(config, path):
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        if not isinstance(count, int) or count < 1:
            raise UserError(f"{path}: num_labels {count!r}; expected a positive number")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        by_id = {int(i): str(label) for i, label in names.items()}
    except (AttributeError, ValueError) as error:
        raise UserError(f"{path}: id2label {names!r}; expected an object of label names by id") from error
    if sorted(by_id) != list(range(len(by_id))) or not by_id:
        raise UserError(f"{path}: id2label has the ids {sorted(by_id)}; expected 0, 1, 2, ...")
    return tuple(by_id[i] for i in range(len(by_id)))


def _scheme(labels):
    """"BIO" or "BIOES" where the labels have such prefixes; "" where they are plain tags, or of another scheme."""
    prefixes = {label.split("-")[0] for label in labels if re.fullmatch(r"[A-Z]-.+", label)}
    others = [label for label in labels if label != "O" and not re.fullmatch(r"[A-Z]-.+", label)]
    if not prefixes or others or prefixes - set("BIES"):
        return ""
    return "BIOES" if prefixes & set("ES") else "BIO"


def _check_numbers(model, path):
    names = {ours: theirs for ours, (theirs, _) in _KEYS.items()}
    names |= {"vocab_size": "vocab_size", "max_positions": "max_position_embeddings"}
    for ours, theirs in names.items():
        value, rate = model[ours], "dropout" in ours
        kinds = (int, float) if rate or ours in ("norm_epsilon", "initializer_range") else (int,)
        good = isinstance(value, kinds) and not isinstance(value, bool) and (0 <= value < 1 if rate else value > 0)
        if ours == "initializer_range":
            good = isinstance(value, kinds) and value >= 0
        if not good:
            expected = "a rate in [0, 1)" if rate else "a positive number"
            raise UserError(f"{path}: {theirs} {value!r}; expected {expected}")
