"""Models in the Hugging Face format: a directory, or a name on the hub, with config.json, weights and a tokenizer."""

import json
import os
import pathlib
import shutil
import sys

import ml_dtypes
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data import published, tokenizers
from bert_jax.errors import UserError
from bert_jax.interop import hub, model_config, sentence_transformers, tensors, weights
from bert_jax.interop.pretrained import Origin, Pretrained

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_TOY = 1000  # rows of an embedding below which a model is somebody's test, whose vocabulary may be a few words
_MOST_PADDING = 128  # rows behind the vocabulary: published embeddings are padded to multiples of 8, 64 or 128


def read(name: str | os.PathLike, pickles: bool = False) -> Pretrained:
    """A model of the hub's format, with every head that its weights hold.

    A directory of sentence-transformers gives its encoder, and what follows it as settings.

    Args:
      name: a directory, or a name on the hub, taken from its cache where it cannot be reached.
      pickles: whether weights in a pickle are read, by torch's safe reader; for convert alone.

    Raises:
      UserError: no such model; a file that is missing, damaged or of another kind; a model_type or a setting that is
        not supported; or weights that do not fit config.json, all of what does not fit in one line.
    """
    directory = hub.directory(name, pickles)
    embedder = sentence_transformers.read(directory)
    if embedder:
        directory = embedder.encoder
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(
            f"{directory}: not the workdir of a run, and without config.json; expected what bert_jax trained, or "
            "config.json, model.safetensors and a tokenizer's files"
        )
    config = model_config.load(path)
    arrays, file = tensors.read(directory, pickles)
    family = weights.FAMILIES[model_config.MODEL_TYPES[config["model_type"]].family]
    settings, model, labels, problem, scheme = _model(config, path, {weights.canonical(key, family) for key in arrays})
    params = weights.from_state_dict(model, arrays, family, str(file))
    tokenizer = tokenizers.load(directory)
    _check_vocabulary(directory, tokenizer.vocab_size, file.name, model.spec.vocab_size)
    use = dict(embedder.settings) if embedder else {}
    if use.get("lower_case"):
        tokenizer = tokenizers.lower_cased(tokenizer)
    if "max_length" in use:
        use["max_length"] = min(use["max_length"], model.spec.max_positions)
    dtypes = {weights.canonical(key, family): array.dtype.name for key, array in arrays.items()}
    dtypes = {family.tied[key]: dtypes[key] for key in family.tied if key in dtypes} | dtypes
    origin = Origin(directory, config, dtypes, embedder.prompts if embedder else {})
    return Pretrained(
        str(name), config["model_type"], settings, model, params, tokenizer, labels, problem, scheme, use, origin
    )


def write(pretrained: Pretrained, directory: str | os.PathLike, dtype: str | None = None) -> None:
    """Writes a directory that transformers loads; and sentence-transformers, where `settings` name a pooling.

    The names of the arrays are those that transformers' save_pretrained writes today, whatever they were called
    where the model came from: with the family's prefix where there is a head and without it for a bare encoder,
    "weight" and "bias" for "gamma" and "beta", and no tied decoder. A model that was read keeps the bytes of each
    array and of its tokenizer's files.

    Args:
      pretrained: the model.
      directory: must not exist yet, or be empty.
      dtype: of the arrays: "float32", "float16" or "bfloat16"; None: as they were stored, or float32.

    Raises:
      UserError: the format cannot express the model, the directory is there already, or it cannot be written.
    """
    _check_expressible(pretrained)
    directory = pathlib.Path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: is there already; expected a new or an empty directory")
    arrays = _arrays(pretrained, dtype)
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            _write_files(pretrained, arrays, partial)
            partial.rename(directory)
        except BaseException:
            shutil.rmtree(partial)
            raise
    except OSError as error:
        raise UserError(f"{directory}: cannot be written: {error.strerror or error}") from error


def _check_vocabulary(directory, tokens, file_name, rows):
    """An embedding may be padded to a round number of rows; more than that, and the vocabulary is another model's."""
    found = f"{directory}: the tokenizer has {tokens:,} tokens, but the word embedding of {file_name} has {rows:,} rows"
    padding = rows - tokens
    if padding < 0 or (padding >= _MOST_PADDING and rows >= _TOY):
        raise UserError(f"{found}; expected the model's own tokenizer")
    if padding and rows % 8 and rows >= _TOY:
        print(f"warning: {found}; is it the model's own?", file=sys.stderr)


def _model(config, path, names):
    """(config.model, model, labels, problem, scheme) of a config.json and the names in its weights file."""
    kind = model_config.MODEL_TYPES[config["model_type"]]
    settings = model_config.to_model(config, path)
    language_model = _has(names, "cls.predictions.", "lm_head.")
    if language_model and kind.family == "roberta" and settings["activation"] != "gelu":
        raise UserError(
            f"{path}: hidden_act {config['hidden_act']!r} with a masked-language head, whose own activation is always "
            "gelu in this family; expected 'gelu'"
        )
    task, labels, problem, scheme = None, (), "", ""
    pooler, next_sentence = _has(names, f"{kind.family}.pooler."), _has(names, "cls.seq_relationship.")
    task_name = _task_name(names, model_config.architecture_task(config, path), pooler)
    reads_pooler = next_sentence or (task_name == "sequence_classification" and kind.pooling == "pooler")
    settings["pooler"] = pooler or reads_pooler  # one that a head reads must be there
    if task_name:
        task, labels, problem, scheme = model_config.to_task(config, task_name, kind.pooling, path)
    model = model_lib.build(
        settings,
        settings["vocab_size"],
        next_sentence=next_sentence,
        language_model=language_model,
        task=task,
    )
    return settings, model, labels, problem, scheme


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


def _check_expressible(pretrained):
    spec, name = pretrained.model.spec, pretrained.name
    kind = model_config.MODEL_TYPES[pretrained.family]
    roberta, task, pad_id = kind.family == "roberta", spec.task, pretrained.tokenizer.pad_id
    offset = pad_id + 1 if roberta and not pretrained.origin else spec.position_offset
    read = task.pooling if task and task.name == "sequence_classification" else kind.pooling
    switches = (
        ("model.attention", spec.attention, "bidirectional"),
        ("model.position_offset", spec.position_offset, offset if roberta else 0),
        ("model.activation", spec.activation, "gelu" if roberta and spec.language_model else spec.activation),
        ("objective.next_sentence", spec.next_sentence, spec.next_sentence and not roberta),
        ("task.crf", bool(task and task.crf), False),
        ("task.pooling", read, kind.pooling),
    )
    for key, found, expected in switches:
        if found != expected:
            raise UserError(
                f"{name}: config.{key}={found} cannot be said in the format of {pretrained.family}, where it is "
                f"{expected}; the model stays usable in bert_jax"
            )
    if not isinstance(pretrained.tokenizer, tokenizers.HuggingFaceTokenizer):
        raise UserError(
            f"{name}: its vocabulary is a SentencePiece .model, whose ids no tokenizer of {pretrained.family} gives; "
            "the model stays usable in bert_jax"
        )


def _arrays(pretrained, dtype):
    spec, origin = pretrained.model.spec, pretrained.origin
    family = weights.FAMILIES[model_config.MODEL_TYPES[pretrained.family].family]
    stored = origin.dtypes if origin else {}
    bare = not (spec.language_model or spec.next_sentence or spec.task)
    arrays = {}
    for name, array in weights.to_state_dict(pretrained.params, family, spec.task and spec.task.name).items():
        kind = dtype or stored.get(name, "float32")
        with np.errstate(over="ignore"):
            converted = array.astype(DTYPES[kind])
        if dtype and np.isinf(converted.astype(np.float32)).any() and not np.isinf(array).any():
            raise UserError(f"--dtype={dtype}: cannot hold the numbers of {name}, up to {abs(array).max():.3g}")
        arrays[name.removeprefix(f"{family.prefix}.") if bare else name] = converted
    return dict(sorted(arrays.items()))


def _write_files(pretrained, arrays, directory):
    spec, origin = pretrained.model.spec, pretrained.origin
    config = model_config.from_model(
        spec, pretrained.family, pretrained.tokenizer, pretrained.labels, pretrained.problem,
        origin.config if origin else None,
    )  # fmt: skip
    embedding = next(array for name, array in arrays.items() if name.endswith("word_embeddings.weight"))
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = embedding.dtype.name
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "config.json").write_text(text + "\n", "utf-8")
    tensors.write(arrays, directory)
    if origin:
        for name in published.FILES:
            if (origin.directory / name).is_file():
                shutil.copyfile(origin.directory / name, directory / name)
    else:
        pretrained.tokenizer.save(directory, max_length=spec.max_positions)
    if "pooling" in pretrained.settings and not spec.task and sentence_transformers.can_write(pretrained.settings):
        prompts = origin.prompts if origin else {}
        sentence_transformers.write(directory, pretrained.settings, spec.hidden_size, prompts)
