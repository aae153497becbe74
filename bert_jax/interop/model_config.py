"""Converts config.json of a Hugging Face model to the keys of config.model, and back."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.data.tasks import schemes
from bert_jax.errors import UserError
from bert_jax.interop.families import FAMILIES
from bert_jax.interop.families.family import HEADS, TASKS
from bert_jax.model import Spec, Task

_LABEL_KEYS = ("id2label", "label2id", "problem_type", "num_labels", "_num_labels")
_PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def load(path: pathlib.Path) -> dict[str, Any]:
    """Returns the contents of a config.json. Raises UserError if its model_type is not supported."""
    config = load_json(path)
    check_model_type(config, path)
    return config


def check_model_type(config: Mapping, path: pathlib.Path) -> None:
    """Raises UserError if the model_type of a config.json is not supported."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(f"{path}: model_type {model_type!r} is not supported; expected one of {', '.join(FAMILIES)}")


def load_json(path: pathlib.Path, kind: type = dict) -> Any:
    """Returns the contents of a JSON file. Raises UserError if they are not of the type `kind`."""
    try:
        contents = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(contents, kind):
        raise UserError(f"{path}: found {type(contents).__name__}; expected {kind.__name__}")
    return contents


def to_model(config: Mapping, path: str | os.PathLike) -> dict[str, Any]:
    """Returns the keys of config.model that a config.json gives: all but `pooler`, which the weights decide.

    Args:
      config: the contents of config.json.
      path: path of config.json, for messages.

    Raises:
      UserError: a key that changes what the model computes has a value that is not supported or makes no sense.
    """
    return FAMILIES[config["model_type"]].to_model(config, path)


def to_task(config: Mapping, name: str, path: str | os.PathLike) -> tuple[Task, tuple[str, ...], str, str]:
    """Returns (task, labels, problem, scheme) of a task's head, the last three as in Pretrained.

    Args:
      config: the contents of config.json.
      name: name of the task, as in Task.
      path: path of config.json, for messages.

    Raises:
      UserError: the family has no such task, or a value of config.json makes no sense.
    """
    family = FAMILIES[config["model_type"]]
    if name not in family.tasks:
        raise UserError(f"{path}: no {name} in {family.model_type}; expected one of {', '.join(family.tasks)}")
    if name == "question_answering":
        return family.head(name, 2, config, path), ("start", "end"), "", ""
    labels = _labels(config, path)
    task = family.head(name, len(labels), config, path)
    if name == "token_classification":
        return task, labels, "", schemes.of_labels(labels)[0]
    return task, labels, _problem(config, len(labels)), ""


def oddities(config: Mapping, name: str) -> list[str]:
    """Returns what a config.json says of a task's outputs that is read otherwise, a clause for each.

    Args:
      config: the contents of config.json.
      name: name of the task, as in Task.
    """
    clauses, names = [], config.get("id2label")
    if name == "question_answering":
        return clauses
    if names:
        by_id, labels = _names_by_id(names), _labels(config, "config.json")
        if by_id is None:
            clauses.append(f"id2label is no object of names by id; the outputs are called {_listed(labels)}")
        elif sorted(by_id) != list(range(len(by_id))):
            clauses.append(
                f"id2label has the ids {_listed(sorted(by_id))}, not 0 to {len(labels) - 1}; the outputs are called "
                f"{_listed(labels)}"
            )
    problem_type = config.get("problem_type") or None
    if name == "sequence_classification" and problem_type not in (None, *_PROBLEMS.values()):
        clauses.append(
            f"problem_type {problem_type!r} is none of {', '.join(_PROBLEMS.values())}; read as single_label, as "
            "transformers does"
        )
    return clauses


def count_labels(config: Mapping, name: str) -> int:
    """Returns the number of outputs of a task's head; 2 where the labels of config.json make no sense."""
    if name == "question_answering":
        return 2
    try:
        return len(_labels(config, "config.json"))
    except UserError:
        return 2


def architecture_task(config: Mapping, path: pathlib.Path) -> str:
    """Returns the task that config.json's `architectures` name, "" for none. Raises UserError if they are no names."""
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise UserError(f"{path}: architectures {architectures!r}; expected a list of names")
    for architecture in architectures:
        for ending, task in TASKS.items():
            if architecture.endswith(ending):
                return task
    return ""


def has_multiple_choice(config: Mapping) -> bool:
    """Tells whether config.json's `architectures` name a classifier of several choices, which is not supported."""
    return any(name.endswith("ForMultipleChoice") for name in config.get("architectures") or [])


def architecture_heads(config: Mapping) -> frozenset[str]:
    """Returns the heads of pre-training that config.json's `architectures` name."""
    for architecture in config.get("architectures") or []:
        for ending, heads in FAMILIES[config["model_type"]].classes.items():
            if architecture.endswith(ending):
                return heads
    return frozenset()


def architecture(model_type: str, spec: Spec) -> str | None:
    """Returns the transformers class with a model's heads, None for none; it may lack a pooler that no head reads."""
    family = FAMILIES[model_type]
    if spec.task:
        endings = {name: ending for ending, name in TASKS.items() if name in family.tasks}
        alone = not _heads(spec) - {"pooler"}
        return family.class_prefix + endings[spec.task.name] if alone and spec.task.name in endings else None
    for ending, heads in family.classes.items():
        if heads == _heads(spec) or heads == _heads(spec) - {"pooler"}:
            return family.class_prefix + ending
    return None


def from_model(
    spec: Spec,
    model_type: str,
    tokenizer=None,
    labels: tuple[str, ...] = (),
    problem: str = "",
    original: Mapping | None = None,
) -> dict:
    """Returns the config.json of a model, as far as the family's format can express it (see formats.differences).

    Args:
      spec: the model's spec.
      model_type: a key of FAMILIES.
      tokenizer: the tokenizer whose special ids are written, or None.
      labels: names of the task's outputs.
      problem: kind of sequence classification, as in Pretrained.
      original: the config.json that the model came with, whose other keys are kept.
    """
    family = FAMILIES[model_type]
    original = dict(family.preserved(original or {}))
    config: dict[str, Any] = {"model_type": model_type, "is_decoder": False}
    kind = architecture(model_type, spec)
    if kind:
        config["architectures"] = [kind]
    if tokenizer is not None:
        config["pad_token_id"] = original.get("pad_token_id", tokenizer.pad_id)
        if family.writes_bos_and_eos and not original:
            config |= {"bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id}
    config |= family.from_spec(spec, original)
    task = spec.task
    label_settings = {key: original.pop(key) for key in _LABEL_KEYS if key in original}
    if task:
        config |= family.from_task(task, spec, original)
    if task and task.name != "question_answering":
        labels = labels or tuple(f"LABEL_{i}" for i in range(task.num_labels))
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
        names = label_settings.get("id2label")
        if names and _names_by_id(names) is not None and _labels(label_settings, "config.json") == labels:
            config |= {key: label_settings[key] for key in ("id2label", "label2id") if key in label_settings}
        config |= _problem_type(problem, len(labels), label_settings, bool(original))
    return original | config


def _problem_type(problem, num_labels, label_settings, has_original):
    """Returns {"problem_type": name}, or {} where it says no more than the number of labels and was not said before.

    transformers refuses a single label that is no regression.
    """
    known = (None, "", *_PROBLEMS.values())
    is_one_class = num_labels == 1 and problem == "single_label" and label_settings.get("problem_type") in known
    if not problem or is_one_class:
        return {}
    if has_original and problem == _problem(label_settings, num_labels):
        return {key: label_settings[key] for key in ("problem_type",) if key in label_settings}
    return {"problem_type": _PROBLEMS[problem]}


def _problem(config, num_labels):
    """Returns the problem of a config.json: without a problem_type by the number of labels, as transformers trains it.

    One that transformers does not know is single_label, as its pipeline of text classification reads it.
    """
    problem_type = config.get("problem_type") or None
    if problem_type is None:
        return "regression" if num_labels == 1 else "single_label"
    return next((ours for ours, theirs in _PROBLEMS.items() if theirs == problem_type), "single_label")


def _heads(spec):
    return {head for head in HEADS if getattr(spec, head)}


def _labels(config, path):
    """Returns the names of a task's outputs; as in transformers these are as many as id2label has names.

    An output whose id has no name is LABEL_ and the id.
    """
    names = config.get("id2label")
    by_id = _names_by_id(names) if names else {}
    count = len(by_id if by_id is not None else names) if isinstance(names, Mapping | list) else 0
    if not count:
        count = next((config[key] for key in ("num_labels", "_num_labels") if config.get(key) is not None), 2)
        if not isinstance(count, int) or count < 1:
            raise UserError(f"{path}: num_labels {count!r}; expected a positive number")
    return tuple((by_id or {}).get(i, f"LABEL_{i}") for i in range(count))


def _names_by_id(names):
    """Returns {id: name} of an id2label; None where it is no such thing."""
    try:
        return {int(i): str(name) for i, name in (enumerate(names) if isinstance(names, list) else names.items())}
    except (AttributeError, ValueError):
        return None


def _listed(values, shown=5):
    return ", ".join(map(str, values[:shown])) + (", ..." if len(values) > shown else "")
