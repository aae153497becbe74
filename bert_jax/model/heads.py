"""What is read from the hidden states: masked tokens, whether B follows A, and the answers of fine-tuned tasks."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import ACTIVATIONS, LayerNorm, Linear, add_bias, dropout, dropout_seeds
from bert_jax.model.layouts import constrained
from bert_jax.model.pooling import pool
from bert_jax.model.spec import Spec


class LanguageModelHead(nnx.Module):
    """Transform, norm, and the word embedding transposed as decoder, with a bias of its own."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.transform = Linear(spec.hidden_size, spec.hidden_size, stddev=spec.initializer_range, rngs=rngs)
        self.norm = LayerNorm(spec.hidden_size, epsilon=spec.norm_epsilon)
        self.bias = nnx.Param(jnp.zeros((spec.vocab_size,)))
        self.activation = spec.activation

    def features(self, hidden: jax.Array) -> jax.Array:
        """What the decoder reads, [batch, positions, hidden], of hidden states of that shape."""
        return self.norm(ACTIVATIONS[self.activation](self.transform(hidden)))

    def logits(self, features: jax.Array, embedding: jax.Array) -> jax.Array:
        """Float32 logits [batch, positions, vocabulary] of features [batch, positions, hidden]."""
        return constrained(add_bias(decode(features, embedding), self.bias[...]), "logits")


@jax.custom_vjp
def decode(features: jax.Array, embedding: jax.Array) -> jax.Array:
    """features [batch, positions, hidden] times embedding [vocabulary, hidden] transposed, in float32.

    The product is one of the features' dtype, and so are those of its gradient, but the embedding's is summed and kept
    in float32: what the lookup of tokens adds to it is too.
    """
    table = constrained(embedding.astype(features.dtype), "vocabulary")
    return jnp.einsum("bph,vh->bpv", features, table, preferred_element_type=jnp.float32)


def _decode_backward(saved, gradient):
    features, embedding = saved
    gradient = gradient.astype(features.dtype)
    table = constrained(embedding.astype(features.dtype), "vocabulary")
    if features.dtype == jnp.float32:  # the narrower one on the left, as in layers.project
        by_embedding = jnp.einsum("bph,bpv->hv", features, gradient).T
    else:  # XLA on CPU has no such product of bfloat16 numbers, transposed, to float32 ones
        by_embedding = jnp.einsum("bpv,bph->vh", gradient, features, preferred_element_type=jnp.float32)
    return jnp.einsum("bpv,vh->bph", gradient, table), constrained(by_embedding, "vocabulary_gradient")


decode.defvjp(lambda features, embedding: (decode(features, embedding), (features, embedding)), _decode_backward)


class Pooler(nnx.Module):
    """tanh of a linear map of the first token's hidden state."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.dense = Linear(spec.hidden_size, spec.hidden_size, stddev=spec.initializer_range, rngs=rngs)

    def __call__(self, first: jax.Array) -> jax.Array:
        """[..., hidden], of each sequence's first token, to the same shape."""
        return constrained(jnp.tanh(self.dense(first)), "hidden")


class TaskHead(nnx.Module):
    """The output layer of a fine-tuned model (BERT section 3.2), and what it reads.

    Sequence classification reads one vector of the text, token classification and question answering each token's.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        task, size, stddev = spec.task, spec.hidden_size, spec.initializer_range
        of_sequence = task.name == "sequence_classification"
        if of_sequence and task.pooling == "dense":
            self.dense = Linear(size, size, stddev=stddev, rngs=rngs)
        if of_sequence and task.pooling == "attention":
            self.score = Linear(size, 1, stddev=stddev, rngs=rngs)
        self.output = Linear(size, task.num_labels, stddev=stddev, rngs=rngs)
        if task.crf:
            self.transitions = nnx.Param(jnp.zeros((task.num_labels, task.num_labels)))  # [from, to]
            self.first = nnx.Param(jnp.zeros((task.num_labels,)))
            self.last = nnx.Param(jnp.zeros((task.num_labels,)))
        self.task = task

    def __call__(self, hidden, pooled, batch, dropout_key: jax.Array | None) -> jax.Array:
        """Float32 logits [batch, labels] of a sequence (packed: [batch, k, labels]), or [batch, sequence, labels].

        Args:
          hidden: [batch, sequence, hidden], of the last layer.
          pooled: [batch, hidden] (packed: [batch, k, hidden]), or None where the model has no pooler.
          batch: the model's input.
          dropout_key: turns dropout on.
        """
        rate, present = self.task.dropout, batch["attention_mask"]
        first, second = (None, None) if dropout_key is None else dropout_seeds(dropout_key, 2)
        if self.task.name != "sequence_classification":
            return self.output(dropout(hidden, rate, first)).astype(jnp.float32)
        if self.task.pooling == "pooler":
            read = pooled
        elif self.task.pooling == "dense":
            read = jnp.tanh(self.dense(dropout(first_tokens(hidden, batch), rate, second)))
        elif self.task.pooling == "attention":
            read = pool(hidden, present, "attention", self.score(hidden)[..., 0], batch)
        else:
            read = pool(hidden, present, self.task.pooling, batch=batch)
        return self.output(dropout(read, rate, first)).astype(jnp.float32)


class Heads(nnx.Module):
    """The encoder with the heads that its spec names: of pre-training (BERT section 3.1), of a task, or none."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.encoder = Encoder(spec, rngs=rngs)
        if spec.pooler:
            self.pooler = Pooler(spec, rngs=rngs)
        if spec.language_model:
            self.mlm = LanguageModelHead(spec, rngs=rngs)
        if spec.next_sentence:
            self.next_sentence = Linear(spec.hidden_size, 2, stddev=spec.initializer_range, rngs=rngs)
        if spec.task:
            self.task = TaskHead(spec, rngs=rngs)
        self.spec = spec

    def __call__(
        self, batch: dict, dropout_key: jax.Array | None, hidden_states: bool, attention_weights: bool, mlm_logits: bool
    ) -> dict[str, jax.Array]:
        outputs, spec = {}, self.spec
        every = hidden_states or attention_weights
        found = self.encoder(batch, dropout_key, every)
        hidden = outputs["hidden"] = found[-1] if every else found
        if hidden_states:
            outputs["hidden_states"] = found
        if attention_weights:
            outputs["attention_weights"] = self.encoder.attention_weights(batch, found)
        if spec.language_model:
            read = hidden
            if "masked_positions" in batch:
                read = constrained(jnp.take_along_axis(hidden, batch["masked_positions"][:, :, None], axis=1), "hidden")
            features = self.mlm.features(read)
            if mlm_logits:
                outputs["mlm_logits"] = self.mlm.logits(features, self.encoder.embeddings.word.embedding[...])
            else:
                outputs["mlm_features"] = features
        if spec.pooler:
            outputs["pooled"] = self.pooler(first_tokens(hidden, batch))
        if spec.next_sentence:
            logits = constrained(self.next_sentence(outputs["pooled"]), "hidden")
            outputs["next_sentence_logits"] = logits.astype(jnp.float32)
        if spec.task:
            task_key = None if dropout_key is None else jax.random.fold_in(dropout_key, 1)
            outputs["logits"] = self.task(hidden, outputs.get("pooled"), batch, task_key)
        return outputs


def first_tokens(hidden: jax.Array, batch: dict) -> jax.Array:
    """Hidden states of the first token of each row, [batch, hidden], or of each packed sequence, [batch, k, hidden].

    Packed rows name them in cls_positions [batch, k].
    """
    if "cls_positions" not in batch:
        return constrained(hidden[:, 0], "hidden")
    return constrained(jnp.take_along_axis(hidden, batch["cls_positions"][:, :, None], axis=1), "hidden")
