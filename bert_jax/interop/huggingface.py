"""Reads and writes models in the Hugging Face format: config.json, weights and a tokenizer in a directory."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from bert_jax import _moved, files, interruption, outputs
from bert_jax import model as model_lib
from bert_jax.data.tasks import words
from bert_jax.data.vocabularies import hugging_face, loading, published
from bert_jax.errors import UserError
from bert_jax.interop import (
    formats,
    heads,
    hub,
    model_card,
    model_config,
    multi_vector,
    sentence_transformers,
    tensors,
    weights,
)
from bert_jax.interop.families import FAMILIES
from bert_jax.interop.pretrained import Origin, Pretrained

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\b")  # names that peft gives
_TOY = 1000  # a model with fewer embedding rows is taken for a test, whose vocabulary may be smaller
_MOST_PADDING = 128  # most published embeddings are padded to multiples of 8, 64 or 128 rows
_OWN_KEY = "bert_jax"  # config.json's key for settings that transformers does not have
_TAGGING = ("words", "unseen_word", "max_length")
_PLAIN_COLUMNS = (["text"], ["text", "text_pair"])  # which need not be said
_OUTPUTS = ("classifier.weight", "classifier.out_proj.weight")  # whose rows are the labels
_SHOWN = 3  # names in a message


def read(name: str | os.PathLike, pickles: bool = False) -> Pretrained:
    """Reads a model in the Hugging Face format, with every head that its weights hold.

    The encoder of a sentence-transformers directory is read, and the modules that follow it become settings. What is
    read otherwise than the files say it, or left out, is told on standard error in a line for each kind.

    Args:
      name: a directory, or a name on the hub, read from the cache where the hub cannot be reached.
      pickles: whether pickled weights are read, with torch's weights_only reader; for convert alone.

    Raises:
      UserError: no such model; a file is missing, damaged or of another kind; a model_type or a setting is not
        supported; or the weights do not fit config.json, with all mismatches in one line.
    """
    directory = hub.directory(name, pickles)
    card_file = directory / model_card.NAME
    root = directory
    embedder = sentence_transformers.read(directory, pickles)
    if embedder:
        directory = embedder.encoder
        if embedder.routes:
            _note(f"{name}: of its routes, {' and '.join(embedder.routes)} is read")
    path = _config_file(directory)
    config = model_config.load_json(path)
    if isinstance(config.get("architectures"), str):  # a name instead of a list, as files written by hand have it
        config["architectures"] = [config["architectures"]]
    arrays, file = tensors.read(directory, pickles, root)
    arrays = _plain(arrays, file)
    use: dict[str, Any] = dict(embedder.settings) if embedder else {}
    if not embedder and multi_vector.STANFORD in (config.get("architectures") or []):
        try:
            use = multi_vector.read_stanford(directory, arrays)
        except UserError as error:
            use = {"embed_refusal": str(error)}
        arrays = {key: array for key, array in arrays.items() if key != multi_vector.STANFORD_MAP}
    if config.get("model_type") is None:
        config["model_type"] = _infer_model_type(config, arrays, path, name)
    model_config.check_model_type(config, path)
    _check_names(arrays, config, path, file)
    config = FAMILIES[config["model_type"]].with_arrays(_with_one_count(config, arrays, path), arrays, file)
    built = _built(config, arrays, path)
    if built.model.spec.language_model and (copies := _untied_copies(config, arrays, file)):
        config["tie_word_embeddings"], arrays = False, copies | arrays
        built = _built(config, arrays, path)
    model, labels = built.model, built.labels
    if labels and model.spec.task:
        _tell_odd_labels(config, labels, model.spec.task.name, path)
    table = weight_table(config, model.spec)
    if not model.spec.language_model:  # a decoder's copy of the embedding is an array like any other
        names = {weights.canonical_name(key, table) for key in arrays}
        table = dataclasses.replace(table, tied={k: v for k, v in table.tied.items() if v not in names}, copies={})
    arrays = _without_spare(arrays, table, built, file)
    params = weights.from_state_dict(model, arrays, table, str(file))
    tokenizer = loading.load(directory)
    _check_vocabulary(directory, tokenizer.vocab_size, file.name, model.spec.vocab_size)
    if use.get("lower_case"):
        if isinstance(tokenizer, hugging_face.HuggingFaceTokenizer):
            tokenizer = hugging_face.lower_cased(tokenizer)
        else:
            use["embed_refusal"] = f"{directory}: do_lower_case of a SentencePiece model; expected false"
    if not use and "colbert" in " ".join(map(str, config.get("architectures") or [])).lower():
        use["embed_refusal"] = (
            f"{path}: {config['architectures'][0]}, whose vectors of tokens are read from the layouts of PyLate, "
            f"sentence-transformers and Stanford's {multi_vector.STANFORD} alone"
        )
    if "late_interaction" in use:
        tokenizer = multi_vector.with_markers(tokenizer, use["late_interaction"]["markers"])
    use |= _task_settings(config, embedder, model, len(labels), path)
    if "max_length" in use:
        use["max_length"] = min(use["max_length"], model.spec.max_positions)
    card = card_file.read_text("utf-8", errors="replace") if card_file.is_file() else ""
    prompts = embedder.prompts if embedder else {}
    dtypes, unread = _written_form(arrays, table)
    origin = Origin(directory, config, dtypes, prompts, unread, card, embedder)
    lacking = {head: f"{file.name} {heads.lack(head, lost)}" for head, lost in built.lacking.items()}
    return Pretrained(
        str(name), config["model_type"], built.settings, model, params, tokenizer, labels, built.problem, built.scheme,
        use, origin, lacking=lacking,
    )  # fmt: skip


def _config_file(directory):
    """Returns the path of a model's config.json. Raises UserError, which says what lies there instead, without one."""
    path = directory / "config.json"
    if not path.is_file() and (directory / "adapter_config.json").is_file():
        raise UserError(
            f"{directory}: an adapter of peft, without the model that it adapts; expected the whole model, as "
            "merge_and_unload().save_pretrained(DIR) writes it"
        )
    if not path.is_file():
        folders = sorted((folder.parent for folder in directory.glob("*/config.json")), key=os.path.getmtime)
        models = f", such as those in {folders[-1]}" if folders else ""
        raise UserError(
            f"{directory}: not the workdir of a run, and without config.json; expected what bert_jax trained, or "
            f"config.json, model.safetensors and a tokenizer's files{models}"
        )
    if (directory / "adapter_config.json").is_file():
        _warn(f"{directory}: beside the model lies an adapter of peft, which is not read")
    return path


def _task_settings(config, embedder, model, num_labels, path):
    """Returns the settings for Pretrained that the task of a fine-tuned model has; {} without a task."""
    task, use = model.spec.task, {}
    if task and task.name == "sequence_classification":
        use |= _cross_encoder_settings(config, embedder, num_labels, path)
    if task and task.name == "token_classification":
        use |= _tagging_settings(config, path)
    return use | (_columns(config, path) if task else {})


def _written_form(arrays, table):
    """Returns the dtype of each array by its name as written, and the arrays that are kept as they are."""
    dtypes = {weights.canonical_name(key, table): array.dtype.name for key, array in arrays.items()}
    dtypes = {table.tied[key]: dtypes[key] for key in table.tied if key in dtypes} | dtypes
    unread = {weights.canonical_name(key, table): array for key, array in arrays.items()}
    names = {*table.copies, *table.constants, *table.kept}
    return dtypes, {key: np.array(array) for key, array in unread.items() if key in names}


def write(
    pretrained: Pretrained,
    directory: str | os.PathLike,
    dtype: str | None = None,
    card: str = "",
    overwrite: bool = False,
) -> None:
    """Writes a directory that transformers loads, and sentence-transformers too where `settings` name a pooling.

    Arrays get the names that transformers' save_pretrained writes today, whatever their names were before: with the
    family's prefix where there is a head and without it for a bare encoder, "weight" and "bias" for "gamma" and "beta",
    and no tied decoder. A model that was read from a directory keeps the bytes of each array, of its tokenizer's files
    and of its README.md.

    Args:
      pretrained: the model to write.
      directory: a directory that does not exist yet, is empty, or holds nothing but a README.md, which is kept.
      dtype: dtype of the arrays, "float32", "float16" or "bfloat16"; None keeps the stored one, or writes float32.
      card: contents of README.md for a model that has none; "" writes no README.md.
      overwrite: whether a model in the directory is replaced, if each of its files has a successor; its README.md is
        kept.

    Raises:
      UserError: the format cannot express the model, the directory exists, or it cannot be written.
    """
    _check_expressible(pretrained)
    check_output(directory, overwrite)
    directory = pathlib.Path(directory).resolve()  # a link to an empty folder stays one
    config = _config(pretrained)
    arrays = _arrays(pretrained, config, dtype)
    aside = directory.with_name(f"{directory.name}.{uuid.uuid4().hex[:8]}.before")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as last, files.atomic_folder(directory) as folder:
            _write_files(pretrained, config, arrays, folder, dtype)
            card = pretrained.origin.model_card if pretrained.origin and pretrained.origin.model_card else card
            if (directory / model_card.NAME).is_file():
                shutil.copy2(directory / model_card.NAME, folder)
            elif card:
                (folder / model_card.NAME).write_text(card, "utf-8")
            if directory.exists() and any(directory.iterdir()):
                _check_successors(directory, folder)
                last.enter_context(interruption.uninterrupted())
                directory.rename(aside)  # a crash before the new directory is there leaves the old one in this one
        if aside.exists():
            shutil.rmtree(aside)
    except OSError as error:
        if aside.exists() and not directory.exists():
            aside.rename(directory)
        raise UserError(f"{directory}: cannot be written: {error.strerror or error}") from error


def check_output(directory: str | os.PathLike, overwrite: bool = False) -> None:
    """Raises UserError unless `write` may write into a directory: a new or empty one, or a model to overwrite."""
    directory = pathlib.Path(directory).resolve()
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: is there already, a file; expected a new or an empty directory")
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    if outputs.is_empty(directory) or names == [model_card.NAME]:
        return
    held = outputs.kind(directory)
    if held != outputs.MODEL:
        free = outputs.unused_path(directory, "model")
        above = (folder for folder in directory.parents if outputs.kind(folder) not in ("", outputs.QUICKSTART))
        holder = directory if held else next(above, None)
        if holder:  # beside it: what it holds is a command's own
            free = outputs.unused_path(holder.parent, f"{holder.name}-model")
        raise UserError(
            f"{directory}: holds {held or 'other files'}; expected a new or an empty directory, such as {free}"
        )
    if not overwrite:
        raise UserError(f"{directory}: is there already; expected a new or an empty directory, or --overwrite")


def _check_successors(directory, folder):
    """Raises UserError if a file of a directory that is to be replaced has no successor in the new folder."""
    names = [path.relative_to(directory) for path in directory.rglob("*") if not path.is_dir()]
    kept = [name for name in names if not (folder / name).exists() and not outputs.is_leftover(name.name)]
    if kept:
        raise UserError(f"{directory}: holds {kept[0]}, which --overwrite would delete; move it away")


def _plain(arrays, file):
    """Returns arrays without the wrappers' parts of their names, and float64 as float32."""
    tables = [family.table({}) for family in FAMILIES.values()]
    renamed = weights.unwrapped(arrays, tables)
    if renamed:
        first, plain = next(iter(renamed.items()))
        _warn(f"{file}: {len(renamed):,} names of a wrapped model are read without the wrapper, {first} as {plain}")
        arrays = {renamed.get(name, name): array for name, array in arrays.items()}
    wide = [name for name, array in arrays.items() if array.dtype == np.float64]
    if wide:
        _warn(f"{file}: {len(wide):,} arrays are stored as float64, which are read as float32")
        arrays = arrays | {name: arrays[name].astype(np.float32) for name in wide}
    return arrays


def _infer_model_type(config, arrays, path, name):
    """Returns the model_type of a config.json that lacks it, which must follow from its class or from the weights."""
    counts = {kind: weights.count_known(arrays, family.table({})) for kind, family in FAMILIES.items()}
    fitting = [kind for kind, count in counts.items() if count == max(counts.values()) and count]
    classes = [class_name for class_name in config.get("architectures") or [] if isinstance(class_name, str)]
    by_class = [
        kind for kind in fitting if any(class_name.startswith(FAMILIES[kind].class_prefix) for class_name in classes)
    ]
    by_name = [kind for kind in fitting if kind in pathlib.Path(name).name.lower()]  # as transformers does
    longest = [sorted(kinds, key=len)[-1] for kinds in (by_class, by_name) if kinds]
    chosen = fitting[0] if len(fitting) == 1 else next(iter(longest), None)
    if chosen is None:
        known = ", ".join(fitting or FAMILIES)
        raise UserError(f"{path}: without model_type; expected one of {known}, whose weights have such names")
    _warn(f"{path}: without model_type; read as {chosen}")
    return chosen


def _with_one_count(config, arrays, path):
    """Returns config.json without the names of its labels where `num_labels`, which the weights have, is another."""
    names, count = config.get("id2label"), config.get("num_labels")
    rows = {array.shape[0] for name, array in arrays.items() if name in _OUTPUTS and array.ndim == 2}
    if not names or not isinstance(names, dict | list) or count == len(names) or rows != {count}:
        return config
    _warn(f"{path}: id2label has {len(names)} labels, num_labels and the weights {count}: LABEL_0, LABEL_1, ...")
    return {key: value for key, value in config.items() if key not in ("id2label", "label2id")}


def _built(config, arrays, path):
    table = FAMILIES[config["model_type"]].table(config)
    today = {weights.canonical_name(name, table): array for name, array in arrays.items()}
    shapes, dtypes = ({name: getattr(array, key) for name, array in today.items()} for key in ("shape", "dtype"))
    return heads.build(config, path, shapes, {name: dtype.name for name, dtype in dtypes.items()})


def _untied_copies(config, arrays, file):
    """Returns the arrays of an untied decoder where config.json ties two arrays that differ; {} where none do.

    transformers reads two arrays since version 5; before, it read the embedding alone.
    """
    table = FAMILIES[config["model_type"]].table(config)
    names = {weights.canonical_name(name, table): name for name in arrays}
    originals = {copy: names[original] for copy, original in table.tied.items() if original in names}
    for copy, original in originals.items():
        if copy in names and not weights.same(arrays[names[copy]], arrays[original]):
            _warn(f"{file}: {copy} differs from {original}, which config.json ties it to; they are read as two")
            return {copy: arrays[original] for copy, original in originals.items()}
    return {}


def _without_spare(arrays, table, built, file):
    """Returns the arrays that the model reads, without parts of heads, further layers, and modules such as a loss."""
    for head, names in built.parts.items():
        _warn(f"{file}: {heads.left_out(head, names, built.lacking[head])}")
    unused = weights.unused_names(built.model, arrays, table)
    of_heads = {name for names in built.parts.values() for name in names}
    spare = [name for name in unused if weights.canonical_name(name, table) not in of_heads]
    if spare:
        _warn(f"{file}: arrays of no module of this model are left out: {heads.listed(spare)}")
    return {name: array for name, array in arrays.items() if name not in set(unused)}


def _cross_encoder_settings(config, embedder, num_labels, path):
    """Returns the settings of a cross-encoder; {} for a classifier that is none."""
    try:
        prompts = embedder.prompts if embedder else {}
        activation = sentence_transformers.cross_encoder_settings(config, prompts, num_labels, path)
        longest = None if embedder or not activation else sentence_transformers.max_length(path.parent, {})
    except UserError as error:
        return {"classify_refusal": str(error)}
    return activation | ({} if longest is None else {"max_length": longest})


def _check_vocabulary(directory, tokens, file_name, rows):
    """Refuses a tokenizer with more tokens than the model has rows; spare rows, which no text reads, are told."""
    sizes = f"{directory}: the tokenizer has {tokens:,} tokens, but the word embedding of {file_name} has {rows:,} rows"
    padding = rows - tokens
    if padding < 0:
        raise UserError(f"{sizes}; expected the model's own tokenizer")
    if padding and rows >= _TOY and (rows % 8 or padding >= _MOST_PADDING):
        _warn(f"{sizes}; is it the model's own? {padding:,} rows belong to no token")


def _note(message):
    print(message, file=sys.stderr)


def _warn(message):
    print(f"warning: {message}", file=sys.stderr)


def weight_table(config: Mapping, spec: model_lib.Spec) -> weights.Table:
    """Returns the names of the arrays of a model with this config.json."""
    return FAMILIES[config["model_type"]].table(config, spec.task.name if spec.task else "")


def _check_names(arrays, config, path, file):
    """Refuses weights with another family's names, which would otherwise be reported as a page of mismatches.

    So are those with adapters beside them, without which the model would compute something else.
    """
    adapter = next((name for name in arrays if _ADAPTER.search(name)), None)
    if adapter:
        raise UserError(
            f"{file}: {adapter} belongs to an adapter of peft; expected weights with the adapters merged, as its "
            "merge_and_unload() makes them"
        )
    model_type = config["model_type"]
    counts = {name: weights.count_known(arrays, family.table(config)) for name, family in FAMILIES.items()}
    nearest = max(counts, key=lambda name: counts[name])
    own, best = counts[model_type], counts[nearest]
    if own < best and (best == len(arrays) or own < len(arrays) / 2):
        raise UserError(
            f"{path}: model_type is {model_type}, but the names in {file.name} are those of {nearest} "
            f"({best} of {len(arrays)}, of {model_type} {own}); expected the config.json of these weights"
        )


def _tell_odd_labels(config, labels, task, path):
    """Tells of label names that occur twice, and of what config.json says of the labels that is read otherwise."""
    clauses = model_config.oddities(config, task)
    if clauses:
        _warn(f"{path}: {'; '.join(clauses)}")
    if any(clause.startswith("id2label") for clause in clauses):
        return
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice and config.get("id2label"):
        _warn(f"{path}: id2label has {', '.join(twice[:_SHOWN])} more than once")
    ids = config.get("label2id")
    if isinstance(ids, Mapping) and config.get("id2label"):
        wrong = [str(label) for label, i in ids.items() if str(i) not in _ids(labels, label)]
        if wrong:
            _warn(f"{path}: label2id disagrees with id2label on {', '.join(wrong[:_SHOWN])}; id2label is used")


def _ids(labels, label):
    return {str(i) for i, other in enumerate(labels) if other == str(label)}


def _check_expressible(pretrained):
    """Refuses a model that the format of its family cannot express, with all reasons."""
    spec, name, family = pretrained.model.spec, pretrained.name, pretrained.family
    original = pretrained.origin.config if pretrained.origin else None
    differences = formats.differences(spec, family, original)
    offset, pad_id = spec.position_offset, pretrained.tokenizer.pad_id
    if not original and offset and not differences and offset != pad_id + 1:
        differences = [formats.Difference("model.position_offset", offset, pad_id + 1)]
    if differences:
        reasons = "; ".join(map(str, differences))
        raise UserError(
            f"{name}: cannot be said in the format of {family}, the nearest: {reasons}; the model stays usable in "
            "bert_jax"
        )
    if not original and not isinstance(pretrained.tokenizer, hugging_face.HuggingFaceTokenizer):
        raise UserError(
            f"{name}: its vocabulary is a SentencePiece .model, whose ids no tokenizer of {family} gives; "
            "the model stays usable in bert_jax"
        )


def _config(pretrained):
    """Returns the config.json without the dtype of the weights."""
    origin = pretrained.origin
    config = model_config.from_model(
        pretrained.model.spec, pretrained.family, pretrained.tokenizer, pretrained.labels, pretrained.problem,
        origin.config if origin else None,
    )  # fmt: skip
    own = {}
    if "words" in pretrained.settings:
        own = {key: pretrained.settings[key] for key in _TAGGING if key in pretrained.settings}
    columns = list(pretrained.settings.get("columns", ()))
    if columns and columns not in _PLAIN_COLUMNS:
        own["columns"] = columns
    config |= {_OWN_KEY: own} if own else {}
    if "activation" in pretrained.settings and not origin:
        config |= sentence_transformers.cross_encoder_config(pretrained.settings["activation"])
    return config


def _columns(config, path):
    """Returns {"columns": names of the texts in the data of fine-tuning} where `write` put them in config.json."""
    settings = config.get(_OWN_KEY)
    columns = settings.get("columns") if isinstance(settings, dict) else None
    if columns is None:
        return {}
    is_names = isinstance(columns, list) and all(isinstance(name, str) and name for name in columns)
    if not is_names or not 1 <= len(set(columns)) == len(columns) <= 2:
        raise UserError(f"{path}: {_OWN_KEY}.columns is {columns!r}; expected the names of one column or two")
    return {"columns": tuple(columns)}


def _tagging_settings(config, path):
    """Returns the settings of token classification that `write` puts in config.json; {} for other programs' files."""
    settings = config.get(_OWN_KEY)
    if settings is None or (isinstance(settings, dict) and settings.keys() == {"columns"}):
        return {}
    settings = settings if isinstance(settings, dict) else {}
    length, unseen = settings.get("max_length", 1), settings.get("unseen_word", "")
    is_whole = isinstance(length, int) and length > 0 and isinstance(unseen, str)
    if not is_whole or not words.is_cutting(settings.get("words")):
        raise UserError(f"{path}: {_OWN_KEY} is not what bert-jax convert writes; expected its `words`, or no such key")
    return {key: settings[key] for key in _TAGGING if key in settings}


def _arrays(pretrained, config, dtype):
    spec, origin = pretrained.model.spec, pretrained.origin
    table = weight_table(config, spec)
    stored = origin.dtypes if origin else {}
    bare = not any((spec.language_model, spec.next_sentence, spec.sentence_order, spec.replaced_tokens, spec.task))
    arrays = {}
    kept = {name: array for name, array in origin.unread.items() if name in table.kept} if origin else {}
    for name, array in (weights.to_state_dict(pretrained.params, table) | kept).items():
        array = origin.unread.get(name, array) if origin else array
        kind = dtype or stored.get(name, "float32")
        with np.errstate(over="ignore"):
            converted = array.astype(DTYPES[kind])
        if dtype and np.isinf(converted.astype(np.float32)).any() and not np.isinf(array).any():
            raise UserError(f"--dtype={dtype}: cannot hold the numbers of {name}, up to {abs(array).max():.3g}")
        arrays[name.removeprefix(f"{table.prefix}.") if bare else name] = converted
    return dict(sorted(arrays.items()))


def _write_files(pretrained, config, arrays, directory, dtype):
    spec, origin = pretrained.model.spec, pretrained.origin
    entries = weight_table(config, spec).names
    words = next(e.theirs for e in entries if isinstance(e, weights.Module) and e.ours == "encoder/embeddings/word")
    embedding = next(array for name, array in arrays.items() if f"{words}.weight".endswith(name))
    names = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]
    config = config | dict.fromkeys(names, embedding.dtype.name)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "config.json").write_text(text + "\n", "utf-8")
    tensors.write(arrays, directory)
    if origin:
        for name in published.FILES:
            if (origin.directory / name).is_file():
                shutil.copyfile(origin.directory / name, directory / name)
    else:
        longest = spec.max_positions
        if "activation" in pretrained.settings:  # a cross-encoder: its rows of fine-tuning are the longest
            longest = min(longest, pretrained.settings.get("max_length", longest))
        pretrained.tokenizer.save(directory, max_length=longest, segments=spec.type_vocab_size > 1)
    if origin and origin.embedder:
        sentence_transformers.write_back(origin.embedder, directory, np.dtype(DTYPES[dtype]) if dtype else None)
    elif "pooling" in pretrained.settings and not spec.task and sentence_transformers.can_write(pretrained.settings):
        prompts = origin.prompts if origin else {}
        sentence_transformers.write(directory, pretrained.settings, spec.hidden_size, prompts)
    elif "sparse" in pretrained.settings and spec.language_model:
        sentence_transformers.write_sparse(directory, pretrained.settings, origin.prompts if origin else {})
    elif "late_interaction" in pretrained.settings and multi_vector.can_write(pretrained.settings):
        sentence_transformers.write_multi_vector(directory, pretrained.settings, origin.prompts if origin else {})


def __getattr__(name: str):
    return _moved.find("interop.huggingface", name)
