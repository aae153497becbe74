"""What is read from the hidden states: masked tokens, whether B follows A, and the answers of fine-tuned tasks."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import ACTIVATIONS, Embedding, Linear, add_bias, dropout, dropout_seeds, make_norm
from bert_jax.model.layouts import constrained
from bert_jax.model.pooling import pool
from bert_jax.model.spec import Spec


class LanguageModelHead(nnx.Module):
    """Transform, norm, and the word embedding transposed as decoder, with a bias of its own (BERT section 3.1).

    Without a transform the decoder reads the hidden states; untied, it is a table of its own.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, read, stddev = spec.hidden_size, spec.hidden_size, spec.initializer_range
        if spec.mlm_transform:
            read = spec.embedding_size
            self.transform = Linear(size, read, stddev=stddev, bias=spec.head_bias, rngs=rngs)
            self.norm = make_norm(spec, read)
        if not spec.tied_decoder:
            self.decoder = Embedding(spec.vocab_size, read, stddev=stddev, place="vocabulary", rngs=rngs)
        if spec.decoder_bias:
            self.bias = nnx.Param(jnp.zeros((spec.vocab_size,)))
        self.spec = spec

    def features(self, hidden: jax.Array) -> jax.Array:
        """What the decoder reads, [batch, positions, size], of hidden states [batch, positions, hidden]."""
        if not self.spec.mlm_transform:
            return hidden
        return self.norm(ACTIVATIONS[self.spec.head_activation](self.transform(hidden)))

    def logits(self, features: jax.Array, embedding: jax.Array) -> jax.Array:
        """Float32 logits [batch, positions, vocabulary].

        Args:
          features: as `features` gives them.
          embedding: the word embedding [vocabulary, size], which a decoder of its own does not read.
        """
        logits = decode(features, embedding if self.spec.tied_decoder else self.decoder.embedding[...])
        return constrained(add_bias(logits, self.bias[...]) if self.spec.decoder_bias else logits, "logits")


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


class ReplacedTokenHead(nnx.Module):
    """Whether each token is another than the text's: two linear maps, one logit (ELECTRA section 3.1)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.dense = Linear(spec.hidden_size, spec.hidden_size, stddev=spec.initializer_range, rngs=rngs)
        self.output = Linear(spec.hidden_size, 1, stddev=spec.initializer_range, rngs=rngs)
        self.activation = ACTIVATIONS[spec.activation]

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Float32 logits [batch, sequence] of hidden states [batch, sequence, hidden]."""
        return self.output(self.activation(self.dense(hidden)))[..., 0].astype(jnp.float32)


class MaskDecoder(nnx.Module):
    """The absolute positions that enter in masked prediction alone (DeBERTa section 3.2)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.position = Embedding(spec.max_positions, spec.hidden_size, stddev=spec.initializer_range, rngs=rngs)

    def __call__(self, batch: dict) -> jax.Array:
        """[batch or 1, sequence, hidden]."""
        places = batch.get("position_ids")
        if places is None:
            return constrained(self.position.embedding[...], "table")[None, : batch["input_ids"].shape[1]]
        return self.position(places)


class TaskHead(nnx.Module):
    """The output layer of a fine-tuned model (BERT section 3.2), and what it reads.

    Sequence classification reads one vector of the text, token classification and question answering each token's.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        task, size, stddev = spec.task, spec.hidden_size, spec.initializer_range
        of_sequence = task.name == "sequence_classification"
        if task.transform or (of_sequence and task.pooling == "dense"):
            self.dense = Linear(size, size, stddev=stddev, bias=task.transform_bias, rngs=rngs)
        if task.transform_norm:
            self.norm = make_norm(spec, size)
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
        task, present = self.task, batch["attention_mask"]
        seeds = (None, None) if dropout_key is None else dropout_seeds(dropout_key, 2)
        if task.name != "sequence_classification":
            return self._output(hidden, *seeds)
        if task.pooling == "pooler":
            read = pooled
        elif task.pooling == "dense":
            read = dropout(first_tokens(hidden, batch), task.dropout, seeds[1])
            read = jnp.tanh(self.dense(read))
        elif task.pooling == "attention":
            read = pool(hidden, present, "attention", self.score(hidden)[..., 0], batch)
        elif task.late:
            return pool(self._output(hidden, *seeds), present, task.pooling, batch=batch)
        else:
            read = pool(hidden, present, task.pooling, batch=batch)
        return self._output(read, *seeds)

    def _output(self, read, seed, transform_seed):
        """Float32 logits of vectors, [..., labels]."""
        task = self.task
        if task.transform:
            read = self.dense(dropout(read, task.transform_dropout, transform_seed))
            read = ACTIVATIONS[task.transform_activation](read)
        if task.transform_norm:
            read = self.norm(read)
        return self.output(dropout(read, task.dropout, seed)).astype(jnp.float32)


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
        if spec.sentence_order:
            self.sentence_order = Linear(spec.hidden_size, 2, stddev=spec.initializer_range, rngs=rngs)
        if spec.replaced_tokens:
            self.replaced = ReplacedTokenHead(spec, rngs=rngs)
        if spec.language_model and spec.mask_decoder == "enhanced":
            self.mask_decoder = MaskDecoder(spec, rngs=rngs)
        self.spec = spec

    def __call__(
        self, batch: dict, dropout_key: jax.Array | None, hidden_states: bool, attention_weights: bool, mlm_logits: bool
    ) -> dict[str, jax.Array]:
        outputs, spec = {}, self.spec
        every = hidden_states or attention_weights
        absolute = None
        if spec.language_model and spec.mask_decoder == "enhanced":
            absolute = self.mask_decoder(batch)
        found, again = self.encoder(batch, dropout_key, every, absolute)
        hidden = outputs["hidden"] = found[-1] if every else found
        if hidden_states:
            outputs["hidden_states"] = found
        if attention_weights:
            outputs["attention_weights"] = self.encoder.attention_weights(batch, found)
        if spec.language_model:
            read = hidden if again is None else again
            if "masked_positions" in batch:
                read = constrained(jnp.take_along_axis(read, batch["masked_positions"][:, :, None], axis=1), "hidden")
            features = self.mlm.features(read)
            if mlm_logits:
                outputs["mlm_logits"] = self.mlm.logits(features, self.encoder.embeddings.word.embedding[...])
            else:
                outputs["mlm_features"] = features
        if spec.pooler:
            outputs["pooled"] = self.pooler(first_tokens(hidden, batch))
        for name in ("next_sentence", "sentence_order"):
            if getattr(spec, name):
                logits = constrained(getattr(self, name)(outputs["pooled"]), "hidden")
                outputs[f"{name}_logits"] = logits.astype(jnp.float32)
        if spec.replaced_tokens:
            outputs["replaced_logits"] = self.replaced(hidden)
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
