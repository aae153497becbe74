"""Describes a fine-tuning run in run.json: all that opening its model needs, and the identity of its data."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from bert_jax import model as model_lib
from bert_jax.config.finetuning_keys import EMBEDDER_POOLING, LATE_POOLING, SPARSE_POOLING
from bert_jax.config.keys import ANSWERING, FINETUNING, MODEL, with_role
from bert_jax.data.tasks import Examples, TaskData
from bert_jax.errors import UserError
from bert_jax.interop import formats
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model.projection import Projection

_MODEL_KEYS = {name.partition(".")[2]: key for name, key in FINETUNING.items() if name.startswith("model.")}
_RUNNING = with_role(_MODEL_KEYS, "computation", "device")
_DROPOUTS = with_role(_MODEL_KEYS, "training")
_DIGESTED_ROWS = 64
_ACTIVATIONS = {"Identity": "linear", "Tanh": "tanh"}  # in dense layers that are trained, by torch's names


def describe_run(config: ml_collections.ConfigDict, source: Pretrained, task: TaskData) -> dict[str, Any]:
    """Returns the content of run.json.

    Args:
      config: the run's config.
      source: the model of config.init_from.
      task: the task's data.

    Raises:
      UserError: the format of the model has no head for the task.
    """
    head = _head(config, source, task)
    settings = {"max_length": config.data.sequence_length} | dict(task.settings)
    model = dict(source.config) | {key: config.model[key] for key in _RUNNING}
    model |= {key: config.model[key] for key in _DROPOUTS if config.model[key] >= 0} | _scaling(config, source)
    if config.model.global_tokens:
        model["global_tokens"] = config.model.global_tokens
    problem = task.problem
    if config.task.name == "embedding":
        settings |= {"pooling": [head.pooling]}
    if config.task.name == "reranking":
        problem = "regression"  # the logit is a number, whatever the loss
    model["pooler"] = head.name == "sequence_classification" and head.pooling == "pooler"
    if config.task.name == "question_answering":
        settings |= {name: config.task[name] for name in ANSWERING}
    return {
        "kind": "finetune",
        "family": source.family,
        "model": model,
        "head": dataclasses.asdict(head),
        "labels": list(task.labels),
        "problem": problem,
        "scheme": task.scheme,
        "settings": settings,
        "data": data_identity(task),
    }


def data_identity(task: TaskData) -> dict[str, list]:
    """Returns what distinguishes a task's data: the rows of each split, and a digest of lengths and first rows."""
    held_out = {f"held out {name}".rstrip(): examples for name, examples in task.held_out.items()}
    return {name: _split_identity(examples) for name, examples in ({"train": task.train} | held_out).items()}


def check_data(workdir: pathlib.Path, description: Mapping[str, Any], task: TaskData) -> None:
    """Raises UserError if the run in the workdir began with other data or labels."""
    if description["data"] == data_identity(task) and description["labels"] == list(task.labels):
        return
    old, new = description["data"]["train"][0], len(task.train.lengths)
    raise UserError(
        f"--workdir={workdir}: its run began with other data ({old:,} rows to learn from, now {new:,}; labels "
        f"{', '.join(description['labels'][:5])}, now {', '.join(task.labels[:5])}); give the old data, or another "
        "--workdir"
    )


def _scaling(config, source):
    """Returns the keys of config.model by which rotary positions are scaled; {} where they stay those of init_from."""
    spec, length = source.model.spec, config.data.sequence_length
    if not config.model.rotary_scaling:
        return {}
    trained = config.model.rotary_trained or spec.rotary_trained or spec.max_positions
    factor = config.model.rotary_factor or max(1.0, length / trained)
    keys = {name: key.default for name, key in MODEL.items() if "rotary_" in name and not name.endswith("rotary_base")}
    keys |= {"rotary_scaling": config.model.rotary_scaling, "rotary_trained": trained}
    keys["rotary_factor"] = 1.0 if config.model.rotary_scaling == "none" else factor
    if not (spec.has_learned_positions or spec.has_relative_positions):
        keys["max_positions"] = max(spec.max_positions, length)
    return keys


def _head(config, source, task):
    if config.task.name == "embedding":
        return _embedding_head(config, source, task)
    dropout = None if config.task.dropout < 0 else config.task.dropout
    name = "sequence_classification" if config.task.name == "reranking" else config.task.name
    head = formats.task_head(source, name, len(task.labels), dropout)
    if config.task.pooling != "auto":
        head = model_lib.Task(head.name, head.num_labels, config.task.pooling, head.dropout)
    return _with_chunks(config, dataclasses.replace(head, crf=config.task.crf))


def _with_chunks(config, head):
    """Returns the head for texts that are read as config.task.long says."""
    task = config.task
    if task.long != "chunks":
        return head
    return dataclasses.replace(
        head,
        late=False,  # a fresh head either way, which reads a text's vector
        chunk_length=task.chunk_length,
        chunk_pooling=task.chunk_pooling,
        chunk_layers=task.chunk_layers if task.chunk_pooling == "transformer" else 0,
        max_chunks=config.data.sequence_length // task.chunk_length,
    )


def _embedding_head(config, source, task):
    pooling, width = config.task.pooling, source.model.spec.hidden_size
    if pooling == "auto":
        pooling = _own_pooling(source)
    if pooling in SPARSE_POOLING:
        return _sparse_head(config, source, pooling)
    if pooling not in EMBEDDER_POOLING:
        raise UserError(
            f"config.init_from={source.name}: pools {pooling}, which cannot be trained; expected config.task.pooling "
            f"of {', '.join(EMBEDDER_POOLING)}"
        )
    dense = None if config.task.embedding_size else linear_map(source)
    is_late = pooling == LATE_POOLING
    if is_late and not (config.task.embedding_size or dense):
        raise UserError(
            f"config.task.embedding_size: 0, and config.init_from={source.name} has no linear map; expected the size "
            "of a token's vector, such as 128"
        )
    size = config.task.embedding_size or (dense.outputs(width) if dense else width)
    widest = max(config.loss.matryoshka, default=0)
    if widest > size:
        raise UserError(f"config.loss.matryoshka: {widest} is over the {size} numbers of a vector")
    layers = source.model.spec.num_layers
    if config.loss.prior_layers >= layers:
        raise UserError(
            f"config.loss.prior_layers: found {config.loss.prior_layers}; expected at most {layers - 1}, the layers "
            f"below the last of config.init_from={source.name}"
        )
    if task.loss == "denoising":
        _check_rebuilds(config, source)
    if task.loss == "angle" and size % 2:
        raise UserError(f"config.loss.name=angle needs vectors of an even size; found {size}")
    head = model_lib.Task(
        "embedding",
        size,
        pooling,
        0.0,
        transform=bool(config.task.embedding_size or dense),
        transform_activation=_ACTIVATIONS[dense.activation] if dense else config.task.embedding_activation,
        transform_bias="bias" in dense.arrays if dense else not is_late,
        temperature=config.loss.temperature if config.loss.learn_temperature else 0.0,
        pair_labels=len(task.labels),
        rebuilds=task.loss == "denoising",
    )
    return _with_chunks(config, head)


def _check_rebuilds(config, source):
    """Raises UserError for a model that cannot rebuild texts with its masked-language-model head."""
    spec = source.model.spec
    if not spec.language_model or spec.mask_decoder == "enhanced":
        head = "has an enhanced mask decoder" if spec.language_model else "has no masked-language-model head"
        raise UserError(
            f"config.init_from={source.name}: {head}; expected a model with a plain head with config.loss.name="
            "denoising, which rebuilds texts by it"
        )
    if spec.conv_kernel_size:
        raise UserError(
            f"config.init_from={source.name}: its convolution reads the tokens behind, which "
            "config.loss.name=denoising hides; expected a model without"
        )


def _own_pooling(source):
    """Returns the pooling of the model that a run starts from, as config.task.pooling names it."""
    if "late_interaction" in source.settings:
        raise UserError(
            f"config.init_from={source.name}: has a vector for each token of a text; expected config.task.pooling="
            f"{LATE_POOLING} (--config=embedding/colbert), or another pooling"
        )
    if "sparse" not in source.settings:
        return ",".join(source.settings.get("pooling", ("mean",)))
    kind, activation = source.settings["sparse"]
    if activation != "relu":
        raise UserError(
            f"config.init_from={source.name}: its sparse vectors take the logarithm twice ({activation}), which is not "
            f"trained; expected config.task.pooling of {', '.join(EMBEDDER_POOLING)}"
        )
    return next(name for name, taken in SPARSE_POOLING.items() if taken == kind)


def linear_map(source: Pretrained) -> Projection | None:
    """Returns the linear map that an embedder has behind its pooling, which a run trains further; None without one.

    Raises:
      UserError: it has something else there.
    """
    layers = source.settings.get("late_layers", source.settings.get("layers", ()))
    if "late_layers" in source.settings and layers and layers[-1].kind == "normalize":
        layers = layers[:-1]
    others = [layer for layer in layers if layer.kind != "dense" or layer.adds_input
              or layer.activation not in _ACTIVATIONS]  # fmt: skip
    others += source.settings.get("token_layers", ())
    if others or len(layers) > 1 or "layer_weights" in source.settings:
        obstacle = f"{others[0].kind} ({others[0].activation})" if others else f"{len(layers)} layers" if layers else (
            "a weighted mean of layers"
        )  # fmt: skip
        raise UserError(
            f"config.init_from={source.name}: has {obstacle} around its pooling, which is not trained further; "
            f"expected one dense layer ({' or '.join(_ACTIVATIONS)}) at most, or task.embedding_size for a fresh one"
        )
    return layers[0] if layers else None


def _sparse_head(config, source, pooling):
    if not source.model.spec.language_model:
        raise UserError(
            f"config.init_from={source.name}: has no masked-language-model head, of whose scores config.task.pooling="
            f"{pooling} makes vectors; expected a model with one"
        )
    temperature = config.loss.temperature if config.loss.learn_temperature else 0.0
    size = source.model.spec.vocab_size
    return model_lib.Task("embedding", size, pooling, 0.0, temperature=temperature)


def _split_identity(examples: Examples) -> list:
    first = np.arange(min(_DIGESTED_ROWS, len(examples.lengths)))
    digest = hashlib.blake2b(np.asarray(examples.lengths, np.int32).tobytes(), digest_size=8)
    for name, array in sorted(examples.batch(first, int(examples.lengths[first].max(initial=1))).items()):
        if name != "global_positions":  # which follow from the others, and runs that began before had none
            digest.update(np.ascontiguousarray(array).tobytes())
    return [len(examples.lengths), digest.hexdigest()]
