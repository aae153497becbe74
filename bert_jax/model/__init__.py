"""BERT-family encoders as pure functions over a plain nested dict of parameters.

The modules are a library to write the model with; nothing outside this package sees one.
Imports jax, flax and numpy alone.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.heads import Heads
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
    """The model of a mapping like config.model (see spec.make_spec for the arguments and errors)."""
    heads = {"next_sentence": next_sentence, "language_model": language_model, "task": task}
    heads |= {"sentence_order": sentence_order, "replaced_tokens": replaced_tokens}
    return Model(make_spec(config, vocab_size, **heads, platform=platform))


@dataclasses.dataclass(frozen=True)
class Model:
    """The model of a spec: `init` makes parameters, `apply` uses them. Static and hashable."""

    spec: Spec

    def init(self, key: jax.Array) -> dict:
        """Fresh float32 parameters, a nested dict; layers are named "0", "1", ... under encoder/layers."""
        return _to_dict(nnx.split(Heads(self.spec, rngs=nnx.Rngs(params=key)))[1])

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
        """The model's outputs for a batch.

        Args:
          params: as `init` makes them, or with their layers stacked (`stack_layers`), which are then scanned; what the
            spec has no use for is passed over.
          batch: input_ids, attention_mask, token_type_ids int32 [batch, sequence], and masked_positions int32
            [batch, slots] where the logits of some positions alone are wanted. Packed rows add sequence_ids (1, 2, ...,
            and 0 for padding) and position_ids (from 0 in each sequence; what stands at padding is not read) [batch,
            sequence], and cls_positions [batch, k], where each sequence begins; what is of a sequence is then
            [batch, k, ...], that of rows with fewer than k sequences being of no meaning.
          dropout_key: turns dropout on.
          hidden_states: whether every layer's output is returned too.
          attention_weights: whether every head's weights are returned too. They are computed from the hidden states
            by plain XLA, beside whatever kernel the model runs with, and need memory of the sequence squared.
          mlm_logits: False for mlm_features in their place, [batch, slots, hidden] in the compute dtype, of which
            `decoder` makes them.

        Returns:
          hidden [batch, sequence, hidden] in the compute dtype; with a language-model head, mlm_logits float32
          [batch, slots, vocabulary] (every position of the sequence where there are no masked_positions); with a
          pooler, pooled [batch, hidden]; with a next-sentence or sentence-order head, next_sentence_logits or
          sentence_order_logits float32 [batch, 2]; with a replaced-token head, replaced_logits float32 [batch,
          sequence], over 0 where a token was replaced; with a task, its logits float32 [batch, labels] (of a sequence)
          or [batch, sequence, labels] (of tokens; question answering: start and end); where asked for, hidden_states
          [1 + layers, batch, sequence, hidden], the embeddings' first, and attention_weights float32 [layers, batch,
          heads, query, key], before dropout (those of a query add up to 1; those of a query that is padding are of no
          meaning).
        """
        module = self._module(params)
        return module(batch, dropout_key, hidden_states, attention_weights, mlm_logits)

    def language_model(self, params: dict, hidden: jax.Array) -> jax.Array:
        """The language-model head alone, of hidden states of any layer.

        Args:
          params: as `apply` takes them; of a model with that head.
          hidden: [batch, positions, hidden].

        Returns:
          logits float32 [batch, positions, vocabulary]; of the last layer they are the mlm_logits of `apply`.
        """
        module = self._module(params)
        return module.mlm.logits(module.mlm.features(hidden), module.encoder.embeddings.word.embedding[...])

    def decoder(self, params: dict) -> tuple[jax.Array, jax.Array]:
        """What makes logits of mlm_features: a table [vocabulary, size] and a bias [vocabulary].

        A decoder without a bias has one of zeros. The table is the word embedding, or the decoder's own; mlm_logits are
        mlm_features @ table.T + bias.
        """
        spec = self.spec
        table = params["encoder"]["embeddings"]["word"] if spec.tied_decoder else params["mlm"]["decoder"]
        return table["embedding"], params["mlm"]["bias"] if spec.decoder_bias else jnp.zeros((spec.vocab_size,))

    def _module(self, params):
        names = tuple(params["encoder"]["layers"])
        graph, state = _abstract(self.spec, names if STACKED in names else ())
        return nnx.merge(graph, _from_dict(state, params))


def parameter_count(params) -> int:
    """Numbers in a tree of parameters; the tied decoder is in it once."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.cache
def _abstract(spec, stack):
    def make():
        module = Heads(spec, rngs=nnx.Rngs(params=0))
        if stack:
            module.encoder.stack(stack)
        return module

    return nnx.split(nnx.eval_shape(make))


def _to_dict(state):
    return _string_keys(nnx.to_pure_dict(state))


def _string_keys(tree):
    return {str(k): _string_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _from_dict(state, params):
    """`state` with the parameters' values; the dicts must have the same leaves."""
    flat = {}
    for path, variable in nnx.to_flat_state(state):
        value = params
        for name in path:
            value = value[str(name)]
        flat[path] = variable.replace(value)
    return nnx.from_flat_state(flat)
