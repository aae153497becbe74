"""Models in the Hugging Face format: a directory, or a name on the hub, with config.json, weights and a tokenizer."""

import os
import pathlib

from bert_jax import model as model_lib
from bert_jax.data import tokenizers
from bert_jax.errors import UserError
from bert_jax.interop import hub, model_config, tensors, weights
from bert_jax.interop.pretrained import Origin, Pretrained


def read(name: str | os.PathLike, pickles: bool = False) -> Pretrained:
    """A model of the hub's format, with every head that its weights hold.

    Args:
      name: a directory, or a name on the hub, taken from its cache where it cannot be reached.
      pickles: whether weights in a pickle are read, by torch's safe reader; for convert alone.

    Raises:
      UserError: no such model; a file that is missing, damaged or of another kind; a model_type or a setting that is
        not supported; or weights that do not fit config.json, all of what does not fit in one line.
    """
    directory = hub.directory(name, pickles)
    if not (directory / "config.json").is_file():
        raise UserError(
            f"{directory}: not the workdir of a run, and without config.json; expected what bert_jax trained, or "
            "config.json, model.safetensors and a tokenizer's files"
        )
    return _read(str(name), directory, directory / "config.json", pickles)


def _read(name, directory, path, pickles):
    config = model_config.load(path)
    kind = model_config.MODEL_TYPES[config["model_type"]]
    family = weights.FAMILIES[kind.family]
    arrays, file = tensors.read(directory, pickles)
    names = {weights.canonical(key, family) for key in arrays}
    settings = model_config.to_model(config, path)
    settings["pooler"] = _has(names, f"{family.prefix}.pooler.")
    language_model = _has(names, "cls.predictions.", "lm_head.")
    if language_model and kind.family == "roberta" and settings["activation"] != "gelu":
        raise UserError(
            f"{path}: hidden_act {config['hidden_act']!r} with a masked-language head, whose own activation is always "
            "gelu in this family; expected 'gelu'"
        )
    task_name = _task_name(names, model_config.architecture_task(config, path), settings["pooler"])
    task, labels, problem, scheme = None, (), "", ""
    if task_name:
        pooling = "pooler" if kind.family == "bert" else "dense"
        task, labels, problem, scheme = model_config.to_task(config, task_name, pooling, path)
    model = model_lib.build(
        settings,
        settings["vocab_size"],
        next_sentence=_has(names, "cls.seq_relationship."),
        language_model=language_model,
        task=task,
    )
    params = weights.from_state_dict(model, arrays, family, str(file))
    tokenizer = tokenizers.load(directory)
    if tokenizer.vocab_size > settings["vocab_size"]:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, but the word embedding of {file.name} has "
            f"{settings['vocab_size']} rows; expected the model's own tokenizer"
        )
    dtypes = {weights.canonical(key, family): array.dtype.name for key, array in arrays.items()}
    return Pretrained(
        name, config["model_type"], settings, model, params, tokenizer, labels, problem, scheme,
        origin=Origin(directory, config, dtypes),
    )  # fmt: skip


def _task_name(names, named, pooler):
    """The task whose head the weights hold; `named` says which of two that are called alike."""
    if _has(names, "qa_outputs."):
        return "question_answering"
    if _has(names, "classifier.dense.", "classifier.out_proj."):
        return "sequence_classification"
    if _has(names, "classifier."):
        return named or ("sequence_classification" if pooler else "token_classification")
    return ""


def _has(names, *prefixes):
    return any(name.startswith(prefixes) for name in names)
