"""Writes NeoBERT's classes out in torch, which lie beside its published weights instead of in transformers.

They follow the description in Le Breton et al. 2025, section 3, and what chandar-lab/NeoBERT's model.py and rotary.py
say of details: queries, keys and values head by head in one map, neighbouring units that turn together, and an MLP of
two thirds of `intermediate_size`.
"""

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput, SequenceClassifierOutput

from experiments.parity import losses


class NeoBERTConfig(transformers.PreTrainedConfig):
    model_type = "neobert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 28
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    norm_eps: float = 1e-6
    max_length: int = 1024
    pad_token_id: int = 0
    classifier_dropout: float = 0.1
    tie_word_embeddings: bool = False


def turned(x: torch.Tensor) -> torch.Tensor:
    """Multiplies pairs of neighbouring units, as complex numbers, by rotations: [batch, sequence, heads, size]."""
    size = x.shape[-1]
    wavelengths = 10_000.0 ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] / wavelengths
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], size // 2, 2).contiguous())
    rotation = torch.polar(torch.ones_like(angles), angles)[:, None].to(pairs.dtype)
    return torch.view_as_real(pairs * rotation).flatten(-2)


class SwiGLU(nn.Module):
    """Is the gated MLP, with both of its first maps in one."""

    def __init__(self, size: int, units: int):
        super().__init__()
        self.w12 = nn.Linear(size, 2 * units, bias=False)
        self.w3 = nn.Linear(units, size, bias=False)

    def forward(self, x):
        gate, up = self.w12(x).chunk(2, -1)
        return self.w3(functional.silu(gate) * up)


class Layer(nn.Module):
    """Is a layer: attention and MLP, each after a norm."""

    def __init__(self, config: NeoBERTConfig):
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.wo = nn.Linear(size, size, bias=False)
        self.ffn = SwiGLU(size, (int(2 * config.intermediate_size / 3) + 7) // 8 * 8)
        self.attention_norm = nn.RMSNorm(size, config.norm_eps)
        self.ffn_norm = nn.RMSNorm(size, config.norm_eps)

    def forward(self, x, present):
        batch, sequence, size = x.shape
        mixed = self.qkv(self.attention_norm(x)).view(batch, sequence, self.heads, -1)
        query, key, value = mixed.chunk(3, -1)
        scores = torch.einsum("bqhd,bkhd->bhqk", turned(query), turned(key)) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~present[:, None, None], -torch.inf).softmax(-1)
        x = x + self.wo(torch.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, sequence, size))
        return x + self.ffn(self.ffn_norm(x))


class PreTrained(transformers.PreTrainedModel):
    config_class = NeoBERTConfig
    base_model_prefix = "model"


class NeoBERT(PreTrained):
    """Is the encoder."""

    def __init__(self, config: NeoBERTConfig):
        super().__init__(config)
        self.encoder = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.transformer_encoder = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.post_init()

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        states = [self.encoder(input_ids)]
        for layer in self.transformer_encoder:
            states.append(layer(states[-1], attention_mask.bool()))
        states[-1] = self.layer_norm(states[-1])
        return BaseModelOutput(states[-1], tuple(states) if output_hidden_states else None)


class NeoBERTLMHead(PreTrained):
    """Predicts masked tokens, with a decoder of its own."""

    def __init__(self, config: NeoBERTConfig):
        super().__init__(config)
        self.model = NeoBERT(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, attention_mask, labels=None, output_hidden_states=False):
        output = self.model(input_ids, attention_mask, output_hidden_states)
        logits = self.decoder(output.last_hidden_state)
        loss = None if labels is None else functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss, logits, output.hidden_states)


class NeoBERTForSequenceClassification(PreTrained):
    """Classifies sequences by their first token's state."""

    def __init__(self, config: NeoBERTConfig):
        super().__init__(config)
        self.model = NeoBERT(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask, labels=None, output_hidden_states=False):
        output = self.model(input_ids, attention_mask, output_hidden_states)
        x = torch.tanh(self.dense(self.dropout(output.last_hidden_state[:, 0])))
        logits = self.classifier(self.dropout(x))
        loss = None if labels is None else losses.classification(self.config, logits, labels)
        return SequenceClassifierOutput(loss, logits, output.hidden_states)


transformers.AutoConfig.register(NeoBERTConfig.model_type, NeoBERTConfig)
