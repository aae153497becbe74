"""Writes the classes of GTE's encoder out in torch, which lie in Alibaba-NLP/new-impl instead of in transformers.

They follow Zhang et al. 2024 (mGTE), section 2.1, and what that repository's modeling.py and configuration.py say of
details: maps of queries, keys and values in one or in three, the MLP's two first maps in one, whose first half is not
the gate, a bias on its last map alone, and rotary positions that are stretched as in kexue.fm/archives/9706.
"""

import math

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from experiments.parity import losses


class NewConfig(transformers.PreTrainedConfig):
    model_type = "new"

    vocab_size: int = 30528
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 2048
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12
    rope_theta: float = 10_000.0
    rope_scaling: dict | None = None
    pack_qkv: bool = True
    classifier_dropout: float | None = None
    pad_token_id: int = 0
    tie_word_embeddings: bool = True


def frequencies(config: NewConfig) -> torch.Tensor:
    """Returns the angle of each pair of units from one token to the next, stretched by a factor or not."""
    size, base, scaling = config.hidden_size // config.num_attention_heads, config.rope_theta, config.rope_scaling
    places = torch.arange(0, size, 2).float() / size
    if not scaling:
        return 1 / base**places
    factor, exponent = scaling["factor"], scaling.get("mixed_b")
    if exponent is None:
        return 1 / (base * factor) ** places / factor ** (2 / size)
    growth = math.log(factor) / (size / 2) ** exponent
    return 1 / base**places / torch.exp(growth * torch.arange(1, size // 2 + 1) ** exponent)


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turns units i and i + size / 2 of [batch, sequence, heads, size] by angles [sequence, size / 2]."""
    first, second = x.chunk(2, -1)
    cosine, sine = (part[:, None].to(x.dtype) for part in (angles.cos(), angles.sin()))
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Attention(nn.Module):
    def __init__(self, config: NewConfig):
        super().__init__()
        size, self.heads = config.hidden_size, config.num_attention_heads
        if config.pack_qkv:
            self.qkv_proj = nn.Linear(size, 3 * size)
        else:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size) for _ in range(3))
        self.o_proj = nn.Linear(size, size)

    def forward(self, x, present, angles):
        packed = hasattr(self, "qkv_proj")
        maps = self.qkv_proj(x).chunk(3, -1) if packed else (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in maps)
        scores = torch.einsum("bqhd,bkhd->bhqk", turned(query, angles), turned(key, angles))
        scores = scores.masked_fill(~present[:, None, None], -torch.inf) / query.shape[-1] ** 0.5
        return self.o_proj(torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(2))


class GatedMLP(nn.Module):
    def __init__(self, config: NewConfig):
        super().__init__()
        self.up_gate_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x):
        up, gate = self.up_gate_proj(x).chunk(2, -1)
        return self.down_proj(up * self.activation(gate))


class Layer(nn.Module):
    """Is a layer: attention and MLP, each with a norm behind the residual sum."""

    def __init__(self, config: NewConfig):
        super().__init__()
        self.attention, self.mlp = Attention(config), GatedMLP(config)
        self.attn_ln, self.mlp_ln = (nn.LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2))

    def forward(self, x, present, angles):
        x = self.attn_ln(x + self.attention(x, present, angles))
        return self.mlp_ln(x + self.mlp(x))


class Embeddings(nn.Module):
    def __init__(self, config: NewConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, input_ids, token_type_ids):
        x = self.word_embeddings(input_ids)
        types = getattr(self, "token_type_embeddings", None)
        return self.LayerNorm(x if types is None else x + types(token_type_ids))


class Pooler(nn.Module):
    def __init__(self, config: NewConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states):
        return torch.tanh(self.dense(states[:, 0]))


class PreTrained(transformers.PreTrainedModel):
    config_class = NewConfig
    base_model_prefix = "new"


class NewModel(PreTrained):
    """Is the encoder."""

    def __init__(self, config: NewConfig, add_pooling_layer: bool = False):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def forward(self, input_ids, attention_mask, token_type_ids=None, output_hidden_states=False):
        states = [self.embeddings(input_ids, token_type_ids)]
        angles = torch.arange(input_ids.shape[1]).float()[:, None] * frequencies(self.config)
        for layer in self.encoder.layer:
            states.append(layer(states[-1], attention_mask.bool(), angles))
        pooled = None if self.pooler is None else self.pooler(states[-1])
        return BaseModelOutputWithPooling(states[-1], pooled, tuple(states) if output_hidden_states else None)


class Head(nn.Module):
    def __init__(self, config: NewConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states):
        return self.decoder(self.norm(self.activation(self.dense(states))))


class NewForMaskedLM(PreTrained):
    _tied_weights_keys = {"lm_head.decoder.weight": "new.embeddings.word_embeddings.weight"}

    def __init__(self, config: NewConfig):
        super().__init__(config)
        self.new, self.lm_head = NewModel(config), Head(config)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head.decoder

    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None, output_hidden_states=False):
        output = self.new(input_ids, attention_mask, token_type_ids, output_hidden_states)
        logits = self.lm_head(output.last_hidden_state)
        loss = None if labels is None else functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss, logits, output.hidden_states)


class Classifier(PreTrained):
    """Maps the pooled state, or every token's, to logits."""

    pools = False

    def __init__(self, config: NewConfig):
        super().__init__(config)
        self.new = NewModel(config, add_pooling_layer=self.pools)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class NewForSequenceClassification(Classifier):
    pools = True

    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None, output_hidden_states=False):
        output = self.new(input_ids, attention_mask, token_type_ids, output_hidden_states)
        logits = self.classifier(output.pooler_output)
        loss = None if labels is None else losses.classification(self.config, logits, labels)
        return SequenceClassifierOutput(loss, logits, output.hidden_states)


class NewForTokenClassification(Classifier):
    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None, output_hidden_states=False):
        output = self.new(input_ids, attention_mask, token_type_ids, output_hidden_states)
        logits = self.classifier(output.last_hidden_state)
        loss = None if labels is None else functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss, logits, output.hidden_states)


class NewForQuestionAnswering(PreTrained):
    def __init__(self, config: NewConfig):
        super().__init__(config)
        self.new, self.qa_outputs = NewModel(config), nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids,
        attention_mask,
        token_type_ids=None,
        start_positions=None,
        end_positions=None,
        output_hidden_states=False,
    ):
        output = self.new(input_ids, attention_mask, token_type_ids, output_hidden_states)
        start, end = self.qa_outputs(output.last_hidden_state).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end, hidden_states=output.hidden_states)


transformers.AutoConfig.register(NewConfig.model_type, NewConfig)
