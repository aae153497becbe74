"""Reads and writes directories of sentence-transformers: the modules after the encoder and their settings.

modules.json                          the modules and their folders
sentence_bert_config.json             longest text, lower case; beside the encoder's config.json
1_Pooling/config.json                 how token vectors are pooled
config_sentence_transformers.json     prompts
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from bert_jax.errors import UserError
from bert_jax.interop import model_config

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
# Settings of the encoder's module that change its output, and the values that stand for the last hidden states.
_PLAIN = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}


@dataclasses.dataclass(frozen=True)
class Embedder:
    """The contents of a sentence-transformers directory.

    Attributes:
      encoder: the directory with the encoder's config.json, weights and tokenizer.
      settings: settings for Pretrained: "pooling" (a tuple of kinds, whose vectors are concatenated), "normalize",
        "include_prompt" (False leaves a prompt's tokens out of the pooling), "prompts" (by name),
        "default_prompt_name", "lower_case" (of the text before tokenization) and, where it is given, "max_length".
      prompts: the contents of config_sentence_transformers.json.
    """

    encoder: pathlib.Path
    settings: Mapping
    prompts: Mapping


def read(directory: pathlib.Path) -> Embedder | None:
    """Reads a directory; returns None for one of another kind, or of a cross-encoder, which is a plain classifier.

    Raises:
      UserError: a module or a setting is not supported.
    """
    path = directory / MODULES
    if not path.is_file():
        return None
    prompts = model_config.load_json(directory / PROMPTS) if (directory / PROMPTS).is_file() else {}
    kind = prompts.get("model_type", "SentenceTransformer")
    if kind == "CrossEncoder":
        return None
    if kind != "SentenceTransformer":
        raise UserError(f"{directory / PROMPTS}: model_type {kind} is not supported; expected SentenceTransformer")
    modules = _modules(path)
    names = [name for name, _ in modules]
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in ([], ["Normalize"]):
        raise UserError(f"{path}: modules {', '.join(names)}; expected Transformer, Pooling and, perhaps, Normalize")
    encoder = directory / modules[0][1]
    settings = _pooling(directory / modules[1][1] / "config.json")
    settings |= {
        "normalize": len(names) == 3,
        "prompts": dict(prompts.get("prompts") or {}),
        "default_prompt_name": prompts.get("default_prompt_name"),
    }
    config, config_path = _transformer_config(encoder)
    for key, allowed in _PLAIN.items():
        if config.get(key) not in allowed:
            raise UserError(f"{config_path}: {key} {config[key]!r} is not supported")
    output = config.get("modality_config", {}).get("text", {}).get("method_output_name", "last_hidden_state")
    if output != "last_hidden_state":
        raise UserError(f"{config_path}: method_output_name {output!r} is not supported; expected 'last_hidden_state'")
    longest = config.get("max_seq_length")
    if longest is None and (encoder / "tokenizer_config.json").is_file():
        longest = model_config.load_json(encoder / "tokenizer_config.json").get("model_max_length")
    if longest is not None:
        settings["max_length"] = int(longest)
    settings["lower_case"] = bool(config.get("do_lower_case", False))
    return Embedder(encoder, settings, prompts)


def write(directory: pathlib.Path, settings: Mapping, hidden_size: int, prompts: Mapping) -> None:
    """Writes the files that make an encoder's directory one of sentence-transformers.

    The older names of poolings are written where they suffice, because every version reads them.

    Args:
      directory: directory with the encoder's config.json, weights and tokenizer.
      settings: settings as in Embedder.
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
    if settings.get("normalize"):
        modules.append(("2_Normalize", "Normalize"))
    encoder = {"max_seq_length": settings.get("max_length"), "do_lower_case": settings.get("lower_case", False)}
    prompts = {
        **(prompts or {"__version__": {}}),
        "prompts": dict(settings.get("prompts") or {}),
        "default_prompt_name": settings.get("default_prompt_name"),
    }
    listed = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{name}"}
        for i, (folder, name) in enumerate(modules)
    ]
    for folder, _ in modules:
        (directory / folder).mkdir(exist_ok=True)
    _dump(directory / MODULES, listed)
    _dump(directory / "1_Pooling" / "config.json", pooling)
    _dump(directory / "sentence_bert_config.json", encoder)
    _dump(directory / PROMPTS, prompts)


def can_write(settings: Mapping) -> bool:
    """Tells whether the format has names for an embedder's poolings."""
    return set(settings["pooling"]) <= set(_POOLING.values())


def _modules(path):
    modules = []
    for module in model_config.load_json(path, list):
        try:
            modules.append((str(module["type"]).rpartition(".")[2], module["path"]))
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: found {module!r}; expected objects with `type` and `path`") from error
    return modules


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


def _dump(path, content):
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
