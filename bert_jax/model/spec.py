"""Describes a model: its sizes and switches, fixed while a program runs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from bert_jax.config import architecture, keys
from bert_jax.config.kernels import resolve_kernel
from bert_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """Describes the head of a fine-tuned model.

    Attributes:
      name: "sequence_classification", "token_classification", "question_answering" or "embedding".
      num_labels: number of outputs of a sequence or of a token; 2 for question answering (start and end); the size of
        the vectors of an embedder, which is the vocabulary's where they are sparse.
      pooling: what a sequence's classifier reads: "pooler" (the tanh layer of pre-training, BERT), "dense" (a tanh
        layer of its own, RoBERTa), or, straight from the last layer, "cls", "mean", "max" or "attention" (learned
        weights over the tokens).
      dropout: dropout rate of the classifier's input.
      crf: whether token classification also learns transitions between labels (a linear-chain CRF).
      transform: whether a linear map and an activation stand between the pooled state and the classifier.
      transform_activation, transform_bias, transform_norm, transform_dropout: activation of that map, whether it has a
        bias, whether a norm follows, and the dropout rate of its input.
      late: whether every token is classified and the logits are pooled (EuroBERT).
      temperature: the temperature at which an embedder starts to learn its own; 0 where it learns none.
      pair_labels: number of classes of pairs of vectors that an embedder learns from (Reimers & Gurevych 2019, section
        3); 0 where it learns from something else.
      rebuilds: whether an embedder learns to rebuild a text from its vector (see model.denoising).
      chunk_length: tokens of the chunks that texts are read in; 0 where a text is one row (see model.documents).
      chunk_pooling: how the chunks of a text are combined: "transformer", "attention" or "mean".
      chunk_layers: number of layers that "transformer" has.
      max_chunks: the most chunks of a text.
    """

    name: str
    num_labels: int
    pooling: str = "pooler"
    dropout: float = 0.1  # BERT, appendix A.3
    crf: bool = False
    transform: bool = False
    transform_activation: str = "tanh"
    transform_bias: bool = True
    transform_norm: bool = False
    transform_dropout: float = 0.0
    late: bool = False
    temperature: float = 0.0
    pair_labels: int = 0
    rebuilds: bool = False
    chunk_length: int = 0
    chunk_pooling: str = "transformer"
    chunk_layers: int = 0
    max_chunks: int = 0


def _default(key: str) -> Any:
    """Returns the default of a key of config.model."""
    return keys.MODEL[key].default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Holds the fields of config.model with the vocabulary, the dtype, the platform and the heads known; hashable.

    A field that is a key of config.model has the key's default; bert_jax.config.keys says what it means and where it
    was published. A 0 or "" that stands for another key's value is replaced by that value.

    Attributes:
      dtype: dtype of the computation, "float32" or "bfloat16".
      platform: platform that the model runs on, as config.kernels.LIMITS names it.
      next_sentence: whether the model has the head that classifies whether segment B follows A (reads the pooler).
      sentence_order: whether it has the head that classifies swapped segments (ALBERT, Lan et al. 2019, section 3.1).
      language_model: whether it has the head that predicts masked tokens.
      replaced_tokens: whether it has the head that detects replaced tokens (ELECTRA, Clark et al. 2020, section 3.1).
      task: the head of a fine-tuned model, or None.
    """

    vocab_size: int = _default("vocab_size")
    hidden_size: int = _default("hidden_size")
    num_layers: int = _default("num_layers")
    num_heads: int = _default("num_heads")
    intermediate_size: int = _default("intermediate_size")
    activation: str = _default("activation")
    max_positions: int = _default("max_positions")
    position_offset: int = _default("position_offset")
    type_vocab_size: int = _default("type_vocab_size")
    norm_epsilon: float = _default("norm_epsilon")
    hidden_dropout: float = _default("hidden_dropout")
    attention_dropout: float = _default("attention_dropout")
    attention_output_dropout: float = _default("attention_output_dropout")
    initializer: str = _default("initializer")
    initializer_range: float = _default("initializer_range")
    pooler: bool = _default("pooler")
    attention: str = _default("attention")
    dtype: str = _default("dtype")
    scan_layers: bool = _default("scan_layers")
    attention_kernel: str = _default("attention_kernel")
    remat: str = _default("remat")
    embedding_size: int = _default("embedding_size")
    embedding_projection: bool = _default("embedding_projection")
    token_dropout: bool = _default("token_dropout")
    mask_id: int = _default("mask_id")
    positions: str = _default("positions")
    rotary_base: float = _default("rotary_base")
    rotary_half: bool = _default("rotary_half")
    local_rotary_base: float = _default("local_rotary_base")
    rotary_scaling: str = _default("rotary_scaling")
    rotary_factor: float = _default("rotary_factor")
    rotary_trained: int = _default("rotary_trained")
    rotary_mixed: float = _default("rotary_mixed")
    rotary_slow_turns: float = _default("rotary_slow_turns")
    rotary_fast_turns: float = _default("rotary_fast_turns")
    rotary_attention_factor: float = _default("rotary_attention_factor")
    local_rotary_scaling: bool = _default("local_rotary_scaling")
    bias_buckets: int = _default("bias_buckets")
    bias_distance: int = _default("bias_distance")
    relative_span: int = _default("relative_span")
    relative_buckets: int = _default("relative_buckets")
    relative_terms: str = _default("relative_terms")
    relative_shared: bool = _default("relative_shared")
    relative_norm: bool = _default("relative_norm")
    local_window: int = _default("local_window")
    global_every: int = _default("global_every")
    global_offset: int = _default("global_offset")
    layer_windows: tuple = _default("layer_windows")
    global_tokens: str = _default("global_tokens")
    global_projections: bool = _default("global_projections")
    num_kv_heads: int = _default("num_kv_heads")
    head_size: int = _default("head_size")
    score_size: int = _default("score_size")
    query_key_norm: str = _default("query_key_norm")
    query_key_norm_over: str = _default("query_key_norm_over")
    mlp: str = _default("mlp")
    norm: str = _default("norm")
    norm_place: str = _default("norm_place")
    output_norm: bool = _default("output_norm")
    zero_centered_scale: bool = _default("zero_centered_scale")
    embedding_norm: bool = _default("embedding_norm")
    embedding_scale: bool = _default("embedding_scale")
    first_norm: bool = _default("first_norm")
    norm_bias: bool = _default("norm_bias")
    final_norm_bias: bool = _default("final_norm_bias")
    residual_scale: float = _default("residual_scale")
    attention_bias: bool = _default("attention_bias")
    key_bias: bool = _default("key_bias")
    mlp_bias: bool = _default("mlp_bias")
    mlp_up_bias: bool = _default("mlp_up_bias")
    layer_groups: int = _default("layer_groups")
    group_layers: int = _default("group_layers")
    conv_kernel_size: int = _default("conv_kernel_size")
    conv_groups: int = _default("conv_groups")
    conv_activation: str = _default("conv_activation")
    scaled_initializer: bool = _default("scaled_initializer")
    mlm_transform: bool = _default("mlm_transform")
    head_activation: str = _default("head_activation")
    head_bias: bool = _default("head_bias")
    decoder_bias: bool = _default("decoder_bias")
    tied_decoder: bool = _default("tied_decoder")
    mask_decoder: str = _default("mask_decoder")
    platform: str = "cpu"
    next_sentence: bool = False
    sentence_order: bool = False
    language_model: bool = True
    replaced_tokens: bool = False
    task: Task | None = None

    def __post_init__(self):
        """Fills in what follows from other fields."""
        if not self.head_size:
            object.__setattr__(self, "head_size", self.hidden_size // self.num_heads)
        object.__setattr__(self, "layer_windows", tuple(self.layer_windows))  # a file has a list
        for name, key in keys.MODEL.items():
            if key.falls_back_to and not getattr(self, name):
                object.__setattr__(self, name, getattr(self, key.falls_back_to.removeprefix("model.")))
        if not self.rotary_fast_turns:
            object.__setattr__(self, "rotary_fast_turns", keys.FAST_TURNS.get(self.rotary_scaling, 0.0))
        if not self.rotary_attention_factor:
            object.__setattr__(self, "rotary_attention_factor", 0.1 * math.log(self.rotary_factor) + 1)
        if self.embedding_size != self.hidden_size:
            object.__setattr__(self, "embedding_projection", True)

    @property
    def has_learned_positions(self) -> bool:
        """Returns whether the embeddings have a table of positions."""
        return "learned" in self.positions.split("+")

    @property
    def has_rotary_positions(self) -> bool:
        """Returns whether attention rotates queries and keys."""
        return "rotary" in self.positions.split("+")

    @property
    def has_relative_positions(self) -> bool:
        """Returns whether attention has a table of relative distances."""
        return "relative" in self.positions.split("+")

    @property
    def has_position_bias(self) -> bool:
        """Returns whether scores have a bias for each head and bucket of distances."""
        return "bias" in self.positions.split("+")

    @property
    def windows(self) -> tuple[int, ...]:
        """Returns for each layer the number of tokens that a token sees, half of them on each side; 0 for all."""
        if self.layer_windows:
            return tuple(self.layer_windows[i % len(self.layer_windows)] for i in range(self.num_layers))
        local = self.local_window  # 0 where global_every may be too
        first, every = self.global_offset, self.global_every
        return tuple(local if local and (i - first) % every else 0 for i in range(self.num_layers))

    @property
    def has_windows(self) -> bool:
        """Returns whether a layer has a window."""
        return any(self.windows)

    @property
    def first_is_global(self) -> bool:
        """Returns whether the first token of each text is a global one, where a batch does not say which are."""
        reads_first = self.task is not None and self.task.name in ("sequence_classification", "embedding")
        return self.global_tokens == "first" or (self.global_tokens == "auto" and reads_first)

    @property
    def relative_score_terms(self) -> int:
        """Returns the number of terms in an attention score with relative positions."""
        return 1 + len(self.relative_terms.split("+"))

    @property
    def output_stddev(self) -> float:
        """Returns the initial standard deviation of the projections that layers add to the residual."""
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
    """Returns the spec of a mapping like config.model.

    Args:
      config: keys of config.model; its vocab_size must be 0 or equal to `vocab_size`.
      vocab_size: number of tokens of the corpus's vocabulary.
      next_sentence: whether there is a next-sentence head (config.objective.next_sentence).
      language_model: whether there is a head that predicts masked tokens.
      task: the head of a fine-tuned model.
      sentence_order, replaced_tokens: whether there are heads that classify swapped segments, and replaced tokens.
      platform: platform that the model will run on, as config.kernels.LIMITS names it; None for this process's.

    Raises:
      UserError: Two vocabulary sizes, a head that reads the pooler without a pooler, switches that do not go together
        (config/architecture.py), or an attention kernel that cannot do what the config asks, or not here.
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
    architecture.check(defaults | fields)
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
    """Returns the platform of this process as config.kernels.LIMITS names it: "tpu", "cuda", or jax's own name."""
    platform, device = jax.default_backend(), jax.devices()[0]
    if platform == "tpu" and any(name in device.device_kind for name in ("v2", "v3")):
        return "old tpu"
    if platform == "gpu" and "cuda" in device.client.platform_version and float(device.compute_capability) >= 8.0:
        return "cuda"
    return platform
