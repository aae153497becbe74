"""Writes a model card: README.md with YAML front matter, as the Hugging Face hub reads it."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from bert_jax.interop.pretrained import Pretrained

NAME = "README.md"
_TAGS = {"sparse": "sparse-encoder", "late_interaction": "multi-vector-encoder"}  # by a key of the settings
_LOADING = "\n## How to load it\n\n"
_PIPELINES = {
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
}


@dataclasses.dataclass(frozen=True)
class Provenance:
    """States what is known of a model's training.

    Attributes:
      step: training steps done; None for a model that no run made, which was converted alone.
      base_model: the model that training started from: a name on the hub or the name of a folder; "" for none.
      texts: (name, fingerprint) of each training text.
      metrics: held-out metrics by name, such as {"accuracy": 0.91}; those that are not finite are left out.
      evaluated_on: the text that the metrics were measured on; "" where it is not known.
      averaged_steps: steps of the checkpoints whose parameters were averaged; () for those of one checkpoint.
      average: how they were averaged: "mean:K", or "ema:DECAY" for an exponential average.
      languages: codes of the languages of the training texts, such as "de"; () where one of them is not known.
    """

    step: int | None = None
    base_model: str = ""
    texts: tuple[tuple[str, str], ...] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    evaluated_on: str = ""
    averaged_steps: tuple[int, ...] = ()
    average: str = ""
    languages: tuple[str, ...] = ()


def _origin(provenance):
    """Returns the sentences on how the model came to be."""
    if provenance.step is None:
        return f"Converted with bert_jax{f' from {provenance.base_model}' if provenance.base_model else ''}."
    return f"Trained with bert_jax for {provenance.step:,} steps.{_average(provenance)}"


def _average(provenance):
    if not provenance.averaged_steps:
        return ""
    kind, _, decay = provenance.average.partition(":")
    average = f"exponential average (decay {decay})" if kind == "ema" else "mean"
    steps = ", ".join(map(str, provenance.averaged_steps))
    return f" Its parameters are the {average} of the checkpoints of steps {steps}."


def render(model: Pretrained, title: str, provenance: Provenance, name: str = "") -> str:
    """Returns the text of a model card.

    Args:
      model: the model that is written.
      title: its name, such as the output folder's.
      provenance: what is known of its training.
      name: what it is loaded by, such as a name on the hub; "" for the title.
    """
    spec = model.model.spec  # in a run with a generator, each model has the metrics of its own head
    others = {"mlm_"} if spec.replaced_tokens and not spec.language_model else set()
    others |= {"rtd_"} if spec.language_model and not spec.replaced_tokens else set()
    metrics = {
        name: value
        for name, value in provenance.metrics.items()
        if math.isfinite(value) and not name.startswith(tuple(others))
    }
    is_theirs = pipeline_tag(model) in ("sentence-similarity", "text-ranking") or "sparse" in model.settings
    is_theirs = is_theirs or "late_interaction" in model.settings
    front: dict[str, Any] = {
        "library_name": "sentence-transformers" if is_theirs else "transformers",
        "pipeline_tag": pipeline_tag(model),
        "tags": ["bert_jax", "jax", model.family, *(tag for key, tag in _TAGS.items() if key in model.settings)],
    }
    if provenance.languages:
        several = len(provenance.languages) > 1
        front["language"] = list(provenance.languages) if several else provenance.languages[0]
    if "/" in provenance.base_model:  # a folder's name means nothing on the hub
        front["base_model"] = provenance.base_model
    if provenance.texts:
        front["training_texts"] = [{"name": name, "fingerprint": digest} for name, digest in provenance.texts]
    if metrics:
        front["metrics"] = sorted(metrics)
        front["model-index"] = [{"name": title, "results": [{
            "task": {"type": front["pipeline_tag"]},
            "dataset": {"name": provenance.evaluated_on or "held-out text", "type": "text"},
            "metrics": [{"type": name, "value": round(value, 6)} for name, value in sorted(metrics.items())],
        }]}]  # fmt: skip
    return (
        f"---\n{_yaml(front)}---\n\n{_body(model, title, provenance, metrics)}{_usage(model, name or title, not name)}"
    )


def pipeline_tag(model: Pretrained) -> str:
    """Returns the hub's name of a model's task, such as "fill-mask"."""
    spec = model.model.spec
    if spec.task and "activation" in model.settings and spec.task.num_labels == 1:
        return "text-ranking"  # a cross-encoder
    if spec.task:
        return _PIPELINES[spec.task.name]
    if "pooling" in model.settings:
        return "sentence-similarity"
    if "late_interaction" in model.settings:
        return "sentence-similarity"
    if "sparse" in model.settings:
        return "feature-extraction"
    return "fill-mask" if spec.language_model else "feature-extraction"


def _body(model, title, provenance, metrics):
    spec = model.model.spec
    lines = [f"# {title}", ""]
    lines += [
        f"A model of the {model.family} family with {_count(spec.num_layers, 'layer')}, "
        f"{_count(spec.num_heads, 'head')} and {spec.hidden_size} hidden units, with a vocabulary of "
        f"{spec.vocab_size:,} tokens and texts of up to {spec.max_positions:,} tokens. "
        f"{_origin(provenance)}"
    ]
    if model.labels and spec.task and spec.task.name != "question_answering":
        lines += ["", f"Labels: {', '.join(model.labels)}."]
    if provenance.base_model and provenance.step is not None:
        lines += ["", f"Started from {provenance.base_model}."]
    if provenance.texts:
        lines += ["", "## Training text", "", "| text | fingerprint |", "|---|---|"]
        lines += [f"| {name} | `{digest}` |" for name, digest in provenance.texts]
    if metrics:
        lines += ["", "## Evaluation", "", f"Measured on {provenance.evaluated_on or 'held-out text'}.", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in sorted(metrics.items())]
    return "\n".join(lines) + "\n"


def _usage(model, name, is_folder=False):
    """Returns the card's part on loading the model, in transformers or sentence-transformers and in bert_jax.

    `is_folder` says that the name is a folder's, which is found from the folder around it alone.
    """
    task, other_code, own_code = pipeline_tag(model), "", ""
    name, text = json.dumps(name), json.dumps("A text.")
    if "late_interaction" in model.settings:
        texts = f"vectors = model.{{}}([{text}])"
        other_code = "from sentence_transformers import MultiVectorEncoder  # or: from pylate import models\n\n"
        other_code += f"model = MultiVectorEncoder({name})  # or: models.ColBERT\n{texts.format('encode_document')}"
        own_code = f"model = bert_jax.MultiVectorEmbedder.from_pretrained({name})\n{texts.format('encode_document')}"
    elif task == "sentence-similarity":
        other_code = (
            "from sentence_transformers import SentenceTransformer\n\n"
            f"vectors = SentenceTransformer({name}).encode([{text}])"
        )
        own_code = f"vectors = bert_jax.Embedder.from_pretrained({name}).encode([{text}])"
    elif "sparse" in model.settings:
        other_code = (
            f"from sentence_transformers import SparseEncoder\n\nvectors = SparseEncoder({name}).encode([{text}])"
        )
        own_code = f"vectors = bert_jax.SparseEmbedder.from_pretrained({name}).encode([{text}])"
    elif task == "text-ranking":
        arguments = f"({json.dumps('A question?')}, [{text}, {json.dumps('Another.')}])"
        other_code = f"from sentence_transformers import CrossEncoder\n\nranked = CrossEncoder({name}).rank{arguments}"
        own_code = f"ranked = bert_jax.Reranker.from_pretrained({name}).rank{arguments}"
    elif task == "question-answering":
        question, context = json.dumps("Who wrote it?"), json.dumps("Ada Lovelace wrote it.")
        other_code = _pipeline(task, name, f"question={question}, context={context}")
        own_code = f"answer = bert_jax.QuestionAnswerer.from_pretrained({name})({question}, {context})"
    elif task == "feature-extraction":
        other_code = (
            "from transformers import AutoModel, AutoTokenizer\n\n"
            f"tokenizer, model = AutoTokenizer.from_pretrained({name}), AutoModel.from_pretrained({name})\n"
            f'outputs = model(**tokenizer({text}, return_tensors="pt"))'
        )
        own_code = f"vectors = bert_jax.Embedder.from_pretrained({name}).encode([{text}])"
    else:
        classes = {"text-classification": "Classifier", "token-classification": "TokenTagger"}
        if task == "fill-mask":
            text = json.dumps(f"A {model.tokenizer.token(model.tokenizer.mask_id)} text.", ensure_ascii=False)
        other_code = _pipeline(task, name, text)
        own_code = f"answer = bert_jax.{classes.get(task, 'FillMask')}.from_pretrained({name})({text})"
    note = f"{name} stands for the path of this folder, as it is where the code runs.\n\n" if is_folder else ""
    return f"{_LOADING}{note}```python\n{other_code}\n```\n\n```python\nimport bert_jax\n\n{own_code}\n```\n"


def renamed(card: str, model: Pretrained, name: str) -> str:
    """Returns a card whose part on loading the model, if `render` wrote it, names the model by another name."""
    head = re.escape(_LOADING)
    pattern = re.escape(_usage(model, "NAME")).replace('"NAME"', '"[^"\\n]*"')
    pattern = pattern.replace(head, rf'{head}(?:"[^"\n]*" stands for the path [^\n]*\n\n)?', 1)
    return re.sub(pattern, lambda _: _usage(model, name), card)


def _pipeline(task, name, arguments):
    return f'from transformers import pipeline\n\nanswer = pipeline("{task}", model={name})({arguments})'


def _count(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _yaml(value, indent=""):
    """Returns YAML of nested dicts and lists of JSON values; a JSON scalar is a YAML scalar too."""
    text = ""
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            text += f"{indent}{key}:\n{_yaml(entry, indent + '  ')}"
        elif isinstance(entry, list):
            text += f"{indent}{key}:\n"
            for item in entry:
                if isinstance(item, Mapping):
                    lines = _yaml(item, indent + "  ")
                    text += f"{indent}- {lines.removeprefix(indent + '  ')}"
                else:
                    text += f"{indent}- {json.dumps(item, ensure_ascii=False)}\n"
        else:
            text += f"{indent}{key}: {json.dumps(entry, ensure_ascii=False)}\n"
    return text
