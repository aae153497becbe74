"""Joins the one table of configuration keys: pre-training's, and fine-tuning's, which shares many of them.

Everything else that is known of a key is derived from its entry: `base()` of both kinds of recipe, validation,
the defaults of `bert_jax.model.spec.Spec`, what may change when a run continues, what a phase may set, what a run takes
over from the model that it starts from, `--help-keys`, and the configuration reference of the documentation.

Nothing but the standard library is imported, so that `bert_jax.model` can read the table.
"""

from collections.abc import Mapping

from bert_jax.config.finetuning_keys import ADAPTABLE, ANSWERING, FINETUNING, POOLING, PROBLEMS, TASKS
from bert_jax.config.key_groups import LARGEST_SEED
from bert_jax.config.model_keys import ACTIVATIONS, DTYPES, FAST_TURNS, MODEL
from bert_jax.config.pretraining_keys import FORMATS, GENERATOR_SIZES, PAIR_FORMATS, PRETRAINING, SCHEDULE
from bert_jax.config.schema import Key

__all__ = [
    "ACTIVATIONS",
    "ADAPTABLE",
    "ANSWERING",
    "DEVICE_DEFAULTS",
    "DTYPES",
    "FAST_TURNS",
    "FINETUNING",
    "FORMATS",
    "GENERATOR_SIZES",
    "LARGEST_SEED",
    "MODEL",
    "NOT_ARCHITECTURE",
    "NOT_IN_FORMATS",
    "NOT_IN_PHASES",
    "PAIR_FORMATS",
    "PATHS",
    "POOLING",
    "PRETRAINING",
    "PROBLEMS",
    "RESUMABLE",
    "SCHEDULE",
    "TASKS",
    "with_role",
]


def with_role(keys: Mapping[str, Key], *roles: str) -> tuple[str, ...]:
    """Returns the names of the keys that have one of the roles."""
    return tuple(name for name, key in keys.items() if key.role in roles)


# Keys of config.model that need not agree with the model that a run starts from.
NOT_ARCHITECTURE = frozenset(name for name, key in MODEL.items() if key.role != "architecture")
# Keys of config.model that a format on disk need not express: how a model runs, trains and begins.
NOT_IN_FORMATS = frozenset(with_role(MODEL, "training", "computation", "device"))
# Values that a model takes which is opened on other devices than it was trained on.
DEVICE_DEFAULTS = {name: MODEL[name].default for name in with_role(MODEL, "device")}
# Keys of both kinds of run that may change when a run continues. Corpora and teachers are compared by their content.
RESUMABLE = frozenset(name for keys in (PRETRAINING, FINETUNING) for name, key in keys.items() if key.resumable)
# Keys whose values may differ between the hosts of a run.
PATHS = frozenset(name for keys in (PRETRAINING, FINETUNING) for name, key in keys.items() if key.is_path)
# Keys of config.data that are the whole run's: no phase may set them.
NOT_IN_PHASES = tuple(
    name.partition(".")[2] for name, key in PRETRAINING.items() if name.startswith("data.") and not key.in_phases
)
