"""Describes GTE's encoder (Zhang et al. 2024, mGTE, section 2.1): BERT's layers with rotary positions and GeGLU.

Its model_type is "new", and its code no class of transformers: it lies in Alibaba-NLP/new-impl, which what is written
here names. Embeddings are the states of [CLS]. The code drops units inside the MLP as well, with hidden_dropout_prob.
"""

from bert_jax.interop.families import bert
from bert_jax.interop.families.family import Family, Key, has_prefix, modules, read_dropout, read_key
from bert_jax.interop.families.rotary import read_rotary
from bert_jax.interop.weights import Module, Table, fused
from bert_jax.model import Task

_HEADS = ("MaskedLM", "MultipleChoice", "QuestionAnswering", "SequenceClassification", "TokenClassification")
_CODE = {
    "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
    "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel",
    **{f"AutoModelFor{head}": f"Alibaba-NLP/new-impl--modeling.NewFor{head}" for head in _HEADS},
}


class New(Family):
    """Maps GTE's encoder, whose down map alone has a bias in the MLP, and whose sequence classifiers read a pooler."""

    model_type = prefix = "new"
    class_prefix = "New"
    rank = 19
    writes_bos_and_eos = False
    keys = bert.keys_with(
        Key("vocab_size", "vocab_size", 30528),
        Key("max_positions", "max_position_embeddings", 2048),
        Key("type_vocab_size", "type_vocab_size", 1, "count"),
        Key("attention_dropout", "attention_probs_dropout_prob", 0.0, "rate"),
    )
    fixed = {"positions": "rotary", "mlp": "gated", "mlp_up_bias": False}
    refused = {
        "position_embedding_type": (None, "rope"),
        "layer_norm_type": (None, "layer_norm"),
        "logn_attention_scale": (None, False),
    }
    examples = {
        "type_vocab_size": (0, 2, 1),
        "layer_norm_eps": (1e-12, 1e-5),
        "hidden_act": ("gelu", "silu", "gelu_new"),
        "rope_theta": (500000, 20.0),
        "rope_scaling": (
            {"type": "ntk", "factor": 2.0},
            None,
            {"type": "ntk", "factor": 8.0, "mixed_b": 0.75},
        ),
        "pack_qkv": (True, False),
        "tie_word_embeddings": (True, True, False),
    }

    def more_to_model(self, config, model, path):
        base = config.get("rope_theta", 10_000.0)
        rope = config.get("rope_scaling") or {}
        return read_rotary(config, model, path, "rope_scaling", rope, base, ("default", "ntk"))

    def more_from_spec(self, spec, original):
        scaling = None
        if spec.rotary_scaling != "none":
            mixed = {"mixed_b": spec.rotary_mixed} if spec.rotary_mixed != 1 else {}
            scaling = {"type": spec.rotary_scaling, "factor": spec.rotary_factor} | mixed
        return {
            "rope_theta": spec.rotary_base,
            "rope_scaling": scaling,
            "position_embedding_type": "rope",
            "layer_norm_type": "layer_norm",
            "pack_qkv": original.get("pack_qkv", True),
            "auto_map": _CODE,
        }

    def heads(self, names, config, named):
        heads = {"pooler"} if has_prefix(names, "new.pooler.") else set()
        heads |= {"language_model"} if has_prefix(names, "lm_head.") else set()
        return bert.heads_with_pooled_task(heads, names, named)

    def head(self, name, num_labels, config, path):
        if name == "question_answering":  # without dropout
            return Task(name, num_labels, "pooler", dropout=0.0)
        rate = read_dropout(config, ("classifier_dropout", "hidden_dropout_prob"), 0.1, path)
        return Task(name, num_labels, "pooler", rate)

    from_task = staticmethod(bert.classifier_dropout)

    def table(self, config, task=""):
        ours, theirs = "encoder/layers/{layer}", "new.encoder.layer.{layer}"
        layer = {"attention/output": "attention.o_proj", "attention_norm": "attn_ln", "mlp/down": "mlp.down_proj", "mlp_norm": "mlp_ln"}  # fmt: skip # noqa: E501
        parts = {f"attention/{name}": f"attention.{name[0]}_proj" for name in ("query", "key", "value")}
        packed = read_key(config, Key("", "pack_qkv", True, "switch"), "config.json")
        names = (
            *bert.embeddings("new"),
            *(fused([f"{ours}/{name}" for name in parts], f"{theirs}.attention.qkv_proj") if packed else ()),
            *modules(ours, theirs, layer if packed else layer | parts),
            *fused([f"{ours}/mlp/{name}" for name in ("up", "gate")], f"{theirs}.mlp.up_gate_proj"),
            Module("pooler/dense", "new.pooler.dense"),
            Module("mlm/transform", "lm_head.dense"),
            Module("mlm/norm", "lm_head.norm"),
            Module("mlm", "lm_head.decoder"),
            Module("mlm/decoder", "lm_head.decoder"),
            *(bert.ANSWERS if task == "question_answering" else bert.CLASSIFIER),
        )
        tied = config.get("tie_word_embeddings", True)
        return Table("new", names, {"lm_head.decoder.weight": "new.embeddings.word_embeddings.weight"} if tied else {})


FAMILIES = (New(),)
