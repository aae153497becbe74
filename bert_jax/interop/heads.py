"""Builds the model of a Hugging Face directory with the heads that its weights hold whole.

A file may hold a part of a head: a bias that was left behind, or a classifier without the pooler that it reads. It may
also hold a head that cannot be read: it has other sizes than config.json says, such as another number of labels, or is
stored as int8 or another type that no parameter has. (The head that config.json names must fit.)
Such a head is left out, and what is wrong with it is kept for the error of a caller that asks for it.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from bert_jax import model as model_lib
from bert_jax.errors import UserError
from bert_jax.interop import model_config, weights
from bert_jax.interop.families import FAMILIES
from bert_jax.interop.families.family import HEAD_MODULES, HEADS

_WORDS = {
    "pooler": "pooler",
    "language_model": "masked-language-model head",
    "next_sentence": "next-sentence head",
    "sentence_order": "sentence-order head",
    "replaced_tokens": "head for replaced tokens",
}
_POOLED = {"next_sentence", "sentence_order"}  # heads that read the pooler
_CHOICE = "multiple_choice"
_SHOWN = 3  # names in a message


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Holds the model of a directory, and the meaning of its outputs. A head is a name of family.HEADS, or a task.

    Attributes:
      settings: the keys of config.model.
      model: the architecture, with every head that the weights hold whole.
      labels, problem, scheme: as in Pretrained.
      lacking: {head: {name of an array: what is wrong with it}} for heads that are left out, or that config.json names
        and the file lacks: "" for an array that is not there, "has shape X, expected Y", or "is stored as X, expected
        ...". No names for "multiple_choice", which is not supported.
      parts: {head that is left out: names of its arrays}.
    """

    settings: Mapping
    model: model_lib.Model
    labels: tuple[str, ...]
    problem: str
    scheme: str
    lacking: Mapping[str, Mapping[str, str]]
    parts: Mapping[str, list[str]]


def build(
    config: Mapping, path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]
) -> Architecture:
    """Returns the model that a config.json and the names, shapes and dtypes of its weights describe.

    Args:
      config: the contents of config.json.
      path: path of config.json, for messages.
      shapes: {name of an array, as today's transformers has it: its shape}.
      dtypes: {the same: its dtype}.

    Raises:
      UserError: config.json describes no model that is supported.
    """
    named = model_config.architecture_task(config, path)
    described = _Described(config, path, shapes, dtypes, named)
    lacking: dict[str, dict[str, str]] = {}
    parts: dict[str, list[str]] = {}
    left = set(shapes)
    if model_config.has_multiple_choice(config):  # its classifier has the names of a task's
        own = {name for task in described.family.tasks for name in described.names_of(task, left)}
        lacking[_CHOICE] = {}
        parts |= {_CHOICE: sorted(own)} if own else {}
        left -= own
    while True:
        heads, task = described.heads(left, "" if named in lacking else named, lacking.keys())
        missing = described.missing(heads, task, left)
        if not missing:
            break
        first = "pooler" if "pooler" in missing else next(iter(missing))
        for head in [first, *(described.readers(heads, task) if first == "pooler" else ())]:
            lacking[head] = missing[first] | missing.get(head, {})
            own = described.names_of(head, left)
            parts |= {head: own} if own else {}
            left -= set(own)
    for head in {named, *model_config.architecture_heads(config)} - {task, *heads, *lacking}:
        if head in (*HEADS, *described.family.tasks):
            lacking[head] = described.lost(head, shapes)
    task_head, labels, problem, scheme = None, (), "", ""
    if task:
        task_head, labels, problem, scheme = model_config.to_task(config, task, path)
    model = described.model(heads, task_head)
    settings = described.settings | {"pooler": model.spec.pooler}
    return Architecture(settings, model, labels, problem, scheme, lacking, parts)


def words(head: str) -> str:
    """Returns the name of a head in words, such as "masked-language-model head" or "head for question answering"."""
    return _WORDS.get(head, f"head for {head.replace('_', ' ')}")


def lack(head: str, arrays: Mapping[str, str]) -> str:
    """Returns what is wrong with a head, for a message: {name of an array: what is wrong}, as in Architecture."""
    if not arrays:
        return f"has a {words(head)}, which is not supported"
    absent = _absent(arrays)
    if absent:
        return f"lacks {', '.join(absent)} of its {words(head)}"
    if any(problem.startswith("has shape") for problem in arrays.values()):
        return f"has a {words(head)} of other sizes than config.json says: {listed(_misshapen(arrays))}"
    return f"has a {words(head)} that cannot be read: {listed(_misshapen(arrays))}"


def left_out(head: str, names: Collection[str], arrays: Mapping[str, str]) -> str:
    """Returns that a head is left out, and why, for a warning.

    Args:
      head: the head.
      names: names of its arrays.
      arrays: {name of an array: what is wrong}, as in Architecture.
    """
    absent = _absent(arrays)
    reason = f"it lacks {listed(absent)}" if absent else listed(_misshapen(arrays)) or "it is not supported"
    return f"the {words(head)} is left out: {listed(names)}; {reason}"


def _absent(arrays):
    return [name for name, problem in arrays.items() if not problem]


def _misshapen(arrays):
    return [f"{name} {problem}" for name, problem in arrays.items() if problem]


def listed(names: Collection[str]) -> str:
    """Returns the first names, and how many more there are, for a message."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(list(names)[:_SHOWN]) + more


class _Described:
    """Holds what a config.json says of a model; names are those of arrays that a file holds.

    The heads that `architectures` name (`named` is the task among them), and the pooler that they read, are asked for:
    their shapes are checked where they are read.
    """

    def __init__(self, config, path, shapes, dtypes, named):
        self.config, self.path, self.shapes, self.dtypes = config, path, shapes, dtypes
        self.family = FAMILIES[config["model_type"]]
        self.asked = {named} | model_config.architecture_heads(config)
        if named in self.family.tasks and self.readers(set(), named):
            self.asked |= {"pooler"}
        self.settings = model_config.to_model(config, path)

    def heads(self, names, named, left_out):
        """Returns (heads, task) of the names; the one that config.json names, if it is whole, goes before others."""
        heads, task = self.family.heads(names, self.config, named)
        heads, task = set(heads) - left_out, "" if task in left_out else task
        if named in self.family.tasks and task != named and not self.lost(named, names):
            task = named
        if task != named and task not in self.family.tasks:
            task = ""
        for head in () if named else model_config.architecture_heads(self.config) - heads - left_out - {"pooler"}:
            if not self.lost(head, names):  # it shares names with a task's head, which lies beside it
                heads, task = heads | {head}, ""
        return heads | ({"pooler"} if self.readers(heads, task) else set()), task

    def readers(self, heads, task):
        """Returns the heads that read the pooler."""
        pooled = task == "sequence_classification" and self.task(task).pooling == "pooler"
        return [*sorted(heads & _POOLED), *([task] if pooled else [])]

    def task(self, name):
        """Returns a task's head. Raises UserError if the family has no such head."""
        if name not in self.family.tasks:
            model_config.to_task(self.config, name, self.path)
        return self.family.head(name, model_config.count_labels(self.config, name), self.config, self.path)

    def model(self, heads, task):
        """Builds the model with these heads, and a task's head or None."""
        settings = self.settings | {"pooler": "pooler" in heads}
        flags: dict[str, Any] = {head: head in heads for head in HEADS if head != "pooler"}
        try:
            return model_lib.build(settings, settings["vocab_size"], task=task, **flags)
        except UserError as error:
            raise UserError(f"{self.path}: a model that cannot be: {error}") from error

    def missing(self, heads, task, names):
        """Returns {head: {name of an array: what is wrong}} of heads that the names do not give whole.

        The encoder's arrays are checked where they are read.
        """
        model = self.model(heads, self.task(task) if task else None)
        table = self.family.table(self.config, task)
        missing = {
            self.head_of(module, task): dict.fromkeys(lost, "")
            for module, lost in weights.missing_names(model, names, table).items()
        }
        shapes = {name: self.shapes[name] for name in names}
        for module, wrong in weights.wrong_arrays(model, shapes, self.dtypes, table).items():
            head = self.head_of(module, task)
            if head not in self.asked:
                missing[head] = missing.get(head, {}) | wrong
        missing.pop("encoder", None)
        return missing

    def head_of(self, module, task):
        """Returns the head that a module of the parameters belongs to; "encoder" for the encoder."""
        return task if module == "task" else HEAD_MODULES.get(module, module)

    def lost(self, head, names):
        """Returns {name of an array: what is wrong} of one head, the pooler's too if it reads it."""
        heads, task = ({head}, "") if head in HEADS else (set(), head)
        heads |= {"pooler"} if self.readers(heads, task) else set()
        return {name: wrong for lost in self.missing(heads, task, names).values() for name, wrong in lost.items()}

    def names_of(self, head, names):
        """Returns the names of one head's arrays, without those of a task that another head has too."""
        if head in HEADS:
            module = next((module for module, field in HEAD_MODULES.items() if field == head), head)
            return weights.names_of_module(names, self.family.table(self.config), module)
        language_model = weights.names_of_module(names, self.family.table(self.config), "mlm")
        own = weights.names_of_module(names, self.family.table(self.config, head), "task")
        return [name for name in own if name not in language_model]
