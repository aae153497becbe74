"""Makes random models of transformers with odd sizes and switches, for every family and head."""

import json
import pathlib

import numpy as np

from bert_jax.interop.families import FAMILIES
from bert_jax.interop.families.family import TASKS
from bert_jax.interop.families.roberta import Roberta

_HEADS = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")
# (model_type, head, problem of sequence classification), in an order that never changes: a case's number is its seed.
# A family without _SWITCHES draws from its own `examples`, or where it has none from BERT's settings.
_LISTED = (
    *(("bert", head, "") for head in (*_HEADS, "ForPreTraining", "ForNextSentencePrediction")),
    *(("roberta", head, "") for head in _HEADS),
    *((family, "ForSequenceClassification", problem)
      for family in ("bert", "roberta") for problem in ("single_label", "multi_label", "regression")),
    ("xlm-roberta", "ForMaskedLM", ""),
    ("camembert", "ForTokenClassification", ""),
    *((family, head, "") for family in ("distilbert", "albert", "electra", "deberta", "deberta-v2", "modernbert")
      for head in _HEADS),
    *(("eurobert", head, "") for head in _HEADS[:3]),
    ("albert", "ForPreTraining", ""),
    ("electra", "ForPreTraining", ""),
    ("deberta-v2", "ForMaskedLM", ""),
    ("deberta-v2", "Model", ""),
    *((family, "ForSequenceClassification", problem) for family, problem in (
        ("distilbert", "single_label"), ("albert", "multi_label"), ("electra", "regression"),
        ("deberta", "single_label"), ("deberta-v2", "multi_label"), ("modernbert", "regression"),
        ("modernbert", "single_label"), ("eurobert", "single_label"), ("eurobert", "multi_label"))),
)  # fmt: skip


def _cases_of(family):
    """Returns a case for each class of a family that _LISTED leaves out."""
    heads = [(family.model_type, head, "") for head in family.classes]
    heads += [(family.model_type, head, "") for head, task in TASKS.items()
              if task in family.tasks and task != "sequence_classification"]  # fmt: skip
    problems = ("single_label", "multi_label", "regression") if "sequence_classification" in family.tasks else ()
    return (*heads, *((family.model_type, "ForSequenceClassification", problem) for problem in problems))


CASES = (
    *_LISTED,
    *(case for name, family in FAMILIES.items() if name not in {case[0] for case in _LISTED}
      for case in _cases_of(family)),
)  # fmt: skip


def make_random(directory: pathlib.Path, seed: int, model_type: str, head: str, problem: str = "") -> str:
    """Saves a random model of transformers, of odd sizes drawn by the seed, with a small vocabulary.

    Returns:
      A description: the class, the sizes and the switches.
    """
    import torch
    import transformers

    random = np.random.default_rng(seed)
    heads = int(random.choice([1, 2, 3, 5, 7]))
    family = FAMILIES[model_type]
    rotary = "rotary" in (
        family.fixed.get("positions"),
        *family.examples.get("position_embedding_type", ()),
    )  # turns pairs
    widths = [4, 6, 8, 10, 16] if rotary else [3, 5, 8, 11, 16, 21]
    if FAMILIES[model_type].fixed.get("query_key_norm") == "layer":  # over a few units, it divides by next to nothing
        widths = widths[3:]
    sizes = {
        "num_attention_heads": heads,
        "hidden_size": heads * int(random.choice(widths)),
        "intermediate_size": int(random.integers(9, 130)),
        "num_hidden_layers": int(random.integers(1, 6)),
        "vocab_size": int(random.integers(40, 700)),
        "max_position_embeddings": int(random.integers(14, 80)),
    }
    fairseq = isinstance(FAMILIES[model_type], Roberta)
    fixed = {"pad_token_id": int(fairseq)}
    fixed["num_labels"] = {"regression": 1, "": 2}.get(problem, int(random.integers(2, 7)))
    if model_type in _SWITCHES:
        fixed |= _SWITCHES[model_type](random, sizes)
    elif FAMILIES[model_type].examples:
        drawn = {
            key: values[int(random.integers(len(values)))] for key, values in FAMILIES[model_type].examples.items()
        }
        fixed |= drawn
    else:
        fixed |= {
            "type_vocab_size": 1 if fairseq else int(random.choice([1, 2, 3])),
            "layer_norm_eps": float(random.choice([1e-12, 1e-5])),
            "hidden_act": str(random.choice(["gelu", "gelu_new", "relu"])),
            "tie_word_embeddings": _flag(random, 0.7),
        }
    problem_type = f"{problem}_classification" if problem.endswith("label") else problem or None
    prefix = FAMILIES[model_type].class_prefix
    kind = torch_class(prefix + head)
    config = transformers.AutoConfig.for_model(model_type, **named(model_type, sizes), **fixed,
                                               problem_type=problem_type)  # fmt: skip
    torch.manual_seed(seed)
    model = kind(config)
    scale = str(random.choice(["initial", "trained", "large"]))
    if scale != "initial":
        rescale(torch, model, {"trained": 0.05, "large": 0.1}[scale])
    model.save_pretrained(directory)
    tiny_vocabulary(directory, fairseq)
    shape = " ".join(f"{value}" for value in sizes.values())
    shown = _SHOWN | set(FAMILIES[model_type].examples)
    switches = ", ".join(f"{key}={value}" for key, value in fixed.items() if key in shown)
    suffix = f", {switches}" if switches else ""
    return f"{prefix}{head}{f' ({problem})' if problem else ''}, {shape}, {scale} weights{suffix}"


def torch_class(name: str):
    """Returns a class of transformers, or one that is written out here because it lies beside published weights."""
    import transformers

    from experiments.parity import neobert, new

    written = {"NeoBERT": neobert, "New": new}
    module = next((module for prefix, module in written.items() if name.startswith(prefix)), transformers)
    return getattr(module, name)


_SHOWN = {
    "embedding_size", "num_hidden_groups", "inner_group_num", "position_buckets", "pos_att_type", "share_att_key",
    "norm_rel_ebd", "conv_kernel_size", "legacy", "max_relative_positions", "position_biased_input",
    "local_attention", "attention_window", "layer_types", "classifier_pooling", "num_key_value_heads", "head_dim",
    "tie_word_embeddings",
}  # fmt: skip


def _flag(random, share=0.5):
    return bool(random.random() < share)


def _albert(random, sizes):
    groups = int(random.integers(1, sizes["num_hidden_layers"] + 1))
    return {
        "embedding_size": sizes["hidden_size"] + int(random.integers(1, 9)) * (1 if _flag(random) else 2),
        "num_hidden_groups": groups,
        "inner_group_num": int(random.integers(1, 3)),
        "hidden_act": str(random.choice(["gelu", "gelu_new"])),
        "type_vocab_size": 2,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "tie_word_embeddings": _flag(random, 0.7),
    }


def _electra(random, sizes):
    return {
        "embedding_size": sizes["hidden_size"] if _flag(random, 0.3) else int(random.integers(3, 40)),
        "hidden_act": str(random.choice(["gelu", "relu"])),
        "type_vocab_size": 2,
    }


def _deberta(random, sizes):
    terms = [["c2p", "p2c"], ["c2p"], ["p2c"]][int(random.integers(0, 3))]
    return {
        "relative_attention": True,
        "pos_att_type": "|".join(terms) if _flag(random) else terms,
        "position_biased_input": _flag(random),
        "max_relative_positions": int(random.choice([-1, 9, 90])),
        "type_vocab_size": int(random.choice([0, 2])),
        "layer_norm_eps": 1e-7,
        "legacy": _flag(random),
    }


def _deberta_v2(random, sizes):
    convolution = {"conv_kernel_size": 3, "conv_act": str(random.choice(["tanh", "gelu"]))} if _flag(random) else {}
    return _deberta(random, sizes) | convolution | {
        "share_att_key": _flag(random),
        "position_buckets": int(random.choice([-1, 4, 8])),
        "norm_rel_ebd": str(random.choice(["none", "layer_norm"])),
    }  # fmt: skip


def _modernbert(random, sizes):
    every = int(random.integers(1, 4))
    old = {"global_attn_every_n_layers": every}
    kinds = ["sliding_attention" if i % every else "full_attention" for i in range(sizes["num_hidden_layers"])]
    return (old if _flag(random) else {"layer_types": kinds}) | {
        "local_attention": int(random.choice([2, 6, 10, 64])),
        "norm_bias": _flag(random),
        "attention_bias": _flag(random),
        "mlp_bias": _flag(random),
        "classifier_bias": _flag(random),
        "decoder_bias": _flag(random, 0.7),
        "classifier_pooling": str(random.choice(["cls", "mean"])),
        "classifier_activation": str(random.choice(["gelu", "silu"])),
        "tie_word_embeddings": _flag(random, 0.7),
        "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
    }  # fmt: skip


def _longformer(random, sizes):
    windows = [int(window) for window in random.choice([4, 8, 16, 64], sizes["num_hidden_layers"])]  # divisors
    return {
        "attention_window": windows if _flag(random) else windows[0],
        "hidden_act": str(random.choice(["gelu", "gelu_new", "relu"])),
        "type_vocab_size": int(random.choice([1, 2])),
        "tie_word_embeddings": _flag(random, 0.7),
    }


def _eurobert(random, sizes):
    heads = sizes["num_attention_heads"]
    return {
        "num_key_value_heads": int(random.choice([n for n in range(1, heads + 1) if heads % n == 0])),
        "head_dim": int(random.choice([4, 8])) if _flag(random, 0.3) else sizes["hidden_size"] // heads,
        "attention_bias": _flag(random),
        "mlp_bias": _flag(random),
        "tie_word_embeddings": _flag(random),
        "classifier_pooling": str(random.choice(["bos", "mean", "late"])),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(random.choice([1e4, 2.5e5]))},
        "bos_token_id": 2,
        "eos_token_id": 3,
        "mask_token_id": 4,
    }


_SWITCHES = {
    "distilbert": lambda random, sizes: {"activation": str(random.choice(["gelu", "relu"]))},
    "albert": _albert,
    "electra": _electra,
    "deberta": _deberta,
    "deberta-v2": _deberta_v2,
    "modernbert": _modernbert,
    "eurobert": _eurobert,
    "longformer": _longformer,
}


def named(model_type: str, sizes: dict) -> dict:
    """Returns sizes by a family's names for them."""
    names = {alias: key.theirs for key in FAMILIES[model_type].keys for alias in key.aliases}
    names |= {"intermediate_size": "hidden_dim"} if model_type == "distilbert" else {}
    return {names.get(name, name): value for name, value in sizes.items()}


def rescale(torch, model, scale: float) -> None:
    """Sets weights as training leaves them: biases and norms not as they begin, and a few large directions."""
    norms = norm_weights(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # a table that is computed
                continue
            noise = torch.randn(parameter.shape)
            norm = name in norms
            parameter.copy_(parameter + 2 * scale * noise if norm else scale * noise)
            if norm:
                parameter[:: max(1, len(parameter) // 2)] *= 4


def norm_weights(model) -> set[str]:
    """Returns the names of a torch model's norm weights, found by class because some modules are called "ln"."""
    return {f"{name}.weight" for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}


def tiny_vocabulary(directory: pathlib.Path, fairseq: bool) -> None:
    """Writes a tokenizer of a few tokens: WordPiece, or one with RoBERTa's special tokens."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if fairseq else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if not fairseq:
        (directory / "vocab.txt").write_text("\n".join([*tokens, *"abcdefgh"]) + "\n")
        (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
        return
    model = {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(tokens)}, "unk_token": "<unk>"}
    state = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
             "post_processor": None, "decoder": None, "model": model}  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(state))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
