"""Computes BERT-family encoders as pure functions over a plain nested dict of parameters.

Flax modules are used inside this package alone. It depends on jax, flax and numpy.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.heads import Heads
from bert_jax.model.layers import Keys
from bert_jax.model.spec import Spec, Task, make_spec
from bert_jax.model.stack import STACKED, stack_layers, unstack_layers

__all__ = ["Model", "Spec", "Task", "build", "parameter_count", "stack_layers", "unstack_layers"]


def build(
    config: Mapping,
    vocab_size: int,
    *,
    next_sentence: bool = True,
    language_model: bool = True,
    task: Task | None = None,
    platform: str | None = None,
    sentence_order: bool = False,
    replaced_tokens: bool = False,
) -> "Model":
    """Builds the model that a mapping like config.model describes; arguments and errors as of spec.make_spec."""
    spec = make_spec(
        config,
        vocab_size,
        next_sentence=next_sentence,
        language_model=language_model,
        task=task,
        platform=platform,
        sentence_order=sentence_order,
        replaced_tokens=replaced_tokens,
    )
    return Model(spec)


@dataclasses.dataclass(frozen=True)
class Model:
    """Is the model of a spec, static and hashable: `init` makes parameters, and `apply` computes outputs from them."""

    spec: Spec

    def init(self, key: jax.Array) -> dict:
        """Draws float32 parameters, a nested dict; layers are named "0", "1", ... under encoder/layers.

        Kernels are [inputs, outputs], embeddings [rows, size], scales and biases [size].

        Args:
          key: a jax.random key.
        """
        return _to_dict(nnx.split(Heads(self.spec, rngs=Keys(key)))[1])

    def shapes(self) -> dict:
        """Returns the shapes and types of `init`'s parameters, a nested dict of jax.ShapeDtypeStruct."""
        return _to_dict(_abstract(self.spec, ())[1])

    def apply(
        self,
        params: dict,
        batch: Mapping,
        *,
        dropout_key: jax.Array | None = None,
        hidden_states: bool = False,
        attention_weights: bool = False,
        mlm_logits: bool = True,
    ) -> dict[str, jax.Array]:
        """Returns the model's outputs for a batch.

        Args:
          params: parameters as `init` makes them, or with stacked layers (`stack_layers`), which are then run in a
            loop. Entries that the spec has no use for are ignored.
          batch: input_ids, attention_mask and token_type_ids, int32 [batch, sequence]. With masked_positions, int32
            [batch, slots], masked-language logits are computed for these positions only. Packed rows add sequence_ids
            (1, 2, ..., and 0 at padding) and position_ids (from 0 in each sequence; unused at padding), int32 [batch,
            sequence], and cls_positions int32 [batch, k], where each sequence begins. Outputs for each sequence are
            then [batch, k, ...]; unused entries of rows with fewer than k sequences are undefined. global_positions,
            int32 [batch, k], name the tokens that see all others and are seen by all in a model with global tokens, -1
            for none; without them its task does (Spec.first_is_global). row_numbers, int32 [batch], say which
            row of a larger batch each row is, so that parts of a batch drop what the whole would.
            With a task that reads texts in chunks a row holds the chunks of a text one behind the other, each padded to
            task.chunk_length, or one chunk of any length; only the task's output is then returned.
          dropout_key: a jax.random key turns dropout on; None turns it off.
          hidden_states: whether every layer's output is returned.
          attention_weights: whether every head's attention weights are returned. They are computed from the hidden
            states by plain XLA, whatever kernel the model runs with, in memory quadratic in the sequence.
          mlm_logits: False returns mlm_features instead, from which `decoder` makes the logits.

        Returns:
          A dict with these entries, the first always and the others as the spec and the arguments ask for:
            hidden: [batch, sequence, hidden] in the compute dtype, the last layer's output.
            pooled: [batch, hidden], with a pooler.
            mlm_logits: float32 [batch, slots or sequence, vocabulary], with a language-model head.
            mlm_features: [batch, slots or sequence, size] in the compute dtype, instead of mlm_logits.
            next_sentence_logits, sentence_order_logits: float32 [batch, 2], with such heads.
            replaced_logits: float32 [batch, sequence], positive for tokens judged to be replaced.
            logits: a task's, float32 [batch, labels], or [batch, sequence, labels] for tasks on tokens, among which
              question answering has the labels start and end.
            vectors: an embedder's, float32 [batch, size], as pooled, before they are scaled to length 1.
            layer_vectors: float32 [batch, layers, size], with `hidden_states`: an embedder's vectors if each layer were
              its last, for all but sparse ones.
            hidden_states: [1 + layers, batch, sequence, hidden], the embeddings first.
            attention_weights: float32 [layers, batch, heads, query, key], before dropout. Each query's weights sum to
              1; those of a query at padding are undefined.
        """
        module = self._module(params)
        return module(batch, dropout_key, hidden_states, attention_weights, mlm_logits)

    def language_model(self, params: dict, hidden: jax.Array) -> jax.Array:
        """Applies the language-model head to hidden states of any layer.

        Args:
          params: parameters of a model with that head, as `apply` takes them.
          hidden: [batch, positions, hidden].

        Returns:
          Float32 logits [batch, positions, vocabulary]; for the last layer's output these are `apply`'s mlm_logits.
        """
        module = self._module(params)
        return module.mlm.logits(module.mlm.features(hidden), module.encoder.embeddings.word.embedding[...])

    def rebuild(
        self, params: dict, batch: Mapping, vectors: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Returns scores of each text's next tokens, float32 logits [batch, sequence, vocabulary] (TSDAE).

        Args:
          params: parameters of an embedder that rebuilds texts, with a language-model head, as `apply` takes them.
          batch: the texts, as `apply` takes them; at each place the tokens up to it are read, and the vector.
          vectors: [batch, size].
          dropout_key: a jax.random key turns dropout on; None turns it off.
        """
        return self._module(params).rebuild(batch, vectors, dropout_key)

    def decoder(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """Returns the decoder's table [vocabulary, size] and bias [vocabulary], which is zero for a decoder without.

        The table is the word embedding, or the decoder's own where it is not tied; mlm_logits are
        mlm_features @ table.T + bias.
        """
        spec = self.spec
        table = params["encoder"]["embeddings"]["word"] if spec.tied_decoder else params["mlm"]["decoder"]
        return table["embedding"], params["mlm"]["bias"] if spec.decoder_bias else jnp.zeros((spec.vocab_size,))

    def _module(self, params):
        names = tuple(params["encoder"]["layers"])
        graph, state = _abstract(self.spec, names if STACKED in names else ())
        return nnx.merge(graph, _from_dict(state, params))


def parameter_count(params: Any) -> int:
    """Counts the numbers in a tree of parameters; a tied decoder is counted once, as the embedding."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.cache
def _abstract(spec, stack):
    def make():
        module = Heads(spec, rngs=Keys(jax.random.key(0)))
        if stack:
            module.encoder.stack(stack)
        return module

    return nnx.split(nnx.eval_shape(make))


def _to_dict(state):
    return _string_keys(nnx.to_pure_dict(state))


def _string_keys(tree):
    return {str(k): _string_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _from_dict(state, params):
    """Returns `state` with the parameters' values; the dicts must have the same leaves."""
    flat = {}
    for path, variable in nnx.to_flat_state(state):
        value = params
        for name in path:
            value = value[str(name)]
        flat[path] = variable.replace(value)
    return nnx.from_flat_state(flat)
