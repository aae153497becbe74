"""What a model is: sizes and switches, fixed while a program runs."""

import dataclasses
import math
from collections.abc import Mapping

import jax

from bert_jax.config import architecture as combinations
from bert_jax.config.kernels import resolve_kernel
from bert_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """What a fine-tuned head predicts.

    Attributes:
      name: "sequence_classification", "token_classification" or "question_answering".
      num_labels: outputs of a sequence or of a token; 2 for question answering (start and end).
      pooling: what a sequence's classifier reads: "pooler" (the tanh layer of pre-training, BERT), "dense" (a tanh
        layer of its own, RoBERTa), or, straight from the last layer, "cls", "mean", "max" or "attention" (learned
        weights over the tokens).
      dropout: of the classifier's input.
      crf: token classification alone: transitions between labels are learned too (a linear-chain CRF).
      transform: whether a linear map and an activation stand between what is pooled and the classifier.
      transform_activation, transform_bias, transform_norm, transform_dropout: of that map: its activation, whether it
        has a bias, whether a norm follows, and the dropout of its input.
      late: whether every token is classified, and the logits pooled (EuroBERT).
    """

    name: str
    num_labels: int
    pooling: str = "pooler"
    dropout: float = 0.1
    crf: bool = False
    transform: bool = False
    transform_activation: str = "tanh"
    transform_bias: bool = True
    transform_norm: bool = False
    transform_dropout: float = 0.0
    late: bool = False


@dataclasses.dataclass(frozen=True)
class Spec:
    """The fields of config.model, with the vocabulary, the dtype and the platform known; hashable.

    Attributes:
      vocab_size: rows of the word embedding, and logits of the language-model head.
      max_positions: tokens that a row can hold; the position table has `position_offset` more rows.
      position_offset: the first token's row of that table (RoBERTa: 2); where it is not 0, the id before it is the
        padding's, which is not counted.
      activation: of MLPs: a key of layers.ACTIVATIONS ("gelu" is exact, by erf).
      attention: "bidirectional" or "causal".
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
      scan_layers: one compiled layer run in a loop, or each layer written out.
      attention_kernel: "xla", "splash" or "flash" (TPU), "cudnn" (GPU), or "auto", which attention.choose_kernel
        resolves call by call.
      remat: what a layer keeps for the backward pass, see stack.REMAT.
      platform: where the model runs, see kernel_choice.LIMITS.
      pooler, next_sentence: whether the model has the pooled [CLS] and the head that reads it.
      language_model: whether it has the head that predicts masked tokens.
      sentence_order: whether it has the head that tells swapped segments (ALBERT, Lan et al. 2019, section 3.1).
      replaced_tokens: whether it has the head that tells replaced tokens (ELECTRA, Clark et al. 2020, section 3.1).
      task: the head of a fine-tuned model, or None.
      embedding_size, embedding_projection: of the tables of words, positions and token types, and whether a linear
        map follows them, as it must where that is not hidden_size (ALBERT, section 3.1, factorized embeddings).
      type_vocab_size: 0 for no token types (DistilBERT, Sanh et al. 2019, section 3).
      positions: what tells places apart: "learned" (a table), "rotary" (Su et al. 2021, section 3.2), "relative"
        (scores of distances: DeBERTa, He et al. 2021, section 3.1), "learned+rotary", "learned+relative" or "none".
      rotary_base, local_rotary_base: of layers that see all tokens, and of those that see a window (ModernBERT,
        Warner et al. 2024, section 2.1).
      relative_span, relative_buckets, relative_terms, relative_shared, relative_norm: the largest distance told apart;
        buckets of their logarithms; "c2p" (content to position), "p2c" or "c2p+p2c"; whether distances use the
        content's projections; whether their table is normed (all DeBERTa; buckets, shared and norm as of its v2).
      local_window, global_every: layers see a window of so many tokens, but for every n-th from the first on
        (Beltagy et al. 2020, section 3; ModernBERT, section 2.1); 0: all layers see all tokens.
      num_kv_heads: heads of keys and values (grouped queries: Ainslie et al. 2023, section 2.2).
      mlp: "dense" or "gated" (Shazeer 2020: GeGLU with gelu, SwiGLU with silu).
      norm, norm_place: "layer_norm" or "rms_norm" (Zhang & Sennrich 2019), "post" or "pre" (Xiong et al. 2020): after
        each residual, or before attention and MLP and once at the end.
      embedding_norm, first_norm: whether there is a norm behind the embeddings, and one before the first layer's
        attention, which ModernBERT (section 2.1) leaves out behind the first.
      norm_bias, attention_bias, key_bias, mlp_bias, head_bias, decoder_bias: which maps and norms have one.
      layer_groups, group_layers: how many groups of layers have parameters of their own, 0 for each layer its own, and
        how many layers are in each (ALBERT, section 3.1, cross-layer sharing).
      conv_kernel_size, conv_groups, conv_activation: of a convolution beside the first layer (DeBERTa v2); 0: none.
      scaled_initializer: projections that layers give out begin smaller by sqrt(2 num_layers) (Radford et al. 2019).
      mlm_transform, head_activation, tied_decoder: whether a linear map, activation and norm stand before the decoder,
        and whether the decoder is the word embedding.
      mask_decoder: "enhanced": absolute positions enter in masked prediction alone (DeBERTa, section 3.2).
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: str
    max_positions: int
    position_offset: int
    type_vocab_size: int
    norm_epsilon: float
    hidden_dropout: float
    attention_dropout: float
    initializer_range: float
    pooler: bool
    next_sentence: bool
    attention: str
    dtype: str
    scan_layers: bool
    attention_kernel: str = "auto"
    remat: str = "none"
    platform: str = "cpu"
    language_model: bool = True
    sentence_order: bool = False
    replaced_tokens: bool = False
    task: Task | None = None
    embedding_size: int = 0
    embedding_projection: bool = False
    positions: str = "learned"
    rotary_base: float = 10_000.0
    local_rotary_base: float = 0.0
    relative_span: int = 0
    relative_buckets: int = 0
    relative_terms: str = "c2p+p2c"
    relative_shared: bool = False
    relative_norm: bool = False
    local_window: int = 0
    global_every: int = 3
    num_kv_heads: int = 0
    head_size: int = 0
    mlp: str = "dense"
    norm: str = "layer_norm"
    norm_place: str = "post"
    embedding_norm: bool = True
    first_norm: bool = True
    norm_bias: bool = True
    attention_bias: bool = True
    key_bias: bool = True
    mlp_bias: bool = True
    layer_groups: int = 0
    group_layers: int = 1
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_activation: str = "tanh"
    scaled_initializer: bool = False
    mlm_transform: bool = True
    head_activation: str = ""
    head_bias: bool = True
    decoder_bias: bool = True
    tied_decoder: bool = True
    mask_decoder: str = "plain"

    def __post_init__(self):
        """Fills in what follows from other fields."""
        filled = {
            "embedding_size": self.hidden_size,
            "num_kv_heads": self.num_heads,
            "head_size": self.hidden_size // self.num_heads,
            "local_rotary_base": self.rotary_base,
            "relative_span": self.max_positions,
            "head_activation": self.activation,
        }
        for name, value in filled.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if self.embedding_size != self.hidden_size:
            object.__setattr__(self, "embedding_projection", True)

    @property
    def has_learned_positions(self) -> bool:
        return "learned" in self.positions.split("+")

    @property
    def has_rotary_positions(self) -> bool:
        return "rotary" in self.positions.split("+")

    @property
    def has_relative_positions(self) -> bool:
        return "relative" in self.positions.split("+")

    @property
    def relative_score_terms(self) -> int:
        """Of which attention scores are the sum, with relative positions."""
        return 1 + len(self.relative_terms.split("+"))

    @property
    def output_stddev(self) -> float:
        """Of the projections that layers give out, at the beginning."""
        depth = 2 * self.num_layers if self.scaled_initializer else 1
        return self.initializer_range / math.sqrt(depth)


def make_spec(
    config: Mapping,
    vocab_size: int,
    *,
    next_sentence: bool,
    language_model: bool = True,
    task: Task | None = None,
    platform: str | None = None,
    sentence_order: bool = False,
    replaced_tokens: bool = False,
) -> Spec:
    """The spec of a mapping like config.model.

    Args:
      config: the keys of config.model; its vocab_size must be 0 or equal to `vocab_size`.
      vocab_size: the corpus's.
      next_sentence: whether there is a next-sentence head (config.objective.next_sentence).
      language_model: whether there is a head that predicts masked tokens.
      task: the head of a fine-tuned model.
      sentence_order, replaced_tokens: whether there are the heads that tell swapped segments, and replaced tokens.
      platform: where the model will run, as kernel_choice.LIMITS names it; None: this process's.

    Raises:
      UserError: two vocabulary sizes, a head that reads the pooler without a pooler, switches that do not go together
        (combinations.py), or an attention kernel that cannot do what the config asks, or not here.
    """
    fields = {key: config[key] for key in config}
    if fields["vocab_size"] not in (0, vocab_size):
        raise UserError(f"config.model.vocab_size: found {fields['vocab_size']}, but the corpus has {vocab_size}")
    if next_sentence and not fields["pooler"]:
        raise UserError("config.model.pooler: False, but the next-sentence head reads the pooled [CLS]")
    if task and task.name == "sequence_classification" and task.pooling == "pooler" and not fields["pooler"]:
        raise UserError("config.model.pooler: False, but the classifier reads the pooled [CLS]; expected True")
    if sentence_order and not fields["pooler"]:
        raise UserError("config.model.pooler: False, but the sentence-order head reads the pooled [CLS]")
    fields["vocab_size"] = vocab_size
    fields |= {"next_sentence": next_sentence, "language_model": language_model, "task": task}
    fields |= {"sentence_order": sentence_order, "replaced_tokens": replaced_tokens}
    fields["platform"] = platform = platform or device_platform()
    if fields["dtype"] == "auto":
        fields["dtype"] = "float32" if platform == "cpu" else "bfloat16"
    defaults = {f.name: f.default for f in dataclasses.fields(Spec) if f.default is not dataclasses.MISSING}
    combinations.check(defaults | fields)
    spec = Spec(**fields)
    resolve_kernel(
        spec.attention_kernel,
        platform=platform,
        dtype=spec.dtype,
        head_size=spec.head_size,
        dropout=spec.attention_dropout,
    )
    return spec


def device_platform() -> str:
    """The platform of this process as kernel_choice.LIMITS names it: "tpu", "cuda", or what else jax calls it."""
    platform, device = jax.default_backend(), jax.devices()[0]
    if platform == "tpu" and any(name in device.device_kind for name in ("v2", "v3")):
        return "old tpu"
    if platform == "gpu" and "cuda" in device.client.platform_version and float(device.compute_capability) >= 8.0:
        return "cuda"
    return platform
