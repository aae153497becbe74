"""Every setting of a fine-tuning run, its default, and what makes it valid; the counterpart of config.py.

A recipe in configs/finetune/ starts from `base()` and changes what it needs.
"""

import math
import re
from collections.abc import Mapping

import ml_collections

from bert_jax import config as config_lib
from bert_jax.errors import UserError

TASKS = ("sequence_classification", "token_classification", "question_answering")
POOLING = ("auto", "pooler", "dense", "cls", "mean", "max", "attention")  # see model.spec.Task
PROBLEMS = ("single_label", "multi_label", "regression")


def base() -> ml_collections.ConfigDict:
    """Sequence classification with BERT's published settings and no data: the schema of every fine-tuning recipe."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.seeds = 1  # seeds seed, seed + 1, ... trained side by side in one compiled step
    config.seeds_at_once = 0  # how many of them share a step; 0: all
    config.init_from = ""  # MODEL whose encoder, vocabulary and fitting heads to start from
    config.from_scratch = False  # take init_from's architecture and vocabulary, but fresh parameters

    model = config.model = ml_collections.ConfigDict()  # the rest is init_from's
    model.dtype = "auto"
    model.scan_layers = False
    model.attention_kernel = "auto"  # as in pre-training's config
    model.remat = "none"
    model.hidden_dropout = -1.0  # -1: init_from's
    model.attention_dropout = -1.0

    task = config.task = ml_collections.ConfigDict()
    task.name = "sequence_classification"
    task.problem = "single_label"  # of sequence classification
    task.train = ""  # tfds:NAME[/CONFIG]:SPLIT, or a .csv, .tsv, .jsonl, .parquet, CoNLL or SQuAD .json file
    task.held_out = ""  # the same; several as "matched=...,mismatched=..."; "": held_out_share of train
    task.held_out_share = 0.1
    task.test = ""  # predictions are written for it; its labels may be absent
    task.data_dir = ""  # where TFDS keeps datasets; "": its default
    task.columns = ()  # names of the columns of a file that has no header
    task.text = "text"  # column
    task.text_pair = ""  # column of the second text; "": single texts
    task.label = "label"  # column
    task.labels = ()  # names in the order of ids; (): as the data says, else sorted as found in train
    task.metrics = ()  # (): those of the problem
    task.metric = ""  # the one that chooses the best checkpoint; "": the first of metrics
    task.pooling = "auto"  # what the classifier reads; auto: the head that init_from's family has
    task.dropout = 0.1  # of the classifier's input; question answering has none, as published
    task.token_column = 0  # CoNLL: of the word
    task.label_column = -1  # CoNLL: of the tag
    task.scheme = "auto"  # of the file's tags: "IOB1", "BIO", "BIOES", or found by looking
    task.crf = False
    task.doc_stride = 128  # question answering: tokens between the starts of a context's windows
    task.max_query_length = 64
    task.max_answer_length = 30
    task.n_best = 20
    task.unanswerable = "auto"  # SQuAD 2.0's null answers: "yes", "no", or as the training data has them
    task.bad_answers = "skip"  # an answer that is not at its offset: "skip" (counted and named) or "error"

    data = config.data = ml_collections.ConfigDict()
    data.sequence_length = 128  # the longest row, special tokens included
    data.batch_size = 32
    data.buckets = ()  # padded lengths; (): bert_jax.data.rows.BUCKETS
    data.packing = False  # several short texts in one row, attention and positions apart
    data.prefetch = 2  # batches held ready

    mesh = config.mesh = ml_collections.ConfigDict()
    mesh.data = -1
    mesh.fsdp = 1
    mesh.tensor = 1
    mesh.across_slices = "data"

    optimizer = config.optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"
    optimizer.learning_rate = 2e-5  # the peak
    optimizer.learning_rate_range = (1e-6, 1e-4)  # a rate outside is warned about
    optimizer.schedule = "linear"
    optimizer.warmup_share = 0.1  # of the run's steps
    optimizer.warmup_steps = -1  # instead of warmup_share, if 0 or more
    optimizer.decay_steps = 0
    optimizer.decay_shape = "linear"
    optimizer.final_fraction = 0.0
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.epsilon = 1e-6
    optimizer.weight_decay = 0.01
    optimizer.clip_norm = 1.0
    optimizer.layer_decay = 1.0  # rate of a layer / rate of the layer above it; the top layer and heads: the full rate

    tuning = config.tuning = ml_collections.ConfigDict()
    tuning.freeze = ""  # "encoder", "embeddings", "layers:N" (embeddings and the lowest N layers), or a path regex
    tuning.reinit_layers = 0  # top layers (and pooler) to start fresh (Zhang et al. 2021, section 5)
    tuning.lora_rank = 0  # 0: no adapters; else the encoder is frozen and only adapters and heads train
    tuning.lora_alpha = 16.0
    tuning.lora_targets = ("query", "value")  # linear maps of each layer: query, key, value, output, gate, up, down

    train = config.train = ml_collections.ConfigDict()
    train.num_epochs = 3.0
    train.num_steps = 0  # instead of num_epochs, if not 0
    train.microbatches = 1
    train.log_every = 50
    train.eval_every = 0  # 0: after each epoch
    train.eval_batch_size = 0  # 0: data.batch_size
    train.checkpoint_every = 0  # 0: at each evaluation
    train.patience = 0  # evaluations without a better metric before a seed stops; 0: never
    train.failed_below = -1.0  # a seed whose metric ends below has failed; -1: not better than the commonest answer
    train.keep_newest = 1
    train.compilation_cache = "auto"  # as in pre-training's config
    train.tensorboard = True
    train.progress = True

    profile = config.profile = ml_collections.ConfigDict()
    profile.first_step = 10
    profile.num_steps = 0

    config.search = ml_collections.ConfigDict()  # as the groups above: values that the paper searched, for launchers
    config.lock()
    return config


ADAPTABLE = ("query", "key", "value", "output", "gate", "up", "down")  # linear maps of a layer

CHOICES = {
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.attention_kernel": config_lib.CHOICES["model.attention_kernel"],
    "model.remat": config_lib.CHOICES["model.remat"],
    "mesh.across_slices": config_lib.CHOICES["mesh.across_slices"],
    "task.name": TASKS,
    "task.problem": PROBLEMS,
    "task.pooling": POOLING,
    "task.scheme": ("auto", "IOB1", "BIO", "BIOES"),
    "task.unanswerable": ("auto", "yes", "no"),
    "task.bad_answers": ("skip", "error"),
    "optimizer.name": config_lib.CHOICES["optimizer.name"],
    "optimizer.schedule": config_lib.CHOICES["optimizer.schedule"],
    "optimizer.decay_shape": config_lib.CHOICES["optimizer.decay_shape"],
}


def schema_of(config: Mapping) -> ml_collections.ConfigDict:
    """The schema that a config, or what its config.json holds, follows: this one if it has a task."""
    return base() if "task" in config else config_lib.base()


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for an unknown or ill-typed key, or a value that cannot work whatever model and data are."""
    if "task" not in config:
        raise UserError("--config: a pre-training recipe, for python -m bert_jax.pretrain; expected one of fine-tuning")
    schema = base()
    _check_search(config, schema)
    found = config_lib.check_schema(without_search(config), schema, CHOICES)
    for key, what in (("init_from", "a model to start from: a workdir, a Hugging Face directory or name"),
                      ("task.train", "a file, or tfds:NAME[/CONFIG]:SPLIT")):  # fmt: skip
        if not found[key]:
            raise UserError(f"config.{key}: empty; expected {what} (--config.{key}=...)")
    _check_numbers(found)
    config_lib.check_optimizer(found)
    _check_task(found)
    _check_tuning(found)


def without_search(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config without the values that were searched: what a run depends on."""
    kept = ml_collections.ConfigDict(config.to_dict())
    kept.search = ml_collections.ConfigDict()
    return kept


def check_devices(config: ml_collections.ConfigDict, num_devices: int, heads: Mapping[str, int]) -> None:
    """Raises UserError if the mesh does not fit the devices, or heads or the batch do not divide among them."""
    config_lib.check_layout(config, num_devices, heads, [(config.data.batch_size, "")])


def rate_warning(config: ml_collections.ConfigDict) -> str:
    """A line about a learning rate outside the recipe's published range; "" if it is inside."""
    rate, (low, high) = config.optimizer.learning_rate, config.optimizer.learning_rate_range
    if low <= rate <= high:
        return ""
    return (
        f"warning: config.optimizer.learning_rate: {rate:g} is outside the published range {low:g} to {high:g} "
        "(config.optimizer.learning_rate_range)"
    )


def _check_search(config, schema):
    for key, values in config_lib.flat(config.search).items():
        config_lib.check_key(key, schema)
        if not isinstance(values, tuple | list) or not values:
            raise UserError(f"config.search.{key}: found {values!r}; expected a tuple of values")
        for value in values:
            config_lib.check_type(f"config.search.{key}", value, config_lib.flat(schema)[key])


# key: the least that it may be, and the most (None: no limit)
_RANGES = {
    "seed": (0, 2**32 - 1),
    "seeds": (1, None),
    "seeds_at_once": (0, None),
    "task.dropout": (0, 1),
    "task.doc_stride": (1, None),
    "task.max_query_length": (1, None),
    "task.max_answer_length": (1, None),
    "task.n_best": (1, None),
    "data.sequence_length": (3, None),
    "data.batch_size": (1, None),
    "data.prefetch": (0, None),
    "optimizer.learning_rate": (0, None),
    "optimizer.warmup_share": (0, 1),
    "optimizer.warmup_steps": (-1, None),
    "optimizer.decay_steps": (0, None),
    "optimizer.final_fraction": (0, None),
    "optimizer.b1": (0, 1),
    "optimizer.b2": (0, 1),
    "optimizer.epsilon": (0, None),
    "optimizer.weight_decay": (0, None),
    "optimizer.clip_norm": (0, None),
    "optimizer.layer_decay": (0, 1),
    "tuning.reinit_layers": (0, None),
    "tuning.lora_rank": (0, None),
    "tuning.lora_alpha": (0, None),
    "train.num_epochs": (0, None),
    "train.num_steps": (0, None),
    "train.microbatches": (1, None),
    "train.log_every": (1, None),
    "train.eval_every": (0, None),
    "train.eval_batch_size": (0, None),
    "train.checkpoint_every": (0, None),
    "train.patience": (0, None),
    "train.keep_newest": (1, None),
    "profile.first_step": (0, None),
    "profile.num_steps": (0, None),
}


def _check_numbers(found):
    for key, (least, most) in _RANGES.items():
        value = found[key]
        config_lib.check_whole(key, value)
        if not least <= value <= (math.inf if most is None else most) or not math.isfinite(value):  # NaN too
            expected = f"a number of at least {least}" if most is None else f"a number from {least} to {most}"
            raise UserError(f"config.{key}: found {value}; expected {expected}")
    if found["seed"] + found["seeds"] > 2**32:
        raise UserError(f"config.seeds: found {found['seeds']}; expected config.seed + config.seeds of at most 2**32")
    for key in ("model.hidden_dropout", "model.attention_dropout"):
        if found[key] != -1 and not 0 <= found[key] < 1:
            raise UserError(f"config.{key}: found {found[key]}; expected a rate in [0, 1), or -1 for init_from's")
    if found["task.dropout"] >= 1:
        raise UserError(f"config.task.dropout: found {found['task.dropout']}; expected a rate in [0, 1)")
    span = found["optimizer.learning_rate_range"]
    if len(span) != 2 or not all(isinstance(rate, int | float) for rate in span) or not span[0] <= span[1]:
        raise UserError(f"config.optimizer.learning_rate_range: found {span}; expected two rates, the lower first")
    if not found["train.num_steps"] and not found["train.num_epochs"]:
        raise UserError("config.train.num_epochs: 0, and config.train.num_steps is 0; expected one of them")
    if not all(isinstance(size, int) and size > 0 for size in found["data.buckets"]):
        raise UserError(f"config.data.buckets: found {found['data.buckets']}; expected lengths in tokens")


def _check_task(found):
    of_sequence = found["task.name"] == "sequence_classification"
    if found["task.problem"] != "single_label" and not of_sequence:
        raise UserError(
            f"config.task.problem: {found['task.problem']} is for sequence_classification; expected single_label with "
            f"config.task.name={found['task.name']}"
        )
    if found["task.pooling"] != "auto" and not of_sequence:
        raise UserError(
            f"config.task.pooling: {found['task.pooling']} is for sequence_classification; expected auto with "
            f"config.task.name={found['task.name']}"
        )
    if found["task.crf"] and found["task.name"] != "token_classification":
        raise UserError(
            f"config.task.crf: True is for token_classification; expected False with config.task.name="
            f"{found['task.name']}"
        )
    if not found["task.held_out"] and not 0 < found["task.held_out_share"] < 1:
        raise UserError(
            f"config.task.held_out_share: found {found['task.held_out_share']}; expected a share in (0, 1), or "
            "config.task.held_out"
        )


def _check_tuning(found):
    freeze, rank = found["tuning.freeze"], found["tuning.lora_rank"]
    if freeze.startswith("layers:") and not re.fullmatch(r"layers:\d+", freeze):
        raise UserError(f"config.tuning.freeze: found {freeze!r}; expected layers:N with a number of layers N")
    try:
        re.compile(freeze)
    except re.error as error:
        raise UserError(f"config.tuning.freeze: {freeze!r} is no regular expression: {error}") from error
    if rank and freeze not in ("", "encoder"):
        raise UserError(
            f"config.tuning.freeze: found {freeze!r} with config.tuning.lora_rank={rank}, which freezes the encoder; "
            'expected ""'
        )
    unknown = [name for name in config_lib.listed(found["tuning.lora_targets"]) if name not in ADAPTABLE]
    if unknown or not found["tuning.lora_targets"]:
        raise UserError(
            f"config.tuning.lora_targets: found {tuple(found['tuning.lora_targets'])}; expected some of "
            f"{', '.join(ADAPTABLE)}"
        )
    if found["tuning.reinit_layers"] and (rank or freeze == "encoder"):
        raise UserError(
            f"config.tuning.reinit_layers: {found['tuning.reinit_layers']} layers would start fresh and stay so, as "
            "the encoder is frozen; expected 0"
        )
    if found["from_scratch"] and (rank or freeze):
        raise UserError(
            "config.from_scratch: True, but config.tuning.freeze or lora_rank would keep random parameters as they "
            "are; expected one of them"
        )
