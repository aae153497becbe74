"""Defines output heads: masked tokens, sentence pairs, replaced tokens, and the tasks of fine-tuning."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config.finetuning_keys import LATE_POOLING, SPARSE_POOLING
from bert_jax.model.denoising import Decoder
from bert_jax.model.documents import ChunkReader, read_chunks
from bert_jax.model.dropout import dropout, dropout_seeds
from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import ACTIVATIONS, Embedding, Keys, Linear, add_bias, make_norm
from bert_jax.model.layouts import constrain
from bert_jax.model.pooling import pool, pool_sparse
from bert_jax.model.spec import Spec, Task


class LanguageModelHead(nnx.Module):
    """Predicts masked tokens: a linear map, activation, norm and decoder (BERT section 3.1).

    The decoder is the transposed word embedding, or a table of its own where it is not tied. Without a transform the
    decoder reads the hidden states directly.
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        size, read, stddev = spec.hidden_size, spec.hidden_size, spec.initializer_range
        if spec.mlm_transform:
            read = spec.embedding_size
            self.transform = Linear(
                size, read, stddev=stddev, bias=spec.head_bias, initializer=spec.initializer, rngs=rngs
            )
            self.norm = make_norm(spec, read)
        if not spec.tied_decoder:
            self.decoder = Embedding(
                spec.vocab_size, read, stddev=stddev, layout="vocabulary", initializer=spec.initializer, rngs=rngs
            )
        if spec.decoder_bias:
            self.bias = nnx.Param(jnp.zeros((spec.vocab_size,)))
        self.spec = spec

    def features(self, hidden: jax.Array) -> jax.Array:
        """Maps hidden states [batch, positions, hidden] to the decoder's input, [batch, positions, size]."""
        if not self.spec.mlm_transform:
            return hidden
        return self.norm(ACTIVATIONS[self.spec.head_activation](self.transform(hidden)))

    def logits(self, features: jax.Array, embedding: jax.Array) -> jax.Array:
        """Returns float32 logits [batch, positions, vocabulary].

        Args:
          features: [batch, positions, size], as `features` returns them.
          embedding: word embedding [vocabulary, size]; unused where the decoder is not tied.
        """
        logits = decode(features, embedding if self.spec.tied_decoder else self.decoder.embedding[...])
        return constrain(add_bias(logits, self.bias[...]) if self.spec.decoder_bias else logits, "logits")


@jax.custom_vjp
def decode(features: jax.Array, embedding: jax.Array) -> jax.Array:
    """Returns features [batch, positions, size] times embedding [vocabulary, size] transposed, in float32.

    The product and those of its gradient multiply numbers of the features' dtype. The gradient of the embedding is
    summed and kept in float32, as is what the lookup of tokens adds to it.
    """
    table = constrain(embedding.astype(features.dtype), "vocabulary")
    return jnp.einsum("bph,vh->bpv", features, table, preferred_element_type=jnp.float32)


def _decode_backward(saved, gradient):
    features, embedding = saved
    gradient = gradient.astype(features.dtype)
    table = constrain(embedding.astype(features.dtype), "vocabulary")
    if features.dtype == jnp.float32:  # the narrower operand on the left, as in layers.project
        embedding_gradient = jnp.einsum("bph,bpv->hv", features, gradient).T
    else:  # XLA on CPU has no such transposed product of bfloat16 numbers with a float32 result
        embedding_gradient = jnp.einsum("bpv,bph->vh", gradient, features, preferred_element_type=jnp.float32)
    return jnp.einsum("bpv,vh->bph", gradient, table), constrain(embedding_gradient, "vocabulary_gradient")


decode.defvjp(lambda features, embedding: (decode(features, embedding), (features, embedding)), _decode_backward)


class Pooler(nnx.Module):
    """Computes the pooled output: tanh of a linear map of the first token's hidden state (BERT section 3.2)."""

    def __init__(self, spec: Spec, *, rngs: Keys):
        self.dense = Linear(
            spec.hidden_size, spec.hidden_size, stddev=spec.initializer_range, initializer=spec.initializer, rngs=rngs
        )

    def __call__(self, first: jax.Array) -> jax.Array:
        """Maps the hidden state of each sequence's first token, [..., hidden], to the same shape."""
        return constrain(jnp.tanh(self.dense(first)), "hidden")


class ReplacedTokenHead(nnx.Module):
    """Tells whether each token was replaced: two linear maps and one logit (ELECTRA section 3.1)."""

    def __init__(self, spec: Spec, *, rngs: Keys):
        self.dense = Linear(
            spec.hidden_size, spec.hidden_size, stddev=spec.initializer_range, initializer=spec.initializer, rngs=rngs
        )
        self.output = Linear(
            spec.hidden_size, 1, stddev=spec.initializer_range, initializer=spec.initializer, rngs=rngs
        )
        self.activation = ACTIVATIONS[spec.activation]

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps hidden states [batch, sequence, hidden] to float32 logits [batch, sequence]."""
        return self.output(self.activation(self.dense(hidden)))[..., 0].astype(jnp.float32)


class MaskDecoder(nnx.Module):
    """Adds absolute position embeddings that enter masked prediction only (DeBERTa section 3.2)."""

    def __init__(self, spec: Spec, *, rngs: Keys):
        self.position = Embedding(
            spec.max_positions, spec.hidden_size, stddev=spec.initializer_range, initializer=spec.initializer, rngs=rngs
        )

    def __call__(self, batch: Mapping) -> jax.Array:
        """Returns position embeddings [1 or batch, sequence, hidden] for the model's input."""
        positions = batch.get("position_ids")
        if positions is None:
            return constrain(self.position.embedding[...], "table")[None, : batch["input_ids"].shape[1]]
        return self.position(positions)


class TaskHead(nnx.Module):
    """Computes the outputs of a fine-tuned model (BERT section 3.2).

    Sequence classification reads one vector for each text; token classification and question answering read one for
    each token.
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        task, size, stddev = spec.task, spec.hidden_size, spec.initializer_range
        assert task is not None
        is_classification = task.name == "sequence_classification"
        if task.transform or (is_classification and task.pooling == "dense"):
            self.dense = Linear(
                size, size, stddev=stddev, bias=task.transform_bias, initializer=spec.initializer, rngs=rngs
            )
        if task.transform_norm:
            self.norm = make_norm(spec, size)
        if is_classification and task.pooling == "attention":
            self.score = Linear(size, 1, stddev=stddev, initializer=spec.initializer, rngs=rngs)
        self.output = Linear(size, task.num_labels, stddev=stddev, initializer=spec.initializer, rngs=rngs)
        if task.crf:
            self.transitions = nnx.Param(jnp.zeros((task.num_labels, task.num_labels)))  # [from, to]
            self.first = nnx.Param(jnp.zeros((task.num_labels,)))
            self.last = nnx.Param(jnp.zeros((task.num_labels,)))
        self.task: Task = task

    def __call__(self, hidden, pooled, batch, dropout_key: jax.Array | None) -> jax.Array:
        """Returns float32 logits.

        Args:
          hidden: the last layer's output, [batch, sequence, hidden].
          pooled: [batch, hidden] ([batch, k, hidden] of packed rows), or None for a model without a pooler.
          batch: the model's input.
          dropout_key: a jax.random key turns dropout on; None turns it off.

        Returns:
          [batch, labels] for sequence classification ([batch, k, labels] of packed rows), else [batch, sequence,
          labels].
        """
        seeds = self._seeds(batch, dropout_key)
        if self.task.name != "sequence_classification":
            return self._output(hidden, *seeds)
        if self.task.late:
            return pool(self._output(hidden, *seeds), batch["attention_mask"], self.task.pooling, batch=batch)
        return self._output(self._read(hidden, pooled, batch, seeds[1]), *seeds)

    def of_text(self, hidden, pooled, batch, dropout_key: jax.Array | None) -> jax.Array:
        """Returns what the output layer reads of each text, [batch, hidden]; arguments as of `__call__`."""
        return self._read(hidden, pooled, batch, self._seeds(batch, dropout_key)[1])

    def output_of(self, read: jax.Array, batch: Mapping, dropout_key: jax.Array | None) -> jax.Array:
        """Maps what `of_text` returns, or the states of tokens, [..., hidden], to float32 logits [..., labels]."""
        return self._output(read, *self._seeds(batch, dropout_key))

    def _seeds(self, batch, dropout_key):
        if dropout_key is None:
            return None, None
        return dropout_seeds(dropout_key, 2, row_numbers=batch.get("row_numbers"))

    def _read(self, hidden, pooled, batch, seed):
        task, present = self.task, batch["attention_mask"]
        if task.name != "sequence_classification":
            return pool(hidden, present, "mean")
        if task.pooling == "pooler":
            return pooled
        if task.pooling == "dense":
            return jnp.tanh(self.dense(dropout(first_tokens(hidden, batch), task.dropout, seed)))
        scores = self.score(hidden)[..., 0] if task.pooling == "attention" else None
        return pool(hidden, present, task.pooling, scores, batch)

    def _output(self, read, seed, transform_seed):
        """Maps vectors [..., hidden] to float32 logits [..., labels]."""
        task = self.task
        if task.transform:
            read = self.dense(dropout(read, task.transform_dropout, transform_seed))
            read = ACTIVATIONS[task.transform_activation](read)
        if task.transform_norm:
            read = self.norm(read)
        return self.output(dropout(read, task.dropout, seed)).astype(jnp.float32)


class EmbeddingHead(nnx.Module):
    """Maps the hidden states of a text to its vector, and holds what else a loss on vectors learns.

    The temperature of the similarities (as a logarithm), and the classifier of pairs of vectors.
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        task, stddev = spec.task, spec.initializer_range
        assert task is not None
        if task.transform:
            self.dense = Linear(
                spec.hidden_size, task.num_labels, stddev=stddev, bias=task.transform_bias,
                initializer=spec.initializer, rngs=rngs,
            )  # fmt: skip
        if task.temperature:
            self.log_temperature = nnx.Param(jnp.full((), math.log(task.temperature), jnp.float32))
        if task.pair_labels:
            self.pair = Linear(
                3 * task.num_labels, task.pair_labels, stddev=stddev, initializer=spec.initializer, rngs=rngs
            )
        if task.rebuilds:
            self.decoder = Decoder(spec, rngs=rngs)
        self.task: Task = task

    def __call__(self, hidden, logits, batch, dropout_key: jax.Array | None) -> jax.Array:
        """Returns the vectors of a batch of texts, float32 [batch, size], or those of tokens [batch, sequence, size].

        Args:
          hidden: the last layer's output, [batch, sequence, hidden].
          logits: scores of the masked-language-model head, [batch, sequence, vocab], which sparse vectors are made of.
          batch: the model's input; with `skipped`, int32 [batch], so many tokens of each row are left out of pooling;
            with `scored`, int32 [batch, sequence], tokens have a vector of zeros where it is 0.
          dropout_key: not read; vectors are those of the encoder's dropout.
        """
        del dropout_key
        present = self._pooled_tokens(batch)
        if self.task.pooling in SPARSE_POOLING:
            return pool_sparse(logits, present, SPARSE_POOLING[self.task.pooling])
        is_late = self.task.pooling == LATE_POOLING
        read = hidden.astype(jnp.float32) if is_late else self.of_text(hidden, None, batch, None)
        vectors = self.output_of(read, batch, None)
        return jnp.where(batch.get("scored", present)[:, :, None] != 0, vectors, 0.0) if is_late else vectors

    def of_text(self, hidden, pooled, batch, dropout_key: jax.Array | None) -> jax.Array:
        """Returns each text's pooled states, float32 [batch, hidden]; arguments as of TaskHead.__call__."""
        del pooled, dropout_key
        return pool(hidden.astype(jnp.float32), self._pooled_tokens(batch), self.task.pooling)

    def output_of(self, read: jax.Array, batch: Mapping, dropout_key: jax.Array | None) -> jax.Array:
        """Maps pooled states, or the states of tokens, float32 [..., hidden], to vectors [..., size]."""
        del batch, dropout_key
        return ACTIVATIONS[self.task.transform_activation](self.dense(read)) if self.task.transform else read

    def _pooled_tokens(self, batch):
        present = batch["attention_mask"]
        if "skipped" not in batch:
            return present
        positions = jnp.arange(present.shape[1], dtype=jnp.int32)
        return jnp.where(positions[None] >= batch["skipped"][:, None], present, 0)


class Heads(nnx.Module):
    """Joins the encoder with the heads that its spec names: for pre-training (BERT section 3.1), for a task, or none.

    Its attributes give the parameters their names: encoder, pooler, mlm, next_sentence, sentence_order, replaced,
    mask_decoder and task.
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        self.encoder = Encoder(spec, rngs=rngs)
        if spec.pooler:
            self.pooler = Pooler(spec, rngs=rngs)
        if spec.language_model:
            self.mlm = LanguageModelHead(spec, rngs=rngs)
        if spec.next_sentence:
            self.next_sentence = Linear(
                spec.hidden_size, 2, stddev=spec.initializer_range, initializer=spec.initializer, rngs=rngs
            )
        if spec.task:
            head = EmbeddingHead if spec.task.name == "embedding" else TaskHead
            self.task = head(spec, rngs=rngs)
            if spec.task.chunk_length:
                self.chunks = ChunkReader(spec, rngs=rngs)
        if spec.sentence_order:
            self.sentence_order = Linear(
                spec.hidden_size, 2, stddev=spec.initializer_range, initializer=spec.initializer, rngs=rngs
            )
        if spec.replaced_tokens:
            self.replaced = ReplacedTokenHead(spec, rngs=rngs)
        if spec.language_model and spec.mask_decoder == "enhanced":
            self.mask_decoder = MaskDecoder(spec, rngs=rngs)
        self.spec = spec

    def __call__(
        self,
        batch: Mapping,
        dropout_key: jax.Array | None,
        hidden_states: bool,
        attention_weights: bool,
        mlm_logits: bool,
    ) -> dict[str, jax.Array]:
        """Returns the outputs for a batch of arrays [batch, sequence]; see Model.apply for them and the arguments."""
        outputs, spec = {}, self.spec
        if spec.task and spec.task.chunk_length:
            return self._of_documents(batch, dropout_key)
        return_all_layers = hidden_states or attention_weights
        absolute_positions = None
        if spec.language_model and spec.mask_decoder == "enhanced":
            absolute_positions = self.mask_decoder(batch)
        states, mask_decoder_output = self.encoder(batch, dropout_key, return_all_layers, absolute_positions)
        hidden = outputs["hidden"] = states[-1] if return_all_layers else states
        if hidden_states:
            outputs["hidden_states"] = states
        if attention_weights:
            outputs["attention_weights"] = self.encoder.attention_weights(batch, states)
        if spec.language_model:
            read = hidden if mask_decoder_output is None else mask_decoder_output
            if "masked_positions" in batch:
                positions = batch["masked_positions"][:, :, None]
                read = constrain(jnp.take_along_axis(read, positions, axis=1), "hidden")
            features = self.mlm.features(read)
            if mlm_logits:
                outputs["mlm_logits"] = self.mlm.logits(features, self.encoder.embeddings.word.embedding[...])
            else:
                outputs["mlm_features"] = features
        if spec.pooler:
            outputs["pooled"] = self.pooler(first_tokens(hidden, batch))
        for name in ("next_sentence", "sentence_order"):
            if getattr(spec, name):
                logits = constrain(getattr(self, name)(outputs["pooled"]), "hidden")
                outputs[f"{name}_logits"] = logits.astype(jnp.float32)
        if spec.replaced_tokens:
            outputs["replaced_logits"] = self.replaced(hidden)
        if spec.task:
            task_key = None if dropout_key is None else jax.random.fold_in(dropout_key, 1)
            is_embedder = spec.task.name == "embedding"
            read = outputs.get("mlm_logits" if is_embedder else "pooled")
            outputs["vectors" if is_embedder else "logits"] = self.task(hidden, read, batch, task_key)
            if is_embedder and hidden_states and spec.task.pooling not in (*SPARSE_POOLING, LATE_POOLING):
                outputs["layer_vectors"] = self._layer_vectors(states, batch)
        return outputs

    def _of_documents(self, batch, dropout_key):
        """Returns the task's outputs for texts in chunks; see Model.apply."""
        task, head, pooler = self.spec.task, self.task, self.spec.pooler
        assert task is not None
        is_of_tokens = task.name == "token_classification"
        keys = (None, None, None) if dropout_key is None else jax.random.split(dropout_key, 3)
        numbers = batch.get("row_numbers")

        def encode(chunk, key):
            hidden, _ = self.encoder(chunk, key)
            pooled = self.pooler(first_tokens(hidden, chunk)) if pooler else None
            read = head.of_text(hidden, pooled, chunk, None if key is None else jax.random.fold_in(key, 1))
            return (read, hidden) if is_of_tokens else read

        outputs, present = read_chunks(batch, task.chunk_length, keys[0], encode)
        vectors = jnp.swapaxes(outputs[0] if is_of_tokens else outputs, 0, 1)
        if is_of_tokens:
            context = self.chunks.context(vectors, present, keys[1], numbers)
            states = jnp.swapaxes(outputs[1], 0, 1) + context[:, :, None].astype(outputs[1].dtype)
            read = constrain(states.reshape(*batch["input_ids"].shape, -1), "hidden")
        else:
            read = self.chunks.pooled(vectors, present, keys[1], numbers).astype(vectors.dtype)
        name = "vectors" if task.name == "embedding" else "logits"
        return {name: head.output_of(read, batch, keys[2])}

    def rebuild(self, batch: Mapping, vectors: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Returns scores of each next token, float32 [batch, sequence, vocabulary], given vectors [batch, size]."""
        assert isinstance(self.task, EmbeddingHead)
        hidden = self.task.decoder(self.encoder, batch, vectors, dropout_key)
        return self.mlm.logits(self.mlm.features(hidden), self.encoder.embeddings.word.embedding[...])

    def _layer_vectors(self, states, batch):
        """Returns the vectors that an embedder of each layer alone, and of those below it, would give its texts."""
        if self.spec.norm_place == "pre":
            states = jnp.concatenate([self.encoder.norm(states[:-1]), states[-1:]])
        return jnp.stack([self.task(state, None, batch, None) for state in states[1:]], axis=1)


def first_tokens(hidden: jax.Array, batch: Mapping) -> jax.Array:
    """Returns hidden states of the first token of each row, [batch, hidden], or packed sequence, [batch, k, hidden].

    Args:
      hidden: [batch, sequence, hidden].
      batch: the model's input; packed rows name the first tokens in cls_positions int32 [batch, k].
    """
    if "cls_positions" not in batch:
        return constrain(hidden[:, 0], "hidden")
    return constrain(jnp.take_along_axis(hidden, batch["cls_positions"][:, :, None], axis=1), "hidden")
