"""Describes Longformer (Beltagy et al. 2020): RoBERTa with windows, and global tokens with maps of their own."""

from bert_jax.errors import UserError
from bert_jax.interop.families import bert, roberta
from bert_jax.interop.families.family import read_dropout
from bert_jax.model import Task

_WINDOW = 512  # where config.json names none
_MAPS = {f"attention/global_{name}": f"attention.self.{name}_global" for name in ("query", "key", "value")}


class Longformer(roberta.Roberta):
    """Maps Longformer, whose classes choose the global tokens of classifiers and of questions by themselves."""

    prefix = "longformer"
    refused = {}
    fixed = {"head_activation": "gelu", "global_tokens": "auto", "global_projections": True}
    examples = {
        "attention_window": (4, [4, 8, 4, 16]),
        "layer_norm_eps": (1e-12, 1e-5),
        "hidden_act": ("gelu", "gelu_new", "relu"),
        "tie_word_embeddings": (True, True, False),
    }

    def __init__(self):
        super().__init__("longformer", "Longformer", 30522, 18)

    def more_to_model(self, config, model, path):
        windows, layers = config.get("attention_window", _WINDOW), model["num_layers"]
        given = windows if isinstance(windows, list) else [windows]
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 and n % 2 == 0 for n in given):
            raise UserError(f"{path}: attention_window {windows!r}; expected positive even numbers of tokens")
        if isinstance(windows, list) and len(windows) != layers:
            raise UserError(f"{path}: attention_window has {len(windows)} numbers; expected {layers}, one for a layer")
        period = next(n for n in range(1, layers + 1) if all(given[i % n] == x for i, x in enumerate(given)))
        return super().more_to_model(config, model, path) | {"layer_windows": tuple(given[:period])}

    def more_from_spec(self, spec, original):
        windows: list[int] | int = list(spec.windows)
        if isinstance(original.get("attention_window"), int) and len(set(spec.windows)) == 1:
            windows = spec.windows[0]
        return super().more_from_spec(spec, original) | {"attention_window": windows}

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "dense", dropout=0.0)
        return Task(name, num_labels, "dense", read_dropout(config, ("hidden_dropout_prob",), 0.1, path))

    @staticmethod
    def from_task(task, spec, original):
        return {}

    def encoder_names(self):
        return (*bert.embeddings(self.prefix), *bert.layers(self.prefix, **_MAPS))


FAMILIES = (Longformer(),)
