"""Replaced-token detection: a small model fills in masked tokens, and the model tells which tokens it put there.

Clark et al. 2020 (ELECTRA), section 3. The parameters of a run are those of the model, the discriminator, and under
"generator" what the generator has of its own. What both read is there once:

    tied                    the generator reads the model's embeddings: tables and norm, not the projection (section
                            3.2)
    gradient_disentangled   the generator has embeddings of its own, and the model's word table is theirs, which its
                            loss does not change, plus a difference that is zero at first (He et al. 2021, DeBERTaV3,
                            section 3.2)
    none                    nothing is shared
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax import model as model_lib
from bert_jax.config.objective import GENERATOR_SIZES
from bert_jax.errors import UserError
from bert_jax.model import Model
from bert_jax.model.dropout import hash_bits
from bert_jax.objectives.language_modeling import LanguageModeling, activation_squares, cross_entropy

_OF_GENERATOR = "generator"
_SAMPLES = 0x73616D70  # folded into a step's key: no number of a microbatch
_FIXED_SEED = (0x243F6A88, 0x85A308D3)  # of samples where no step is known, as in evaluation


class ReplacedTokens(LanguageModeling):
    """The generator's mean loss on masked tokens, plus the weighted mean loss of telling every token's origin.

    The tasks are "mlm", the generator's, and "rtd": every token that is no padding, special ones too, as in the
    published code (google-research/electra, run_pretraining.py). A masked token that the generator guessed right counts
    as original. Samples are a function of the step's key, of the row's masked tokens and of the position alone, so that
    neither shards nor microbatches change them.

    Args:
      model: the discriminator.
      generator: a model with a language-model head.
      sharing: config.objective.embedding_sharing.
      weight: of the discriminator's loss.
    """

    def __init__(self, model: Model, generator: Model, sharing: str, weight: float):
        super().__init__(model, {"name": "mlm"})
        self.generator = generator
        self.sharing = sharing
        self.weights = {"mlm": 1.0, "rtd": weight}

    @property
    def specs(self):
        return self.model.spec, self.generator.spec

    def init(self, key):
        of_model, of_generator = jax.random.split(key)
        params = self.model.init(of_model)
        if self.sharing == "gradient_disentangled":
            params = _with_word(params, jnp.zeros_like(_word(params)))
        return params | {_OF_GENERATOR: self._own(self.generator.init(of_generator))}

    def started(self, params, key, generator=None):
        own = self.init(key)[_OF_GENERATOR] if generator is None else self._own(generator)
        if self.sharing == "gradient_disentangled":
            params = _with_word(params, _word(params) - _word(own))
        return params | {_OF_GENERATOR: own}

    def counts(self, batch):
        return super().counts(batch) | {"rtd_count": _told_apart(batch).sum()}

    def sums(self, params, batch, dropout_key=None, *, step_key=None, teacher=None, activations=False):
        del teacher
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        guesses = self.generator.apply(generator(params, self.sharing), batch, dropout_key=keys[0])["mlm_logits"]
        found = cross_entropy("mlm", guesses, batch["masked_labels"], batch["masked_weights"])
        inputs, replaced = filled_in(batch, samples(guesses, batch, _seed(step_key)))
        outputs = self.model.apply(
            discriminator(params, self.sharing), inputs, dropout_key=keys[1], hidden_states=activations
        )
        logits = outputs["replaced_logits"]
        weights = _told_apart(batch)
        found["rtd_loss"] = (jax.nn.softplus(jnp.where(replaced, -logits, logits)) * weights).sum()
        found["rtd_correct"] = (((logits > 0) == replaced).astype(jnp.float32) * weights).sum()
        if activations:
            found["activation_squares"] = activation_squares(outputs["hidden_states"], batch)
        return found

    def _own(self, params):
        """What a generator's parameters hold that the model's do not."""
        if self.sharing != "tied":
            return params
        embeddings = params["encoder"]["embeddings"]
        return _with_embeddings(params, {name: part for name, part in embeddings.items() if name == "projection"})


def generator_model(config, vocab_size: int, platform: str | None = None) -> Model:
    """The generator of a config: config.model with the sizes of config.generator.

    Args:
      config: reads model, generator, objective.embedding_sharing.
      vocab_size: the corpus's.
      platform: as of model.build.

    Raises:
      UserError: the sizes do not go with the switches of config.model.
    """
    fields = config.model.to_dict()
    sizes = {key: config.generator[key] or fields[key] for key in GENERATOR_SIZES}
    shared = config.objective.embedding_sharing != "none"
    if fields["num_kv_heads"]:
        sizes["num_kv_heads"] = sizes["num_heads"] * fields["num_kv_heads"] // fields["num_heads"]
    sizes["embedding_size"] = (fields["embedding_size"] or fields["hidden_size"]) if shared else 0
    try:
        return model_lib.build(fields | sizes | {"pooler": False}, vocab_size, next_sentence=False, platform=platform)
    except UserError as error:
        found = ", ".join(f"{key}={sizes[key]}" for key in GENERATOR_SIZES)
        raise UserError(f"config.generator: a generator with {found} cannot be made: {error}") from error


def discriminator(params: Mapping, sharing: str) -> dict:
    """The discriminator's parameters as a model of its own has them, of those of a run (runs.checkpoints.load_params).

    Args:
      params: of the run.
      sharing: config.objective.embedding_sharing.
    """
    own = {name: part for name, part in params.items() if name != _OF_GENERATOR}
    if sharing != "gradient_disentangled":
        return own
    return _with_word(own, jax.lax.stop_gradient(_word(params[_OF_GENERATOR])) + _word(own))


def generator(params: Mapping, sharing: str) -> dict:
    """The generator's parameters as a model of its own has them; arguments as of `discriminator`."""
    own = params[_OF_GENERATOR]
    if sharing != "tied":
        return own
    shared = {name: part for name, part in params["encoder"]["embeddings"].items() if name != "projection"}
    return _with_embeddings(own, own["encoder"]["embeddings"] | shared)


def samples(logits: jax.Array, batch: Mapping, seed: jax.Array) -> jax.Array:
    """A token for each slot, drawn from the softmax of its logits; int32 [batch, slots].

    The largest of logits plus Gumbel noise, which is a hash of the seed, of the row's masked tokens, of the slot's
    position and of the token: no gradient passes.

    Args:
      logits: float32 [batch, slots, vocabulary].
      batch: input_ids, attention_mask [batch, sequence], masked_positions [batch, slots].
      seed: uint32 [2].
    """
    place = batch["masked_positions"].astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    of_slot = [hash_bits(place + row[:, None], seed[i]) for i, row in enumerate(_row_hash(batch))]
    token = jax.lax.broadcasted_iota(jnp.uint32, logits.shape, 2) * jnp.uint32(0x27D4EB2F)
    bits = hash_bits(token + of_slot[0][:, :, None], of_slot[1][:, :, None])
    # Half a step off both ends; the small numbers, which make the large noise, are told apart to the last bit.
    uniform = bits.astype(jnp.float32) * 2.0**-32 + 2.0**-33
    noise = -jnp.log(-jnp.log1p(-uniform))
    return jnp.argmax(jax.lax.stop_gradient(logits) + noise, axis=-1).astype(jnp.int32)


def filled_in(batch: Mapping, tokens: jax.Array) -> tuple[dict, jax.Array]:
    """The batch with tokens in its masked slots, and which of its tokens are not the original ones.

    Args:
      batch: as the loader makes it.
      tokens: int32 [batch, slots].

    Returns:
      (the batch without masked_* arrays, bool [batch, sequence]).
    """
    ids = batch["input_ids"]
    place = jax.lax.broadcasted_iota(jnp.int32, (*tokens.shape, ids.shape[1]), 2)
    here = (batch["masked_positions"][:, :, None] == place) & (batch["masked_weights"] > 0)[:, :, None]

    def put(values):  # no scatter: rows lie on different devices
        found = jnp.where(here, values[:, :, None], -1).max(1)
        return jnp.where(found < 0, ids, found)

    filled, original = put(tokens), put(batch["masked_labels"])
    rest = {name: array for name, array in batch.items() if not name.startswith("masked_")}
    return rest | {"input_ids": filled}, filled != original


def _told_apart(batch):
    """1.0 for each token whose origin is to be told; rows without a masked token fill up a held-out batch."""
    rows = (batch["masked_weights"] > 0).any(1)
    return ((batch["attention_mask"] != 0) & rows[:, None]).astype(jnp.float32)


def _seed(step_key):
    if step_key is None:
        return jnp.array(_FIXED_SEED, jnp.uint32)
    return jax.random.bits(jax.random.fold_in(step_key, _SAMPLES), (2,), jnp.uint32)


def _row_hash(batch):
    """Two words of each row's tokens and their places, padding left out; uint32 [batch]."""
    ids = batch["input_ids"].astype(jnp.uint32)
    place = jax.lax.broadcasted_iota(jnp.uint32, ids.shape, 1)
    present = batch["attention_mask"] != 0
    words = (
        hash_bits(ids * jnp.uint32(factor) + place, place * jnp.uint32(factor)) for factor in (0x85EBCA6B, 0xC2B2AE35)
    )
    return [jnp.where(present, word, jnp.uint32(0)).sum(1, dtype=jnp.uint32) for word in words]


def _word(params):
    return params["encoder"]["embeddings"]["word"]["embedding"]


def _with_word(params, word):
    return _with_embeddings(params, params["encoder"]["embeddings"] | {"word": {"embedding": word}})


def _with_embeddings(params, embeddings):
    return params | {"encoder": params["encoder"] | {"embeddings": embeddings}}
