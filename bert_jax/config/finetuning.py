"""Builds configs of fine-tuning runs: `base()` has every key with its default, `validate` refuses what cannot work."""

import math
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping

import ml_collections

from bert_jax.config import finetuning_phases, pretraining, recipes
from bert_jax.config.finetuning_keys import (
    EMBEDDER_POOLING,
    LATE_KEYS,
    LATE_LOSSES,
    LATE_POOLING,
    LIST_LOSSES,
    PAIR_LOSSES,
    SPARSE_POOLING,
    TASKS_OF,
    TEXTS_OF,
    VECTOR_LOSSES,
)
from bert_jax.config.keys import ADAPTABLE, FINETUNING, LARGEST_SEED
from bert_jax.config.keys import POOLING as POOLING
from bert_jax.config.keys import PROBLEMS as PROBLEMS
from bert_jax.config.keys import TASKS as TASKS
from bert_jax.config.layout import check_layout
from bert_jax.config.schema import check_name, check_type, check_values
from bert_jax.errors import UserError, command_line

BASE_WIDTH = 768  # hidden size of the models that fine-tuning rates are published for
SMALL_WIDTH = 256  # up to it, larger rates are needed
BASE_RATE = 2e-5  # for config.optimizer.learning_rate=-1, where the model is wider
LORA_RATE, LORA_RATES = 4e-4, (1e-4, 1e-3)  # RoBERTa Base has 4e-4 and 5e-4 (examples/NLU of microsoft/LoRA)


def base() -> ml_collections.ConfigDict:
    """Returns sequence classification with BERT's published settings and no data: every key with its default, locked.

    The group `search`, empty here, holds the values that a paper searched, by the groups above; launchers read it.
    """
    config = recipes.build(FINETUNING)
    config.search = ml_collections.ConfigDict()
    return config.lock()


def schema_of(config: Mapping) -> ml_collections.ConfigDict:
    """Returns the default config of a config's kind, or of what a config.json holds: fine-tuning's if it has a task."""
    return base() if "task" in config else pretraining.base()


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for an unknown or ill-typed key, or a value that cannot work whatever model and data are."""
    if "task" not in config:
        raise UserError(f"--config: a pre-training recipe, for {command_line('pretrain')}; expected one of fine-tuning")
    _check_search(config)
    runs = finetuning_phases.phases(config, pathlib.Path())
    for number, (run, _) in enumerate(runs if config.phases else (), 1):
        try:
            validate(run)
        except UserError as error:
            raise UserError(f"phase {number}: {error}") from error
    if config.phases:
        return
    values = recipes.flat(without_search(config))
    check_values(values, FINETUNING)
    for key, expected in (
        ("init_from", "a model to start from: a workdir, a Hugging Face directory or name"),
        ("task.train", "a file, or tfds: or hf:NAME[/CONFIG]:SPLIT"),
    ):
        if not values[key]:
            raise UserError(f"config.{key}: empty; expected {expected} (--config.{key}=...)")
    _check_numbers(values)
    pretraining.check_optimizer(values)
    pretraining.check_loggers(values)
    pretraining.check_emergency_folder(values)
    _check_task(values)
    _check_long(values)
    _check_embedding(values)
    _check_reranking(values)
    _check_loss(values)
    _check_tuning(values)


def without_search(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config without the values that were searched: what a run depends on."""
    kept = ml_collections.ConfigDict(config.to_dict())
    kept.search = ml_collections.ConfigDict()
    return kept


def follow_train(config: ml_collections.ConfigDict, recipe: ml_collections.ConfigDict, changed: Collection[str]) -> str:
    """Empties, in place, what names other data of a recipe where its task.train alone was replaced by another data set.

    The recipe's held-out set would choose the best checkpoint by another task's data. Another split of the same data
    set leaves it as it is.

    Args:
      config: the recipe's config with the changes.
      recipe: the recipe's config.
      changed: the keys that were changed, such as "task.train".

    Returns:
      a line for the user; "" where nothing was emptied.
    """
    if (
        "task" not in recipe
        or "task.train" not in changed
        or _data_set(recipe.task.train) in ("", _data_set(config.task.train))
    ):
        return ""
    emptied = [name for name in ("held_out", "test") if recipe.task[name] and f"task.{name}" not in changed]
    if not emptied:
        return ""
    were = " and ".join(f"config.task.{name}={recipe.task[name]}" for name in emptied)
    for name in emptied:
        config.task[name] = ""
    share = ""
    if "held_out" in emptied:
        share = (
            f": {config.task.held_out_share:.0%} of the new training data is held out instead; "
            "--config.task.held_out=FILE names other data"
        )
    return f"config.task.train is not the recipe's, so its {were} is not used{share}"


def follow_adapters(
    config: ml_collections.ConfigDict, recipe: ml_collections.ConfigDict, changed: Collection[str]
) -> str:
    """Chooses the rate, in place, where tuning.lora_rank was changed and a recipe's rate is that of whole models.

    Args and result: see `follow_train`.
    """
    rate = recipe.optimizer.learning_rate
    if "task" not in recipe or recipe.tuning.lora_rank or not config.tuning.lora_rank:
        return ""
    if "optimizer.learning_rate" in changed or rate < 0:
        return ""
    config.optimizer.learning_rate = -1.0
    return (
        f"config.tuning.lora_rank={config.tuning.lora_rank}: the recipe's config.optimizer.learning_rate={rate:g} is "
        "for whole models, and not used; adapters have a rate of their own"
    )


def held_out_warning(config: ml_collections.ConfigDict) -> str:
    """Returns a line about a held-out set of another named data set than train is, as where train alone was replaced.

    "" where they are of one, or where files are held out, of which nothing is known.
    """
    held_out = re.sub(r"(^|,)\s*[A-Za-z]\w*=", r"\1", config.task.held_out)
    names, train = (set(filter(None, _data_set(spec).split(","))) for spec in (held_out, config.task.train))
    if not names or names & train or not all(name.startswith(("tfds:", "hf:")) for name in names):
        return ""
    return (
        f"warning: config.task.held_out={config.task.held_out} is another data set than config.task.train="
        f"{config.task.train}, and chooses the best checkpoint"
    )


def _data_set(spec):
    """Returns what names a data set without its split: tfds:glue/sst2 of tfds:glue/sst2:train; else the spec itself."""
    names = {re.sub(r"((?:tfds|hf):[^\[\]]+):[^:\[\]]+(\[[^\]]*\])?", r"\1", item.strip()) for item in spec.split(",")}
    return ",".join(sorted(names))


def check_devices(config: ml_collections.ConfigDict, num_devices: int, heads: Mapping[str, int]) -> None:
    """Raises UserError if the mesh does not fit the devices, or heads or the batch do not divide among them."""
    check_layout(config, num_devices, heads, [(config.data.batch_size, "")])


def check_positions(config: ml_collections.ConfigDict, max_positions: int, is_rotary: bool = False) -> None:
    """Raises UserError if rows, or the chunks of rows, are longer than the model of config.init_from reads.

    Args:
      config: a fine-tuning config.
      max_positions: tokens of the longest row that the model reads.
      is_rotary: whether its positions are rotary alone, which may be scaled.
    """
    key = "task.chunk_length" if config.task.long == "chunks" else "data.sequence_length"
    length = config.task.chunk_length if config.task.long == "chunks" else config.data.sequence_length
    if length > max_positions:
        raise UserError(
            f"config.{key}: {length} is over the {max_positions} positions of config.init_from={config.init_from}; "
            f"expected at most {max_positions}{', or config.model.rotary_scaling' if is_rotary else ''}"
        )


def steps_per_epoch(config: ml_collections.ConfigDict, num_rows: int) -> int:
    """Returns the number of batches that hold every one of `num_rows` training rows once; the last may be short."""
    return -(-num_rows // config.data.batch_size)


def num_steps(config: ml_collections.ConfigDict, num_rows: int) -> int:
    """Returns the number of steps of a run on `num_rows` training rows: train.num_steps, or train.num_epochs epochs."""
    return config.train.num_steps or math.ceil(config.train.num_epochs * steps_per_epoch(config, num_rows))


def warmup_steps(optimizer: Mapping, num_steps: int) -> int:
    """Returns the number of warm-up steps of config.optimizer in a run of `num_steps`."""
    steps = optimizer["warmup_steps"]
    return math.ceil(optimizer["warmup_share"] * num_steps) if steps < 0 else steps


def default_rate(config: ml_collections.ConfigDict, hidden_size: int) -> float:
    """Returns the peak rate that config.optimizer.learning_rate=-1 stands for in a model of this width.

    It is BASE_RATE, or LORA_RATE for adapters; for a model of at most SMALL_WIDTH the geometric mean of
    the ends of `suitable_rates`.
    """
    if hidden_size <= SMALL_WIDTH:
        return math.sqrt(math.prod(suitable_rates(config, hidden_size)))
    return LORA_RATE if config.tuning.lora_rank else BASE_RATE


def batch_warning(config: ml_collections.ConfigDict, num_rows: int) -> str:
    """Returns a line about batches that are mostly padding, as there are few training rows; "" for others."""
    size = config.data.batch_size
    if size < 2 * num_rows or num_rows < 1:
        return ""
    return (
        f"warning: config.data.batch_size={size}: config.task.train has {num_rows:,} rows, so that "
        f"{1 - num_rows / size:.0%} of every batch is padding, which takes memory and time; expected at most {num_rows}"
    )


def rate_warning(config: ml_collections.ConfigDict, hidden_size: int = BASE_WIDTH) -> str:
    """Returns a line about a learning rate that a model of this width is unlikely to learn well at; "" for others."""
    rate, (low, high) = config.optimizer.learning_rate, rate_range(config, hidden_size)
    if rate_is_low(config, hidden_size):
        lowest, highest = suitable_rates(config, hidden_size)
        return (
            f"warning: config.optimizer.learning_rate: {rate:g} is low for {tuned_part(config, hidden_size)}, which "
            f"may then learn less than from scratch; search {lowest:.2g} to {highest:.2g}"
        )
    if not low <= rate <= high:
        return (
            f"warning: config.optimizer.learning_rate: {rate:g} is outside {range_in_words(config, hidden_size)} "
            "(config.optimizer.learning_rate_range)"
        )
    return ""


def rate_is_low(config: ml_collections.ConfigDict, hidden_size: int) -> bool:
    """Returns whether the rate is below what adapters, or a model as small as this, need to learn."""
    special = config.tuning.lora_rank or hidden_size <= SMALL_WIDTH
    return bool(special) and config.optimizer.learning_rate < suitable_rates(config, hidden_size)[0]


def rate_range(config: ml_collections.ConfigDict, hidden_size: int) -> tuple[float, float]:
    """Returns the ends of the range outside which a rate is warned about.

    It is config.optimizer.learning_rate_range, its upper end raised for small models. That is the range of whole
    models: adapters have their `suitable_rates`, and a higher upper end where the config's is higher.
    """
    low, high = config.optimizer.learning_rate_range
    lowest, highest = suitable_rates(config, hidden_size)
    if config.tuning.lora_rank:
        return lowest, max(high, highest)
    return low, high * highest / rates_for_width(BASE_WIDTH)[1]


def range_in_words(config: ml_collections.ConfigDict, hidden_size: int) -> str:
    """Returns `rate_range` in words, with what it is the range of."""
    low, high = rate_range(config, hidden_size)
    if config.tuning.lora_rank:
        return f"the range {low:.3g} to {high:.3g} for {tuned_part(config, hidden_size)}"
    return f"the published range {low:.3g} to {high:.3g}"


def suitable_rates(config: ml_collections.ConfigDict, hidden_size: int) -> tuple[float, float]:
    """Returns the ends of the range in which to search the peak rate: LORA_RATES for adapters, else by the width.

    Adapters of a small model get the higher of both ranges' ends, which nobody has measured.
    """
    rates = rates_for_width(hidden_size)
    if config.tuning.lora_rank:
        rates = max(rates[0], LORA_RATES[0]), max(rates[1], LORA_RATES[1])
    return rates


def rates_for_width(hidden_size: int) -> tuple[float, float]:
    """Returns the ends of the range in which to search the peak rate of AdamW for a model of this width.

    For models wider than 256: 2e-5 to 5e-5 (Devlin et al. 2018, appendix A.3). For small ones (768 / width) squared
    times as much: a rule of thumb that agrees with the 3e-4 of ELECTRA small (width 256) and with what was measured at
    a width of 128 (experiments/results/pretraining_helps.md). No narrower model was measured; it gets the rates of 128.
    """
    factor = (BASE_WIDTH / max(hidden_size, 128)) ** 2 if hidden_size <= SMALL_WIDTH else 1.0
    return 2e-5 * factor, 5e-5 * factor


def frozen_layers(freeze: str) -> int | None:
    """Returns N where config.tuning.freeze is layers:N, which freezes the lowest N layers; else None.

    Raises:
      UserError: N is no number.
    """
    if not freeze.startswith("layers:"):
        return None
    if not re.fullmatch(r"layers:\d+", freeze):
        raise UserError(f"config.tuning.freeze: found {freeze!r}; expected layers:N with a number of layers N")
    return int(freeze.removeprefix("layers:"))


def tuned_part(config: ml_collections.ConfigDict, hidden_size: int) -> str:
    """Returns in words what a rate is chosen for: a model of this width, or adapters of one."""
    return ("LoRA adapters of " if config.tuning.lora_rank else "") + f"a model of width {hidden_size}"


def _check_search(config):
    for key, values in recipes.flat(config.search).items():
        check_name(key, FINETUNING)
        if not isinstance(values, tuple | list) or not values:
            raise UserError(f"config.search.{key}: found {values!r}; expected a tuple of values")
        for value in values:
            check_type(f"config.search.{key}", value, FINETUNING[key].default)


def _check_numbers(values):
    if values["seed"] + values["seeds"] > LARGEST_SEED + 1:
        raise UserError(f"config.seeds: found {values['seeds']}; expected config.seed + config.seeds of at most 2**32")
    span = values["optimizer.learning_rate_range"]
    if len(span) != 2 or not all(isinstance(rate, int | float) for rate in span) or not span[0] <= span[1]:
        raise UserError(f"config.optimizer.learning_rate_range: found {span}; expected two rates, the lower first")
    if not values["train.num_steps"] and not values["train.num_epochs"]:
        raise UserError("config.train.num_epochs: 0, and config.train.num_steps is 0; expected one of them")
    if not all(isinstance(size, int) and size > 0 for size in values["data.buckets"]):
        raise UserError(f"config.data.buckets: found {values['data.buckets']}; expected lengths in tokens")


def check_given(config: ml_collections.ConfigDict, given: Iterable[str]) -> None:
    """Raises UserError for a key that the user has given, though the task of the config does not read it.

    Args:
      config: a fine-tuning config.
      given: dotted keys of the command line, such as "task.text".
    """
    name = config.task.name
    for key in given:
        part = key.removeprefix("task.")
        if not key.startswith("task.") or name in TASKS_OF.get(part, TASKS):
            continue
        instead = dict(zip(("text", "text_pair"), TEXTS_OF.get(name, ()), strict=False)).get(part)
        with_task = f"config.task.name={' or '.join(TASKS_OF[part])}"
        raise UserError(
            f"config.{key}: not read with config.task.name={name}; expected "
            + (f"config.task.{instead}" if instead else f"it with {with_task} alone")
        )


def _check_task(values):
    is_classification = values["task.name"] == "sequence_classification"
    if values["task.problem"] != "single_label" and not is_classification:
        raise UserError(
            f"config.task.problem: {values['task.problem']} is for sequence_classification; expected single_label with "
            f"config.task.name={values['task.name']}"
        )
    allowed = {"sequence_classification": POOLING, "reranking": POOLING, "embedding": ("auto", *EMBEDDER_POOLING)}
    allowed = allowed.get(values["task.name"], ("auto",))
    if values["task.pooling"] not in allowed:
        raise UserError(
            f"config.task.pooling: found {values['task.pooling']!r}; expected {' or '.join(allowed)} with "
            f"config.task.name={values['task.name']}"
        )
    if values["task.crf"] and values["task.name"] != "token_classification":
        raise UserError(
            f"config.task.crf: True is for token_classification; expected False with config.task.name="
            f"{values['task.name']}"
        )
    if not values["task.held_out"] and not 0 < values["task.held_out_share"] < 1:
        raise UserError(
            f"config.task.held_out_share: found {values['task.held_out_share']}; expected a share in (0, 1), or "
            "config.task.held_out"
        )


def _check_long(values):
    """Checks how texts longer than a row are read."""
    long, name = values["task.long"], values["task.name"]
    for key, way in (("head_tokens", "head_tail"), ("chunk_length", "chunks"), ("chunk_pooling", "chunks"),
                     ("chunk_layers", "chunks")):  # fmt: skip
        default = FINETUNING[f"task.{key}"].default
        if long != way and values[f"task.{key}"] != default:
            raise UserError(
                f"config.task.{key}: found {values[f'task.{key}']}; it is for config.task.long={way}; expected "
                f"{default} with {long}"
            )
    if long == "truncate":
        return
    if name not in TASKS_OF["head_tokens" if long == "head_tail" else "long"]:
        expected = "truncate" if name not in TASKS_OF["long"] else "truncate or chunks"
        raise UserError(f"config.task.long: found {long}; expected {expected} with config.task.name={name}")
    length, head, chunk = values["data.sequence_length"], values["task.head_tokens"], values["task.chunk_length"]
    refused = [
        ("task.text_pair", "", "two texts share a row"),
        ("task.pooling", None, "it keeps what is of tokens") if values["task.pooling"] in (
            LATE_POOLING, *SPARSE_POOLING) else None,
    ]  # fmt: skip
    if long == "chunks":
        refused += [
            ("data.packing", False, "a row is one text"),
            ("loss.prior_layers", 0, "the chunks' vectors are those of the last layer"),
            ("loss.name", "auto", "the decoder reads one row") if values["loss.name"] == "denoising" else None,
        ]
    for key, expected, reason in filter(None, refused):
        if values[key] != expected:
            instead = "another" if expected is None else repr(expected)
            raise UserError(
                f"config.{key}: found {values[key]!r}; expected {instead} with config.task.long={long}: {reason}"
            )
    if long == "head_tail" and head > length - 4:
        raise UserError(
            f"config.task.head_tokens: found {head}; expected at most {length - 4}, which leaves room for special "
            f"tokens and an end in rows of config.data.sequence_length={length}"
        )
    if (
        values["task.chunk_pooling"] != "transformer"
        and values["task.chunk_layers"] != FINETUNING["task.chunk_layers"].default
    ):
        raise UserError(
            f"config.task.chunk_layers: found {values['task.chunk_layers']}; it is for config.task.chunk_pooling="
            f"transformer; expected {FINETUNING['task.chunk_layers'].default} with {values['task.chunk_pooling']}"
        )
    if long == "chunks" and length % chunk:
        raise UserError(
            f"config.data.sequence_length: found {length}; expected a multiple of config.task.chunk_length={chunk}: a "
            "row has room for as many chunks of a text"
        )


def _check_embedding(values):
    _check_sets(values)
    if values["task.name"] != "embedding":
        return
    for key, expected, instead in (
        ("data.packing", False, "texts have rows of their own"),
        ("train.microbatches", 1, "config.loss.gradcache_rows divides a batch without changing its loss"),
    ):
        if values[key] not in (expected, 0):
            raise UserError(f"config.{key}: found {values[key]}; expected {expected} for embedding: {instead}")
    size, rows = values["data.batch_size"], values["loss.gradcache_rows"]
    if rows and size % rows:
        raise UserError(
            f"config.loss.gradcache_rows: found {rows}; expected a divisor of config.data.batch_size={size}"
        )
    widths, weights = values["loss.matryoshka"], values["loss.matryoshka_weights"]
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise UserError(f"config.loss.matryoshka: found {tuple(widths)}; expected sizes of vectors")
    if weights and (len(weights) != len(widths) or not all(isinstance(x, int | float) and x > 0 for x in weights)):
        raise UserError(
            f"config.loss.matryoshka_weights: found {tuple(weights)}; expected a positive number for each of "
            f"config.loss.matryoshka={tuple(widths)}"
        )
    for key, empty in (("loss.matryoshka", ()), ("loss.prior_layers", 0)):
        if values["loss.name"] in ("mse", "denoising") and values[key]:
            raise UserError(
                f"config.{key}: found {values[key]}; expected {empty} with config.loss.name={values['loss.name']}, "
                "which learns whole vectors of the last layer"
            )
    _check_sparse(values)
    _check_late(values)
    _check_score_range(values)


def _check_sets(values):
    weights = values["data.weights"]
    if not all(isinstance(weight, int | float) and weight > 0 for weight in weights):
        raise UserError(
            f"config.data.weights: found {tuple(weights)}; expected a positive number for each named set of "
            "config.task.train"
        )
    if values["task.name"] == "embedding":
        return
    for key, default in (("data.weights", ()), ("data.temperature", 1.0), ("data.set_batches", "mixed")):
        if values[key] != default:
            raise UserError(
                f"config.{key}: found {values[key]}, for config.task.name=embedding, which reads several sets; "
                f"expected {default} with {values['task.name']}"
            )


def _check_sparse(values):
    """Checks the keys that vectors over the vocabulary depend on, and those that depend on such vectors."""
    if values["task.pooling"] in SPARSE_POOLING:
        wanted = {"task.normalize": False, "loss.similarity": "dot", "loss.matryoshka": (), "task.embedding_size": 0,
                  "loss.prior_layers": 0}  # fmt: skip
        for key, expected in wanted.items():
            if values[key] != expected:
                raise UserError(
                    f"config.{key}: found {values[key]}; expected {expected} with config.task.pooling="
                    f"{values['task.pooling']}, whose vectors are compared as they are"
                )
        return
    for key in ("loss.flops_anchor", "loss.flops_other", "loss.flops_growth"):
        if values[key]:
            raise UserError(
                f"config.{key}: found {values[key]}; expected 0 with config.task.pooling={values['task.pooling']}: it "
                f"is for sparse vectors ({', '.join(SPARSE_POOLING)})"
            )


def _check_late(values):
    """Checks the keys that vectors of tokens depend on, and those that depend on such vectors."""
    if values["task.pooling"] != LATE_POOLING:
        for key in LATE_KEYS:
            if values[f"task.{key}"] != FINETUNING[f"task.{key}"].default:
                raise UserError(
                    f"config.task.{key}: found {values[f'task.{key}']!r} with config.task.pooling="
                    f"{values['task.pooling']}; it is for late interaction, config.task.pooling={LATE_POOLING}"
                )
        return
    for key, expected, reason in (
        ("task.normalize", True, "vectors of tokens have length 1"),
        ("task.pool_prompts", True, "every token of a prompt has a vector"),
        ("loss.similarity", "cosine", "vectors of tokens have length 1"),
        ("task.embedding_activation", "linear", "ColBERT's map has none"),
        ("loss.prior_layers", 0, "vectors of tokens are those of the last layer"),
    ):
        if values[key] != expected:
            raise UserError(
                f"config.{key}: found {values[key]}; expected {expected} with config.task.pooling={LATE_POOLING}: "
                f"{reason}"
            )
    if values["loss.name"] not in ("auto", *LATE_LOSSES):
        raise UserError(
            f"config.loss.name: found {values['loss.name']!r}; expected auto or {', '.join(LATE_LOSSES)} with "
            f"config.task.pooling={LATE_POOLING}"
        )
    if not values["task.positive"]:
        raise UserError(f"config.task.positive: empty; expected a column with config.task.pooling={LATE_POOLING}")
    markers, words = recipes.listed(values["task.markers"]), "a marker of anchors and one of positives, or none"
    if len(markers) not in (0, 2) or not all(isinstance(marker, str) for marker in markers):
        raise UserError(f"config.task.markers: found {tuple(markers)}; expected {words}")
    length, longest = values["task.query_length"], values["data.sequence_length"]
    if length > longest:
        raise UserError(
            f"config.task.query_length: {length} is over config.data.sequence_length={longest}, the tokens of the "
            "longest document; expected at most as many"
        )


def _check_reranking(values):
    if values["task.name"] != "reranking":
        return
    for key, expected in (("data.packing", False), ("loss.gradcache_rows", 0)):
        if values[key] != expected:
            instead = "the documents of a query have rows of their own" if key == "data.packing" else (
                "config.train.microbatches divides a batch"
            )  # fmt: skip
            raise UserError(f"config.{key}: found {values[key]}; expected {expected} for reranking: {instead}")
    _check_score_range(values)


def _check_loss(values):
    names = {"embedding": VECTOR_LOSSES, "reranking": (*PAIR_LOSSES, *LIST_LOSSES)}.get(values["task.name"])
    if names and values["loss.name"] not in ("auto", *names):
        raise UserError(
            f"config.loss.name: found {values['loss.name']!r}; expected auto or {', '.join(names)} with "
            f"config.task.name={values['task.name']}"
        )


def _check_score_range(values):
    span = values["task.score_range"]
    if span and (len(span) != 2 or not all(isinstance(x, int | float) for x in span) or not span[0] < span[1]):
        raise UserError(f"config.task.score_range: found {tuple(span)}; expected two numbers, the lower first")


def _check_tuning(values):
    freeze, rank = values["tuning.freeze"], values["tuning.lora_rank"]
    frozen_layers(freeze)
    try:
        re.compile(freeze)
    except re.error as error:
        raise UserError(f"config.tuning.freeze: {freeze!r} is no regular expression: {error}") from error
    if rank and freeze not in ("", "encoder"):
        raise UserError(
            f"config.tuning.freeze: found {freeze!r} with config.tuning.lora_rank={rank}, which freezes the encoder; "
            'expected ""'
        )
    unknown = [name for name in recipes.listed(values["tuning.lora_targets"]) if name not in ADAPTABLE]
    if unknown or not values["tuning.lora_targets"]:
        raise UserError(
            f"config.tuning.lora_targets: found {tuple(values['tuning.lora_targets'])}; expected some of "
            f"{', '.join(ADAPTABLE)}"
        )
    if values["tuning.reinit_layers"] and (rank or freeze == "encoder"):
        raise UserError(
            f"config.tuning.reinit_layers: {values['tuning.reinit_layers']} layers would start fresh and stay so, as "
            "the encoder is frozen; expected 0"
        )
    if values["from_scratch"] and (rank or freeze):
        raise UserError(
            "config.from_scratch: True, but config.tuning.freeze or lora_rank would keep random parameters as they "
            "are; expected one of them"
        )
