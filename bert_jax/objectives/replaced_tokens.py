"""Trains by replaced-token detection: a generator fills in masks, and the model tells which tokens were replaced.

Clark et al. 2020 (ELECTRA), section 3. The parameters of a run are those of the model, which is the discriminator, and
under "generator" those that the generator does not share with it. Shared parameters are stored once:

    tied                    the generator reads the model's embeddings: tables and norm, not the projection (section
                            3.2)
    gradient_disentangled   the generator has embeddings of its own; the model's word table is the generator's, which
                            the model's loss does not change, plus a difference that starts at zero (He et al. 2021,
                            DeBERTaV3, section 3.2)
    none                    nothing is shared
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.config.keys import GENERATOR_SIZES
from bert_jax.errors import UserError
from bert_jax.model import Model
from bert_jax.model.dropout import hash_bits
from bert_jax.objectives.language_modeling import LanguageModeling, activation_squares, cross_entropy

_GENERATOR = "generator"
_SAMPLES = 0x73616D70  # folded into a step's key
_FIXED_SEED = (0x243F6A88, 0x85A308D3)  # seeds the samples where no step is known, as in evaluation


class ReplacedTokens(LanguageModeling):
    """Adds the generator's mean loss on masked tokens and the discriminator's weighted mean loss on all tokens.

    The tasks are "mlm", the generator's, and "rtd", the discriminator's: whether each token that is not padding,
    special ones too, is the original one, as in the published code (google-research/electra, run_pretraining.py). A
    masked token that the generator guessed right counts as original. Samples are a function of the step's key, of the
    row's masked tokens and of the position alone, so that neither shards nor microbatches change them.

    Args:
      model: the discriminator.
      generator: a model with a language-model head.
      sharing: config.objective.embedding_sharing.
      weight: weight of the discriminator's loss.
    """

    metric_labels = {
        **LanguageModeling.metric_labels,
        "rtd_loss": "replaced tokens: loss, nats",
        "rtd_accuracy": "replaced tokens: accuracy",
    }

    def __init__(self, model: Model, generator: Model, sharing: str, weight: float):
        super().__init__(model, {"name": "rtd"})
        self.generator = generator
        self.sharing = sharing
        self.weights = {"mlm": 1.0, "rtd": weight}

    @classmethod
    def from_config(cls, config, model, teacher=None):
        del teacher
        settings = config.objective
        generator = generator_model(config, model.spec.vocab_size, model.spec.platform)
        return cls(model, generator, settings.embedding_sharing, settings.discriminator_weight)

    @classmethod
    def trained_part(cls, config, vocab_size, params, part="discriminator"):
        sharing = config.objective.embedding_sharing
        if part == "generator":
            model = generator_model(config, vocab_size)
            return {key: getattr(model.spec, key) for key in config.model}, model, generator(params, sharing)
        model_settings, model, _ = super().trained_part(config, vocab_size, params, part)
        return model_settings, model, discriminator(params, sharing)

    @property
    def specs(self):
        """Returns the specs of the discriminator and the generator."""
        return self.model.spec, self.generator.spec

    @staticmethod
    def network(name):
        return _GENERATOR if name.split("/")[0] == _GENERATOR else "model"

    def init(self, key):
        model_key, generator_key = jax.random.split(key)
        params = self.model.init(model_key)
        if self.sharing == "gradient_disentangled":
            params = _with_word(params, jnp.zeros_like(_word(params)))
        return params | {_GENERATOR: self._own(self.generator.init(generator_key))}

    def started(self, params, key, generator=None):
        own_generator = self.init(key)[_GENERATOR] if generator is None else self._own(generator)
        if self.sharing == "gradient_disentangled":
            params = _with_word(params, _word(params) - _word(own_generator))
        return params | {_GENERATOR: own_generator}

    def counts(self, batch):
        return super().counts(batch) | {"rtd_count": _classified(batch).sum()}

    def sums(self, params, batch, dropout_key=None, *, step_key=None, teacher=None, activations=False):
        del teacher
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        guesses, inputs, replaced = self._replace(params, batch, keys[0], step_key)
        sums = cross_entropy("mlm", guesses, batch["masked_labels"], batch["masked_weights"])
        outputs = self.model.apply(
            discriminator(params, self.sharing), inputs, dropout_key=keys[1], hidden_states=activations
        )
        logits = outputs["replaced_logits"]
        weights = _classified(batch)
        sums["rtd_loss"] = (jax.nn.softplus(jnp.where(replaced, -logits, logits)) * weights).sum()
        sums["rtd_correct"] = (((logits > 0) == replaced).astype(jnp.float32) * weights).sum()
        if activations:
            sums["activation_squares"] = activation_squares(outputs["hidden_states"], batch)
        return sums

    def judged(self, params: dict, batch: Mapping) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Replaces the masked tokens of a batch, as evaluation does, and asks the discriminator about every token.

        Args:
          params: the run's parameters.
          batch: arrays as the loader makes them, [batch, ...].

        Returns:
          (token ids int32, whether each is not the original one, bool, and the probability that the discriminator gives
          to that, float32), all [batch, sequence].
        """
        _, inputs, replaced = self._replace(params, batch, None, None)
        logits = self.model.apply(discriminator(params, self.sharing), inputs)["replaced_logits"]
        return inputs["input_ids"], replaced, jax.nn.sigmoid(logits.astype(jnp.float32))

    def _replace(self, params, batch, dropout_key, step_key):
        """Returns (the generator's logits, the batch with its samples in place of masks, which tokens they changed)."""
        generator_params = generator(params, self.sharing)
        guesses = self.generator.apply(generator_params, batch, dropout_key=dropout_key)["mlm_logits"]
        return guesses, *filled_in(batch, samples(guesses, batch, _seed(step_key)))

    def headline(self, row):
        text = super().headline(row)
        return f"{text}, replaced tokens {row['eval/rtd_accuracy']:.1%} right" if text else ""

    def summary(self, held_out):
        loss, accuracy = held_out["eval/rtd_loss"], held_out["eval/rtd_accuracy"]
        own_summary = f"held-out loss of replaced tokens {loss:.4f}, accuracy {accuracy:.1%}"
        return f"{own_summary}; the generator's {super().summary(held_out)}"

    def _own(self, params):
        """Returns the parameters of a generator that are not shared with the model."""
        if self.sharing != "tied":
            return params
        embeddings = params["encoder"]["embeddings"]
        return _with_embeddings(params, {name: part for name, part in embeddings.items() if name == "projection"})


def generator_model(config, vocab_size: int, platform: str | None = None) -> Model:
    """Builds the generator of a config: config.model with the sizes of config.generator.

    Args:
      config: a pre-training config; reads model, generator and objective.embedding_sharing.
      vocab_size: number of entries of the corpus's vocabulary.
      platform: the platform to choose kernels for; see model.build.

    Raises:
      UserError: the sizes do not go with the switches of config.model.
    """
    fields = config.model.to_dict()
    sizes = {key: config_lib.value(config, f"generator.{key}") for key in GENERATOR_SIZES}
    shared = config.objective.embedding_sharing != "none"
    if fields["num_kv_heads"]:
        sizes["num_kv_heads"] = sizes["num_heads"] * fields["num_kv_heads"] // fields["num_heads"]
    sizes["embedding_size"] = (fields["embedding_size"] or fields["hidden_size"]) if shared else 0
    try:
        return model_lib.build(fields | sizes | {"pooler": False}, vocab_size, next_sentence=False, platform=platform)
    except UserError as error:
        wanted = ", ".join(f"{key}={sizes[key]}" for key in GENERATOR_SIZES)
        raise UserError(f"config.generator: a generator with {wanted} cannot be made: {error}") from error


def discriminator(params: Mapping, sharing: str) -> dict:
    """Returns the discriminator's parameters in a model's own layout.

    Args:
      params: the run's parameters, as its checkpoints hold them.
      sharing: config.objective.embedding_sharing.
    """
    own_params = {name: part for name, part in params.items() if name != _GENERATOR}
    if sharing != "gradient_disentangled":
        return own_params
    return _with_word(own_params, jax.lax.stop_gradient(_word(params[_GENERATOR])) + _word(own_params))


def generator(params: Mapping, sharing: str) -> dict:
    """Returns the generator's parameters in a model's own layout; arguments as of `discriminator`."""
    own_params = params[_GENERATOR]
    if sharing != "tied":
        return own_params
    shared = {name: part for name, part in params["encoder"]["embeddings"].items() if name != "projection"}
    return _with_embeddings(own_params, own_params["encoder"]["embeddings"] | shared)


def samples(logits: jax.Array, batch: Mapping, seed: jax.Array) -> jax.Array:
    """Draws a token for each slot from the softmax of its logits; int32 [batch, slots].

    It is the argmax of logits plus Gumbel noise. The noise is a hash of the seed, of the row's masked tokens, of the
    slot's position and of the token. No gradient passes.

    Args:
      logits: float32 [batch, slots, vocabulary].
      batch: input_ids and attention_mask int32 [batch, sequence], masked_positions int32 [batch, slots].
      seed: uint32 [2].
    """
    place = batch["masked_positions"].astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    slots = [hash_bits(place + row[:, None], seed[i]) for i, row in enumerate(_row_hash(batch))]
    token = jax.lax.broadcasted_iota(jnp.uint32, logits.shape, 2) * jnp.uint32(0x27D4EB2F)
    bits = hash_bits(token + slots[0][:, :, None], slots[1][:, :, None])
    # Half a step off both ends; small numbers, which give large noise, keep their last bit.
    uniform = bits.astype(jnp.float32) * 2.0**-32 + 2.0**-33
    noise = -jnp.log(-jnp.log1p(-uniform))
    return jnp.argmax(jax.lax.stop_gradient(logits) + noise, axis=-1).astype(jnp.int32)


def filled_in(batch: Mapping, tokens: jax.Array) -> tuple[dict, jax.Array]:
    """Puts tokens into the masked slots of a batch, and marks those that differ from the original ones.

    Args:
      batch: arrays as the loader makes them.
      tokens: int32 [batch, slots].

    Returns:
      (the batch without masked_* arrays, which tokens were replaced as bool [batch, sequence]).
    """
    ids = batch["input_ids"]
    place = jax.lax.broadcasted_iota(jnp.int32, (*tokens.shape, ids.shape[1]), 2)
    is_slot = (batch["masked_positions"][:, :, None] == place) & (batch["masked_weights"] > 0)[:, :, None]

    def put(values):  # no scatter: rows lie on different devices
        slot_values = jnp.where(is_slot, values[:, :, None], -1).max(1)
        return jnp.where(slot_values < 0, ids, slot_values)

    filled, original = put(tokens), put(batch["masked_labels"])
    rest = {name: array for name, array in batch.items() if not name.startswith("masked_")}
    return rest | {"input_ids": filled}, filled != original


def _classified(batch):
    """Returns the weights of the tokens that the discriminator classifies, float32 [batch, sequence].

    Rows without a masked token are those that fill up a held-out batch; they weigh 0.
    """
    rows = (batch["masked_weights"] > 0).any(1)
    return ((batch["attention_mask"] != 0) & rows[:, None]).astype(jnp.float32)


def _seed(step_key):
    if step_key is None:
        return jnp.array(_FIXED_SEED, jnp.uint32)
    return jax.random.bits(jax.random.fold_in(step_key, _SAMPLES), (2,), jnp.uint32)


def _row_hash(batch):
    """Hashes each row's tokens and their places, without padding, into two words; uint32 [batch] each."""
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
