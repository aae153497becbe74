"""Describes DeBERTa (He et al. 2021): v1 and v2; v3 has v2's format.

The published files hold arrays that transformers does not read, and which are skipped here: the absolute positions of
the enhanced mask decoder (deberta.embeddings.position_embeddings), v3's replaced-token head (mask_predictions, which
has its norm before the linear map), and the masked-language head of pre-training (lm_predictions) unless `legacy` is
false.
"""

from typing import Any

from bert_jax.errors import UserError
from bert_jax.interop.families import bert
from bert_jax.interop.families.family import (
    Family,
    Key,
    activation_name,
    has_prefix,
    modules,
    read_activation,
    read_dropout,
    unsupported,
)
from bert_jax.interop.weights import Array, Module, Table, interleaved, leaf
from bert_jax.model import Task

_TERMS = ("c2p", "p2c")


class Deberta(Family):
    """Maps v1: one linear map for queries, keys and values; keys without a bias; a table row for each distance."""

    model_type, class_prefix, rank = "deberta", "Deberta", 7
    prefix = "deberta"
    keys = bert.keys_with(
        Key("vocab_size", "vocab_size", 50265),
        Key("type_vocab_size", "type_vocab_size", 0, "count"),
        Key("norm_epsilon", "layer_norm_eps", 1e-7, "positive"),
    )
    fixed = {"key_bias": False}
    refused = {"talking_head": (None, False)}

    def more_to_model(self, config, model, path):
        hidden = model["hidden_size"]
        for name in ("embedding_size", "pooler_hidden_size"):
            if config.get(name, hidden) != hidden:
                raise unsupported(path, name, config[name], f"hidden_size {hidden}")
        absolute, relative = config.get("position_biased_input", True), config.get("relative_attention", False)
        for name, value in (("position_biased_input", absolute), ("relative_attention", relative)):
            if not isinstance(value, bool):
                raise UserError(f"{path}: {name} {value!r}; expected true or false")
        positions = [*["learned"] * absolute, *["relative"] * relative] or ["none"]
        keys = {"positions": "+".join(positions)}
        if config.get("legacy", True) is False:  # its head reads the word embedding, whatever tie_word_embeddings says
            keys["tied_decoder"] = True
        terms = self._terms(config, path)
        if not relative:
            if terms:  # they would scale the scores
                raise unsupported(path, "pos_att_type", config["pos_att_type"], "none without relative_attention")
            return keys
        span = config.get("max_relative_positions", -1)
        if not isinstance(span, int):
            raise UserError(f"{path}: max_relative_positions {span!r}; expected a number")
        if not terms:
            raise unsupported(path, "pos_att_type", config.get("pos_att_type"), "c2p, p2c or both")
        keys |= {"relative_terms": "+".join(terms), "relative_span": max(span, 0)}
        return keys | self._relative(config, path)

    def _terms(self, config, path):
        terms = config.get("pos_att_type") or []
        if isinstance(terms, str):
            terms = [term.strip() for term in terms.lower().split("|")]
        if not isinstance(terms, list) or any(term not in _TERMS for term in terms) or len(terms) > len(set(terms)):
            raise unsupported(path, "pos_att_type", config["pos_att_type"], "a list of c2p and p2c, or c2p|p2c")
        return [term for term in _TERMS if term in terms]

    def _relative(self, config, path):
        return {}

    def more_from_spec(self, spec, original):
        kinds = spec.positions.split("+")
        relative = "relative" in kinds
        config: dict[str, Any] = {"position_biased_input": "learned" in kinds, "relative_attention": relative}
        terms = spec.relative_terms.split("+") if relative else []
        original_terms = original.get("pos_att_type")
        listed = original_terms
        if isinstance(listed, str):
            listed = [term.strip() for term in listed.lower().split("|")]
        config["pos_att_type"] = original_terms if original_terms and sorted(listed) == sorted(terms) else terms
        if relative:
            short = spec.relative_span == spec.max_positions and original.get("max_relative_positions", -1) < 1
            config["max_relative_positions"] = -1 if short else spec.relative_span
        if original.get("legacy", True) is False and "tie_word_embeddings" in original:
            config["tie_word_embeddings"] = original["tie_word_embeddings"]
        return config | {"pooler_hidden_size": spec.hidden_size}

    def heads(self, names, config, named):
        own = config.get("legacy", True) is False
        heads = {"language_model"} if has_prefix(names, "lm_predictions." if own else "cls.predictions.") else set()
        if has_prefix(names, "qa_outputs."):
            return heads, "question_answering"
        if has_prefix(names, "pooler."):
            return heads, "sequence_classification"
        return heads, (named or "token_classification") if has_prefix(names, "classifier.") else ""

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "cls", dropout=0.0)
        if name == "token_classification":
            return Task(name, num_labels, "cls", read_dropout(config, ("hidden_dropout_prob",), 0.1, path))
        rate = read_dropout(config, ("cls_dropout", "hidden_dropout_prob"), 0.1, path)
        return Task(
            name,
            num_labels,
            "cls",
            rate,
            transform=True,
            transform_activation=read_activation("pooler_hidden_act", config.get("pooler_hidden_act", "gelu"), path),
            transform_dropout=read_dropout(config, ("pooler_dropout",), 0.0, path),
        )

    def from_task(self, task, spec, original):
        if task.name != "sequence_classification" or not task.transform:
            return {}
        is_implied = task.dropout == spec.hidden_dropout and original.get("cls_dropout") is None
        return ({} if is_implied else {"cls_dropout": task.dropout}) | {
            "pooler_dropout": task.transform_dropout,
            "pooler_hidden_act": activation_name(task.transform_activation, original.get("pooler_hidden_act")),
        }

    def table(self, config, task=""):
        own = config.get("legacy", True) is False  # DeBERTa's own head, not a copy of BERT's
        head = bert.decoder(config, "cls.predictions", "deberta.embeddings.word_embeddings.weight")
        if own:
            mlm = modules("mlm", "lm_predictions.lm_head", {"transform": "dense", "norm": "LayerNorm"})
            mlm += (Module("mlm", "lm_predictions.lm_head"),)
        else:
            mlm = modules("mlm", "cls.predictions.transform", {"transform": "dense", "norm": "LayerNorm"})
            mlm += head["names"]
        names = (
            *bert.embeddings("deberta"),
            *modules("encoder/layers/{layer}", "deberta.encoder.layer.{layer}", bert.LAYER_REST),
            *self._attention(config),
            leaf("encoder/relative/embedding", "deberta.encoder.rel_embeddings.weight"),
            *mlm,
            Module("task/dense", "pooler.dense"),
            *(bert.ANSWERS if task == "question_answering" else bert.CLASSIFIER),
        )
        ignored = (r"mask_predictions\..*", *(() if own else (r"lm_predictions\..*",)))
        if not config.get("position_biased_input", True):
            ignored += (r"deberta\.embeddings\.position_embeddings\.weight",)
        return Table("deberta", names, {} if own else head["tied"], {} if own else head["copies"], ignored)

    def _attention(self, config) -> tuple[Module | Array, ...]:
        ours = "encoder/layers/{layer}/attention"
        theirs = "deberta.encoder.layer.{layer}.attention.self"
        heads = config.get("num_attention_heads", 12)
        parts = [f"{ours}/{name}" for name in ("query", "key", "value")]
        return (
            interleaved(parts, f"{theirs}.in_proj.weight", heads),
            leaf(f"{ours}/query/bias", f"{theirs}.q_bias"),
            leaf(f"{ours}/value/bias", f"{theirs}.v_bias"),
            Module(f"{ours}/position_key", f"{theirs}.pos_proj"),
            Module(f"{ours}/position_query", f"{theirs}.pos_q_proj"),
        )


class DebertaV2(Deberta):
    """Maps v2 and v3: separate linear maps, log buckets, shared projections, a norm of the table, a convolution."""

    model_type, class_prefix, rank = "deberta-v2", "DebertaV2", 8
    keys = bert.keys_with(
        Key("vocab_size", "vocab_size", 128100),
        Key("hidden_size", "hidden_size", 1536),
        Key("num_layers", "num_hidden_layers", 24),
        Key("num_heads", "num_attention_heads", 24),
        Key("intermediate_size", "intermediate_size", 6144),
        Key("type_vocab_size", "type_vocab_size", 0, "count"),
        Key("norm_epsilon", "layer_norm_eps", 1e-7, "positive"),
        Key("conv_kernel_size", "conv_kernel_size", 0, "count"),
        Key("conv_groups", "conv_groups", 1),
        Key("conv_activation", "conv_act", "tanh", "activation"),
    )
    fixed = {}
    refused = {}

    def more_to_model(self, config, model, path):
        size = model["hidden_size"] // model["num_heads"]
        if config.get("attention_head_size", size) != size:
            raise unsupported(path, "attention_head_size", config["attention_head_size"], f"{size}")
        kernel = model["conv_kernel_size"]
        if kernel and kernel % 2 == 0:
            raise unsupported(path, "conv_kernel_size", kernel, "an odd one")
        return super().more_to_model(config, model, path)

    def _relative(self, config, path):
        buckets, shared = config.get("position_buckets", -1), config.get("share_att_key", False)
        if not isinstance(buckets, int):
            raise UserError(f"{path}: position_buckets {buckets!r}; expected a number")
        if not isinstance(shared, bool):
            raise UserError(f"{path}: share_att_key {shared!r}; expected true or false")
        norm = config.get("norm_rel_ebd", "none")
        kinds = {part.strip() for part in norm.lower().split("|")} if isinstance(norm, str) else {norm}
        if kinds - {"none", "layer_norm"}:
            raise unsupported(path, "norm_rel_ebd", norm, "none or layer_norm")
        return {
            "relative_buckets": max(buckets, 0),
            "relative_shared": shared,
            "relative_norm": "layer_norm" in kinds,
        }

    def more_from_spec(self, spec, original):
        config = super().more_from_spec(spec, original)
        if not config["relative_attention"]:
            return config
        return config | {
            "position_buckets": spec.relative_buckets or -1,
            "share_att_key": spec.relative_shared,
            "norm_rel_ebd": "layer_norm" if spec.relative_norm else "none",
        }

    def table(self, config, task=""):
        table = super().table(config, task)
        more = (
            Module("encoder/relative_norm", "deberta.encoder.LayerNorm"),
            leaf("encoder/layers/0/conv/kernel", "deberta.encoder.conv.conv.weight", (2, 1, 0)),
            leaf("encoder/layers/0/conv/bias", "deberta.encoder.conv.conv.bias"),
            Module("encoder/layers/0/conv/norm", "deberta.encoder.conv.LayerNorm"),
        )
        # This norm of the relative table exists in files of models without such a table.
        ignored = () if config.get("relative_attention", False) else (r"deberta\.encoder\.LayerNorm\.(weight|bias)",)
        return Table(table.prefix, table.names + more, table.tied, table.copies, table.ignored + ignored)

    def _attention(self, config) -> tuple[Module | Array, ...]:
        theirs = {"query": "query", "key": "key", "value": "value"}
        theirs |= {"position_key": "pos_key", "position_query": "pos_query"}
        return modules(
            "encoder/layers/{layer}/attention",
            "deberta.encoder.layer.{layer}.attention.self",
            {ours: f"{name}_proj" for ours, name in theirs.items()},
        )


FAMILIES = (Deberta(), DebertaV2())
