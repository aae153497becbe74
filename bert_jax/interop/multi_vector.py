"""Reads and writes directories of models with a vector for each token of a text: PyLate's, and sentence-transformers'.

PyLate (model_type ColBERT): modules Transformer and Dense; config_sentence_transformers.json says how texts are read.
sentence-transformers (MultiVectorEncoder): modules Transformer, Dense, MultiVectorMask and Normalize, each with its
own settings. `write_layers` and `pylate_config` are PyLate's, which both libraries load.
Stanford's ColBERT (architecture HF_ColBERT): an encoder, the map among its weights, and artifact.metadata; read only.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.data.tasks.late_interaction import PUNCTUATION, Reading
from bert_jax.data.vocabularies import hugging_face
from bert_jax.data.vocabularies.tokenizer import SPECIAL_NAMES, Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop import model_config, module_layers, routers
from bert_jax.model.projection import Projection

KINDS = ("MultiVectorEncoder", "ColBERT")  # values of model_type
STANFORD, STANFORD_MAP, _STANFORD_SETTINGS = "HF_ColBERT", "linear.weight", "artifact.metadata"
SIMILARITIES = ("maxsim", "meanmaxsim")  # names of sentence-transformers; the second divides by the query's tokens
_PYLATE_KEYS = (
    "query_length", "document_length", "query_expansion", "do_query_expansion", "attend_to_expansion_tokens",
    "attend_to_mask_tokens", "query_prefix", "document_prefix", "skiplist_words",
)  # fmt: skip
_NO_LIMIT = 1 << 20  # tokens; the model's own limit is less


@dataclasses.dataclass(frozen=True)
class Source:
    """Holds the files that a model is read from.

    Attributes:
      directory: the sentence-transformers directory.
      modules: the entries of modules.json, the encoder's first.
      encoder_config: the contents of sentence_bert_config.json.
      encoder_path: its path, for messages.
      config: the contents of config_sentence_transformers.json.
      weights: takes the weights of the modules that are read, by their folder's name.
      pickles: whether pickled weights are read.
    """

    directory: pathlib.Path
    modules: Sequence[Mapping]
    encoder_config: Mapping
    encoder_path: pathlib.Path
    config: Mapping
    weights: dict[str, Mapping]
    pickles: bool


def read(source: Source, prompts: Mapping[str, str], longest: int | None) -> dict[str, Any]:
    """Returns the settings of a model.

    These are "late_interaction" (the JSON values of a Reading), "late_layers" (a tuple of Projection behind the
    encoder), "prompts" (by name, markers apart), "default_prompt_name" and "similarity" (one of SIMILARITIES).

    Args:
      source: the files.
      prompts: the prompts of config_sentence_transformers.json.
      longest: the most tokens of a text that the encoder's files name; None for no limit.

    Raises:
      UserError: a module or setting is not supported.
    """
    is_pylate = source.config.get("model_type") == "ColBERT"
    layers, mask = _layers(source)
    if is_pylate:  # which masks and normalizes without modules for them
        layers.append(Projection("normalize"))
        mask = {"skiplist_words": source.config.get("skiplist_words", PUNCTUATION)}
    expansion = _expansion(source)
    if mask is None and expansion and not expansion.get("attend"):
        raise UserError(f"{source.directory}: query_expansion without MultiVectorMask is not supported")
    mask = mask or {}
    for key in ("keep_only_token_ids",):
        if mask.get(key):
            raise UserError(f"{source.directory}: {key} of MultiVectorMask is not supported; expected none")
    tasks = mask.get("skiplist_tasks") or ["document"]
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if "document" not in tasks or set(tasks) - {"document", "query"}:
        raise UserError(f"{source.directory}: skiplist_tasks {tasks}; expected document, or document and query")
    limits = [_number(source, key) or longest or _NO_LIMIT for key in ("query_length", "document_length")]
    length = 0
    if expansion:
        length = int(expansion["length"])
        limits[0] = length if expansion["strategy"] == "fixed" else max(length, limits[0])
    markers = [source.config.get(f"{kind}_prefix") or "" for kind in ("query", "document")]
    reading = Reading(
        query_length=limits[0],
        document_length=limits[1],
        expansion_length=length,
        attends_to_expansion=bool(expansion.get("attend")),
        skiplist=tuple(mask.get("skiplist_words") or ()),
        skips_in_queries="query" in tasks,
        markers=(markers[0], markers[1]),
    )
    own_prompts = {
        name: text.removeprefix(dict(zip(("query", "document"), markers, strict=True)).get(name, ""))
        for name, text in prompts.items()
    }
    similarity = source.config.get("similarity_fn_name")
    return {
        "late_interaction": reading.to_json(),
        "late_layers": tuple(layers),
        "prompts": {name: text for name, text in own_prompts.items() if text},
        "default_prompt_name": source.config.get("default_prompt_name"),
        "similarity": similarity if similarity in SIMILARITIES else "maxsim",
    }


def read_stanford(directory: pathlib.Path, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the settings, as `read` does, of a directory of Stanford's ColBERT.

    Args:
      directory: the directory.
      weights: its arrays by name, of which linear.weight [outputs, inputs] is the map to the vectors of tokens.

    Raises:
      UserError: a file does not hold what it should.
    """
    kernel, path = weights.get(STANFORD_MAP), directory / _STANFORD_SETTINGS
    if kernel is None or kernel.ndim != 2:
        raise UserError(f"{directory}: {STANFORD} without {STANFORD_MAP}; expected the map to the vectors of tokens")
    config = model_config.load_json(path) if path.is_file() else {}
    limits = {}
    for name, usual in (("query_maxlen", 32), ("doc_maxlen", 220)):
        limits[name] = config.get(name) or usual
        if not isinstance(limits[name], int) or limits[name] < 3:
            raise UserError(f"{path}: {name} {limits[name]!r}; expected a number of tokens, 3 or more")
    markers = (config.get("query_token_id") or "[unused0]", config.get("doc_token_id") or "[unused1]")
    reading = Reading(
        query_length=limits["query_maxlen"],
        document_length=limits["doc_maxlen"],
        expansion_length=limits["query_maxlen"],
        attends_to_expansion=bool(config.get("attend_to_mask_tokens")),
        skiplist=PUNCTUATION if config.get("mask_punctuation", True) else (),
        markers=markers,
    )
    layer = Projection("dense", {"kernel": np.ascontiguousarray(np.asarray(kernel, np.float32).T)})
    return {
        "late_interaction": reading.to_json(),
        "late_layers": (layer, Projection("normalize")),
        "prompts": {},
        "default_prompt_name": None,
        "similarity": "maxsim",
        "max_length": limits["doc_maxlen"],
    }


def _layers(source):
    """Returns (the layers behind the encoder, the contents of MultiVectorMask's config.json or None)."""
    layers: list[Projection] = []
    mask = None
    for module in source.modules[1:]:
        name, folder = routers.class_name(module), source.directory / module["path"]
        if name == "Dense":
            layer = module_layers.dense(
                source.directory, module["path"], False, source.weights, source.pickles, module_layers.TOKENS
            )
            layers.append(layer)
        elif name == "Normalize":
            layers += module_layers.normalize(folder / "config.json", False)
        elif name == "MultiVectorMask" and mask is None:
            path = folder / "config.json"
            mask = model_config.load_json(path) if path.is_file() else {}
        elif name != "Dropout":
            names = ", ".join(routers.class_name(module) for module in source.modules)
            raise UserError(
                f"{source.directory / 'modules.json'}: modules {names}; expected Transformer and then any of Dense, "
                f"MultiVectorMask, Normalize, but not {name} there"
            )
    return layers, mask


def _expansion(source):
    """Returns query_expansion as sentence-transformers 6 saves it, from whichever form the files have; {} for none."""
    config, own = source.config, source.encoder_config
    if "query_expansion" in own:
        expansion = own["query_expansion"]
    elif "query_expansion" in config:
        expansion = config["query_expansion"]
    elif not any(key in config for key in _PYLATE_KEYS) or config.get("do_query_expansion") is False:
        expansion = None
    else:
        attend = config.get("attend_to_expansion_tokens", config.get("attend_to_mask_tokens"))
        length = config.get("query_length") or 32
        expansion = {"strategy": "fixed", "attend": bool(attend), "length": length}
    if not expansion:
        return {}
    length, token = expansion.get("length"), expansion.get("token")
    fits = expansion.get("strategy") in ("fixed", "min") and isinstance(length, int) and length > 0
    if not fits or token not in (None, *SPECIAL_NAMES["mask"]):
        raise UserError(
            f"{source.encoder_path}: query_expansion {expansion}; expected a strategy fixed or min, a length and no "
            "token but [MASK]"
        )
    return expansion


def _number(source, key):
    """Returns query_length or document_length; None where the files name none."""
    value = source.encoder_config.get(key)
    if value is None:
        value = source.config.get(key)
    usual = {"query_length": 32, "document_length": 180}  # PyLate's
    if value is None and source.config.get("model_type") == "ColBERT":
        value = usual[key]
    if value is not None and (not isinstance(value, int) or value < 3):
        raise UserError(f"{source.directory}: {key} {value!r}; expected a number of tokens, 3 or more")
    return value


def with_markers(tokenizer: Tokenizer, markers: Sequence[str], add: bool = False) -> Tokenizer:
    """Returns a tokenizer in which each marker that its vocabulary has is read as one token.

    A marker such as "[Q] " may be in the vocabulary with its space or without; one that is not there is text.

    Args:
      tokenizer: the model's tokenizer.
      markers: markers of queries and documents; "" for none.
      add: whether a marker that the vocabulary lacks is added to it.

    Raises:
      UserError: a marker is to be added to a SentencePiece model.
    """
    tokens = []
    for marker in filter(str.strip, markers):
        token = next((word for word in (marker, marker.split()[0]) if tokenizer.token_id(word) is not None), None)
        if token is None and not add:
            continue
        token = marker if token is None else token
        token_id = tokenizer.token_id(token)
        if token_id is None or list(tokenizer.encode([token], special=True)[0]) != [token_id]:
            tokens.append(token)
    if not tokens:
        return tokenizer
    if not isinstance(tokenizer, hugging_face.HuggingFaceTokenizer):
        if not add:
            return tokenizer
        raise UserError(
            f"markers {', '.join(map(repr, tokens))}: a SentencePiece .model cannot have them; expected a vocabulary "
            "with a tokenizer.json or vocab.txt"
        )
    return hugging_face.with_special_tokens(tokenizer, tokens)


def can_write(settings: Mapping) -> bool:
    """Tells whether PyLate's format has names for how a model reads texts, and for its layers."""
    reading, layers = Reading.from_json(settings["late_interaction"]), settings["late_layers"]
    plain = all(layer.kind == "dense" and layer.activation != "PReLU" for layer in layers[:-1])
    is_fixed = reading.expansion_length in (0, reading.query_length)
    return len(layers) > 1 and plain and layers[-1].kind == "normalize" and is_fixed and not reading.skips_in_queries


def pylate_config(settings: Mapping) -> dict[str, Any]:
    """Returns what config_sentence_transformers.json says beside prompts; see `read` for the settings."""
    reading = Reading.from_json(settings["late_interaction"])
    return {
        "model_type": "ColBERT",
        "query_prefix": reading.markers[0],
        "document_prefix": reading.markers[1],
        "query_length": reading.query_length,
        "document_length": reading.document_length,
        "do_query_expansion": bool(reading.expansion_length),
        "attend_to_expansion_tokens": reading.attends_to_expansion,
        "skiplist_words": list(reading.skiplist),
    }


def write_layers(settings: Mapping, directory: pathlib.Path) -> list[tuple[str, str]]:
    """Writes the dense layers into folders of their own; returns (folder, class) of each module for modules.json."""
    modules = [("", "sentence_transformers.models.Transformer")]
    for number, layer in enumerate(settings["late_layers"][:-1], 1):
        folder = directory / f"{number}_Dense"
        folder.mkdir(exist_ok=True)
        module_layers.write_dense(layer, folder, use_residual=layer.adds_input)
        modules.append((folder.name, "pylate.models.Dense.Dense"))
    return modules
