"""Reads and writes directories of sentence-transformers: the modules after the encoder and their settings.

modules.json                          the modules and their folders
sentence_bert_config.json             longest text, lower case; beside the encoder's config.json
1_Pooling/config.json                 how token vectors are pooled
2_Dense/config.json, weights          a linear map and its activation
1_WeightedLayerPooling/config.json    the mean of several layers that is pooled instead of the last one
1_SpladePooling/config.json           how scores of the vocabulary's tokens are pooled, in a SparseEncoder
2_MultiVectorMask/config.json         which tokens have a vector, in a MultiVectorEncoder (multi_vector.py)
config_sentence_transformers.json     kind of model, prompts, activation of a cross-encoder's scores

A router's modules are those of its default route (routers.py).
The encoder of every such directory is read. A module that bert_jax does not compute is named where vectors or
scores are asked for. What was read is written back as it was: the folders of the modules are
copied.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.config.finetuning_keys import SPARSE_POOLING
from bert_jax.errors import UserError
from bert_jax.interop import model_config, module_layers, multi_vector, routers, tensors
from bert_jax.interop.families import FAMILIES
from bert_jax.model.pooling import SPARSE_ACTIVATIONS
from bert_jax.model.projection import TORCH_ACTIVATIONS, Projection

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
# Kinds of pooling by the names that older versions save, in the order in which those versions concatenate.
_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)  # fmt: skip
# Modules that hold an encoder; those with an architecture's name are of the first versions, which today's lacks.
_OLD_ENCODERS = ("BERT", "RoBERTa", "DistilBERT", "ALBERT", "CamemBERT", "XLMRoBERTa", "XLNet")
_ENCODERS = ("Transformer", "MLMTransformer", *_OLD_ENCODERS)
# Settings of the encoder's module that change its output, and the values that stand for the last hidden states.
_PLAIN = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "tokenizer_name_or_path": (None,),
}
_PADDING = {"padding", "truncation", "pad_to_multiple_of", "max_length"}  # processing_kwargs that change no vector
_WEIGHTS = (tensors.SINGLE, *tensors.PICKLES)


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Holds the contents of a sentence-transformers directory.

    Attributes:
      encoder: the directory with the encoder's config.json, weights and tokenizer.
      settings: settings for Pretrained. An embedder has "pooling" (a tuple of kinds, whose vectors are concatenated),
        "normalize" (to length 1 at the end), "include_prompt" (False leaves a prompt's tokens out of the pooling),
        "prompts" (by name), "default_prompt_name", "similarity" (its name, or None), "lower_case" (of the text before
        tokenization) and, where they are given, "max_length", "token_layers" and "layers" (tuples of Projection before
        and after the pooling), "layer_weights" (float32: the weights of the top layers, whose weighted mean is pooled),
        "other_tasks" (those of "query" and "document" that a router sends through other modules) and "truncate_dim"
        (numbers of a vector that are kept). A MultiVectorEncoder has what multi_vector.read returns. A cross-encoder
        has "activation" of its scores (a key of TORCH_ACTIVATIONS, or "" where several labels have none) and
        "max_length". "embed_refusal" and "classify_refusal" say what bert_jax does not compute.
      prompts: the contents of config_sentence_transformers.json.
      directory: the directory itself.
      modules: the entries of modules.json, the encoder's first; a router's are those of the route that was read.
      routes: names of the routes that were read.
      weights: weights of the modules that were read, by their folder's name.
    """

    encoder: pathlib.Path
    settings: Mapping
    prompts: Mapping
    directory: pathlib.Path = pathlib.Path()
    modules: tuple[Mapping, ...] = ()
    weights: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    routes: tuple[str, ...] = ()


def read(directory: pathlib.Path, pickles: bool = False) -> Embedder | None:
    """Reads a directory; returns None for one without modules.json.

    Args:
      directory: the directory.
      pickles: whether pickled weights of the modules are read.

    Raises:
      UserError: modules.json is damaged, or its modules hold no encoder.
    """
    path = directory / MODULES
    if not path.is_file():
        return None
    prompts = model_config.load_json(directory / PROMPTS) if (directory / PROMPTS).is_file() else {}
    routed = routers.follow(directory, _modules(path), lambda module: _holds_encoder(directory, module))
    modules = routed.modules
    encoder = _encoder(directory, modules, path)
    kind = prompts.get("model_type") or "SentenceTransformer"
    if kind == "CrossEncoder":
        settings: dict[str, Any] = {}
        _note(settings, "classify_refusal", lambda: _cross_encoder(encoder, modules, prompts, directory))
        return Embedder(encoder, settings, prompts, directory, modules, routes=routed.routes)
    weights: dict[str, Mapping] = {}
    settings = {}
    if routed.refusal:
        settings["embed_refusal"] = routed.refusal
    elif kind == "SparseEncoder":
        _note(settings, "embed_refusal", lambda: _sparse(directory, encoder, modules, prompts))
    elif kind in multi_vector.KINDS:
        _note(settings, "embed_refusal", lambda: _multi_vector(directory, encoder, modules, prompts, weights, pickles))
    elif kind == "SentenceTransformer":
        settings |= {"other_tasks": routed.other_tasks} if routed.other_tasks else {}
        _note(settings, "embed_refusal", lambda: _embedder(directory, encoder, modules, prompts, weights, pickles))
    else:
        others = ", ".join(routers.class_name(module) for module in modules)
        settings["embed_refusal"] = (
            f"{directory / PROMPTS}: a {kind} ({others}), which has no single vector for a text; expected a "
            "SentenceTransformer"
        )
    return Embedder(encoder, settings, prompts, directory, modules, weights, routed.routes)


def cross_encoder_settings(config: Mapping, prompts: Mapping, num_labels: int, path: pathlib.Path) -> dict[str, str]:
    """Returns {"activation": name} of a cross-encoder's scores; {} for a classifier that is none.

    Where no file names an activation of torch (the code of others is not run), the name is "Sigmoid" for one label, and
    "" for several, whose scores are then those of any classifier.

    Args:
      config: the contents of config.json.
      prompts: the contents of config_sentence_transformers.json, or {}.
      num_labels: number of the classifier's outputs.
      path: path of config.json, for messages.

    Raises:
      UserError: the activation is not known.
    """
    own = config.get("sentence_transformers")
    own = own if isinstance(own, Mapping) else None
    old = config.get("sbert_ce_default_activation_function")
    if prompts.get("model_type") != "CrossEncoder" and old is None and own is None:
        return {}
    names = [prompts.get("activation_fn"), (own or {}).get("activation_fn", old)]  # in sentence-transformers' order
    named = next((str(name) for name in names if str(name).startswith("torch.")), None)
    if named is None:
        return {"activation": "Sigmoid" if num_labels == 1 else ""}
    name = named.rpartition(".")[2]
    if name not in TORCH_ACTIVATIONS:
        raise UserError(f"{path}: activation_fn {named!r}; expected one of torch.nn's {', '.join(TORCH_ACTIVATIONS)}")
    return {"activation": name}


def cross_encoder_config(activation: str) -> dict[str, dict[str, str]]:
    """Returns what config.json says of a cross-encoder whose scores are an activation of its logits.

    Args:
      activation: a key of TORCH_ACTIVATIONS.
    """
    return {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{module_layers.torch_place(activation)}"}}


def max_length(encoder: pathlib.Path, config: Mapping) -> int | None:
    """Returns the most tokens of a text, special ones included, that an encoder's directory names; None for no limit.

    Args:
      encoder: the encoder's directory.
      config: the contents of its sentence_bert_config.json, or {}.

    Raises:
      UserError: a limit is no number.
    """
    longest = config.get("max_seq_length")
    for kind in ("common", "text"):
        longest = ((config.get("processing_kwargs") or {}).get(kind) or {}).get("max_length", longest)
    for name in ("tokenizer_args", "tokenizer_kwargs", "processor_kwargs"):
        if longest is None:
            longest = (config.get(name) or {}).get("model_max_length")
    path = encoder / "tokenizer_config.json"
    if longest is None and path.is_file():
        longest = model_config.load_json(path).get("model_max_length")
    if longest is None:
        return None
    try:
        return int(longest)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{encoder}: the most tokens of a text are {longest!r}; expected a number") from error


def write(directory: pathlib.Path, settings: Mapping, hidden_size: int, prompts: Mapping) -> None:
    """Writes the files that make an encoder's directory one of sentence-transformers.

    The older names of poolings are written where they suffice, because every version reads them.

    Args:
      directory: directory with the encoder's config.json, weights and tokenizer.
      settings: settings as in Embedder; of layers, dense ones behind the pooling.
      hidden_size: size of the encoder's hidden states.
      prompts: other contents of config_sentence_transformers.json.
    """
    kinds = list(settings["pooling"])
    if kinds == [kind for kind in _POOLING.values() if kind in kinds]:
        pooling = {"word_embedding_dimension": hidden_size}
        pooling |= {key: kind in kinds for key, kind in _POOLING.items()}
    else:
        pooling = {"embedding_dimension": hidden_size, "pooling_mode": kinds}
    pooling["include_prompt"] = settings.get("include_prompt", True)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    for _ in settings.get("layers", ()):
        modules.append((f"{len(modules)}_Dense", "Dense"))
    if settings.get("normalize"):
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    _write_modules(directory, [(folder, f"sentence_transformers.models.{name}") for folder, name in modules])
    module_layers.dump(directory / "1_Pooling" / "config.json", pooling)
    for i, layer in enumerate(settings.get("layers", ()), 2):
        module_layers.write_dense(layer, directory / f"{i}_Dense")
    _write_settings(directory, settings, prompts)


def write_sparse(directory: pathlib.Path, settings: Mapping, prompts: Mapping) -> None:
    """Writes the files that make a masked language model's directory a SparseEncoder of sentence-transformers.

    Args:
      directory: directory with the model's config.json, weights and tokenizer.
      settings: settings as in Embedder, with "sparse".
      prompts: other contents of config_sentence_transformers.json.
    """
    place = "sentence_transformers.{}.modules"
    names = [f"{place.format('base')}.transformer.Transformer",
             f"{place.format('sparse_encoder')}.splade_pooling.SpladePooling"]  # fmt: skip
    _write_modules(directory, list(zip(("", "1_SpladePooling"), names, strict=True)))
    kind, activation = settings["sparse"]
    pooling = {"pooling_strategy": kind, "activation_function": activation, "embedding_dimension": None}
    module_layers.dump(directory / "1_SpladePooling" / "config.json", pooling)
    terms = {"max_active_dims": settings["max_terms"]} if "max_terms" in settings else {}
    _write_settings(directory, settings, dict(prompts or {"__version__": {}}) | terms | {"model_type": "SparseEncoder"},
                    transformer_task="fill-mask")  # fmt: skip


def write_multi_vector(directory: pathlib.Path, settings: Mapping, prompts: Mapping) -> None:
    """Writes the files that make an encoder's directory one of PyLate, which sentence-transformers loads too.

    Args:
      directory: directory with the encoder's config.json, weights and tokenizer.
      settings: settings as multi_vector.read returns them; see multi_vector.can_write.
      prompts: other contents of config_sentence_transformers.json.
    """
    _write_modules(directory, multi_vector.write_layers(settings, directory))
    similarity = {"maxsim": "MaxSim"}.get(settings.get("similarity", "maxsim"), settings.get("similarity"))
    others = dict(prompts or {"__version__": {}}) | multi_vector.pylate_config(settings)
    _write_settings(directory, dict(settings) | {"similarity": similarity}, others)


def _write_modules(directory, modules):
    """Writes modules.json of (folder, class) of each module, and makes the folders."""
    listed = [{"idx": i, "name": str(i), "path": folder, "type": name} for i, (folder, name) in enumerate(modules)]
    for folder, _ in modules:
        (directory / folder).mkdir(exist_ok=True)
    module_layers.dump(directory / MODULES, listed)


def _write_settings(directory, settings, prompts, **encoder):
    """Writes the settings of the encoder's module, and those of the whole."""
    encoder |= {"max_seq_length": settings.get("max_length"), "do_lower_case": settings.get("lower_case", False)}
    module_layers.dump(directory / "sentence_bert_config.json", encoder)
    own = {
        "prompts": dict(settings.get("prompts") or {}),
        "default_prompt_name": settings.get("default_prompt_name"),
        "similarity_fn_name": settings.get("similarity"),
    }
    module_layers.dump(directory / PROMPTS, {**(prompts or {"__version__": {}}), **own})


def write_back(embedder: Embedder, directory: pathlib.Path, dtype: np.dtype | None = None) -> None:
    """Writes the modules that were read from a directory beside the encoder, which lies in the new directory itself.

    Args:
      embedder: what `read` returned.
      directory: directory with the encoder's config.json, weights and tokenizer.
      dtype: dtype of the modules' weights; None keeps each as it is.
    """
    listed = []
    for i, module in enumerate(embedder.modules):
        entry = dict(module)
        if i == 0:
            entry["path"] = ""
            if routers.class_name(module) in _OLD_ENCODERS:
                entry["type"] = "sentence_transformers.models.Transformer"
        elif entry["path"]:
            _copy_module(embedder, entry["path"], directory / entry["path"], dtype)
        listed.append(entry)
    module_layers.dump(directory / MODULES, listed)
    config = _transformer_config(embedder.encoder)[1]
    for path in (embedder.directory / PROMPTS, config):
        if path.is_file():
            shutil.copyfile(path, directory / path.name)


def can_write(settings: Mapping) -> bool:
    """Tells whether the format has names for an embedder's poolings, and the layers behind are plain ones."""
    layers = settings.get("layers", ())
    plain = all(layer.kind == "dense" and not layer.adds_input and layer.activation != "PReLU" for layer in layers)
    return set(settings["pooling"]) <= set(_POOLING.values()) and plain and not settings.get("token_layers")


def _copy_module(embedder, name, folder, dtype):
    """Copies a module's folder; weights that were read are written as safetensors."""
    source, weights = embedder.directory / name, embedder.weights.get(name)
    if source.is_dir():
        ignored = shutil.ignore_patterns(*_WEIGHTS) if weights is not None else None
        shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True, copy_function=shutil.copyfile)
    folder.mkdir(parents=True, exist_ok=True)  # a module without files may have no folder
    if weights is not None:
        tensors.write({key: np.asarray(array, dtype or array.dtype) for key, array in weights.items()}, folder)


def _note(settings: dict, refusal: str, read_settings: Callable[[], Mapping]) -> None:
    """Adds settings, or under the key `refusal` why they cannot be had."""
    try:
        settings |= read_settings()
    except UserError as error:
        settings[refusal] = str(error)


def _encoder(directory, modules, path):
    """Returns the folder of the encoder, the first module."""
    folder = directory / modules[0]["path"]
    if _holds_encoder(directory, modules[0]):
        return folder
    inside = sorted(file.parent for file in directory.rglob("config.json") if _is_encoder(file.parent))
    if len(inside) == 1 and inside[0] != directory:  # a Router without its file, or behind another kind
        return inside[0]
    apart = [str(folder) for folder in inside if folder != directory]
    hint = f"; {' or '.join(apart)} can be opened alone" if apart else ""
    if directory in inside:
        hint = f"; without modules.json, {directory} opens as a plain encoder"
    raise UserError(
        f"{path}: begins with {routers.class_name(modules[0])}, which is no transformer; expected Transformer{hint}"
    )


def _holds_encoder(directory, module):
    return routers.class_name(module) in _ENCODERS or _is_encoder(directory / module["path"])


def _is_encoder(folder):
    try:
        return json.loads((folder / "config.json").read_text("utf-8")).get("model_type") in FAMILIES
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _embedder(directory, encoder, modules, prompts, weights, pickles):
    """Returns the settings of an embedder, and adds the weights of its modules to `weights`."""
    config, config_path = _transformer_config(encoder)
    _check_transformer(config, config_path, modules)
    settings: dict[str, Any] = {}
    layers: dict[bool, list[Projection]] = {False: [], True: []}  # before and after the pooling
    for module in modules[1:]:
        name, folder, pooled = routers.class_name(module), directory / module["path"], "pooling" in settings
        if name == "Pooling" and not pooled:
            settings |= _pooling(folder / "config.json")
        elif name == "WeightedLayerPooling" and not pooled and not layers[False]:
            settings |= _layer_weights(directory, module["path"], encoder, weights, pickles)
        elif name == "Normalize":
            layers[pooled] += module_layers.normalize(folder / "config.json", pooled)
        elif name == "Dense":
            layers[pooled].append(module_layers.dense(directory, module["path"], pooled, weights, pickles))
        elif name == "LayerNorm" and pooled:
            layers[pooled].append(module_layers.layer_norm(directory, module["path"], weights, pickles))
        elif name != "Dropout":  # which does nothing in use
            names = ", ".join(routers.class_name(module) for module in modules)
            raise UserError(
                f"{directory / MODULES}: modules {names}; expected Transformer, Pooling and then any of Dense, "
                f"LayerNorm, Normalize, but not {name} there"
            )
    if "pooling" not in settings:
        names = ", ".join(routers.class_name(module) for module in modules)
        raise UserError(f"{directory / MODULES}: modules {names}; expected a Pooling")
    normalize = bool(layers[True]) and layers[True][-1].kind == "normalize"
    settings |= {
        "normalize": normalize,
        "prompts": dict(_prompts(prompts, directory / PROMPTS)),
        "default_prompt_name": prompts.get("default_prompt_name"),
        "similarity": prompts.get("similarity_fn_name"),
        "lower_case": bool(config.get("do_lower_case", False)),
    }
    after = layers[True][:-1] if normalize else layers[True]
    settings |= {"layers": tuple(after)} if after else {}
    settings |= {"token_layers": tuple(layers[False])} if layers[False] else {}
    longest = max_length(encoder, config)
    settings |= {} if longest is None else {"max_length": longest}
    kept = prompts.get("truncate_dim")
    if kept is not None and (not isinstance(kept, int) or kept < 1):
        raise UserError(f"{directory / PROMPTS}: truncate_dim {kept!r}; expected a positive number")
    return settings | ({} if kept is None else {"truncate_dim": kept})


def _sparse(directory, encoder, modules, prompts):
    """Returns the settings of a sparse encoder, a masked language model whose scores are pooled (SPLADE)."""
    names = [routers.class_name(module) for module in modules]
    config, config_path = _transformer_config(encoder)
    reads_scores = names[0] == "MLMTransformer" or config.get("transformer_task") == "fill-mask"
    if len(names) != 2 or names[1] != "SpladePooling" or not reads_scores:
        raise UserError(
            f"{directory / MODULES}: a sparse encoder of modules {', '.join(names)}; expected a masked language model "
            "and SpladePooling"
        )
    path = directory / modules[1]["path"] / "config.json"
    pooling = model_config.load_json(path) if path.is_file() else {}
    kind, activation = pooling.get("pooling_strategy", "max"), pooling.get("activation_function", "relu")
    if kind not in SPARSE_POOLING.values() or activation not in SPARSE_ACTIVATIONS:
        raise UserError(
            f"{path}: pooling_strategy {kind!r}, activation_function {activation!r}; expected "
            f"{' or '.join(SPARSE_POOLING.values())}, and {' or '.join(SPARSE_ACTIVATIONS)}"
        )
    settings = {
        "sparse": (kind, activation),
        "prompts": dict(_prompts(prompts, directory / PROMPTS)),
        "default_prompt_name": prompts.get("default_prompt_name"),
        "similarity": prompts.get("similarity_fn_name"),
        "lower_case": bool(config.get("do_lower_case", False)),
    }
    longest, terms = max_length(encoder, config), prompts.get("max_active_dims")
    settings |= {} if longest is None else {"max_length": longest}
    return settings | ({} if terms is None else {"max_terms": terms})


def _multi_vector(directory, encoder, modules, prompts, weights, pickles):
    """Returns the settings of a model with a vector for each token of a text."""
    config, path = _transformer_config(encoder)
    _check_transformer(config, path, modules)
    source = multi_vector.Source(directory, modules, config, path, prompts, weights, pickles)
    longest = max_length(encoder, config)
    settings = multi_vector.read(source, _prompts(prompts, directory / PROMPTS), longest)
    settings |= {} if longest is None else {"max_length": longest}
    return settings | {"lower_case": bool(config.get("do_lower_case", False))}


def _prompts(config, path):
    """Returns the prompts of config_sentence_transformers.json by name. Raises UserError where they are none."""
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(f"{path}: prompts {prompts!r}; expected an object of texts by name")
    return prompts


def _check_transformer(config, path, modules):
    """Refuses settings of the encoder's module under which it gives something else than the last hidden states."""
    if routers.class_name(modules[0]) not in ("Transformer", *_OLD_ENCODERS):
        raise UserError(f"{path}: the encoder's module is {routers.class_name(modules[0])}; expected Transformer")
    for key, allowed in _PLAIN.items():
        if config.get(key) not in allowed:
            raise UserError(f"{path}: {key} {config[key]!r} is not supported")
    output = config.get("modality_config", {}).get("text", {}).get("method_output_name", "last_hidden_state")
    if output != "last_hidden_state":
        raise UserError(f"{path}: method_output_name {output!r} is not supported; expected 'last_hidden_state'")
    for kind, arguments in (config.get("processing_kwargs") or {}).items():
        if kind in ("common", "text") and set(arguments) - _PADDING:
            others = ", ".join(sorted(set(arguments) - _PADDING))
            raise UserError(f"{path}: processing_kwargs.{kind}: {others} is not supported")


def _cross_encoder(encoder, modules, prompts, directory):
    """Returns the settings of a cross-encoder but for its activation."""
    if len(modules) > 1:
        names = ", ".join(routers.class_name(module) for module in modules)
        raise UserError(f"{directory / MODULES}: a cross-encoder with modules {names}; expected Transformer alone")
    config, path = _transformer_config(encoder)
    if config.get("do_lower_case"):
        raise UserError(f"{path}: do_lower_case of a cross-encoder is not supported; expected false")
    longest = max_length(encoder, config)
    settings = {} if longest is None else {"max_length": longest}
    named, default = _prompts(prompts, directory / PROMPTS), prompts.get("default_prompt_name")
    return settings | ({"prompts": dict(named), "default_prompt_name": default} if named else {})


def _layer_weights(directory, name, encoder, weights, pickles):
    """Returns {"layer_weights": those from layer_start on}; {} where the encoder gives the last layer alone."""
    if not model_config.load_json(encoder / "config.json").get("output_hidden_states"):
        return {}  # as sentence-transformers does
    path = directory / name / "config.json"
    config = model_config.load_json(path)
    start, layers = config.get("layer_start", 4), config.get("num_hidden_layers", 12)
    array = module_layers.read_weights(directory, name, weights, pickles).get("layer_weights")
    if not isinstance(start, int) or not isinstance(layers, int) or np.shape(array) != (layers + 1 - start,):
        raise UserError(
            f"{path}: layer_start {start!r} of {layers!r} layers; expected as many weights, found {np.shape(array)}"
        )
    return {"layer_weights": np.asarray(array, np.float32)}


def _modules(path) -> tuple[Mapping, ...]:
    modules: Sequence = model_config.load_json(path, list)
    for module in modules:
        folder = module.get("path") if isinstance(module, Mapping) else None
        if not isinstance(folder, str) or "type" not in module:
            raise UserError(f"{path}: found {module!r}; expected objects with `type` and `path`")
        if pathlib.PurePath(folder).is_absolute() or ".." in pathlib.PurePath(folder).parts:
            raise UserError(f"{path}: path {folder!r}; expected a folder inside the directory")
    if not modules:
        raise UserError(f"{path}: no modules; expected Transformer and Pooling")
    return tuple(modules)


def _pooling(path):
    config = model_config.load_json(path)
    kinds = config.get("pooling_mode")
    if kinds is None:
        kinds = [kind for key, kind in _POOLING.items() if config.get(key)] or ["mean"]
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    unknown = [kind for kind in kinds if kind not in _POOLING.values()]
    if unknown:
        raise UserError(f"{path}: pooling {unknown[0]!r} is not supported; expected {', '.join(_POOLING.values())}")
    return {"pooling": tuple(kinds), "include_prompt": bool(config.get("include_prompt", True))}


def _transformer_config(encoder):
    for name in _TRANSFORMER_CONFIGS:
        if (encoder / name).is_file():
            return model_config.load_json(encoder / name), encoder / name
    return {}, encoder / _TRANSFORMER_CONFIGS[0]
