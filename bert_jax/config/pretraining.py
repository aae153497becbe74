"""Every setting of a run, its default, and what makes it valid.

A recipe (a file in configs/) starts from `base()` and changes what it needs; `load_recipe` finds one by file
or by name; `validate` refuses what cannot work, before anything is built. No jax here: the data pipeline's
worker processes read configs too.
"""

import importlib.util
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bert_jax.config import architecture as combinations
from bert_jax.config.kernels import resolve_kernel
from bert_jax.config.mesh import AXES, BATCH_AXES
from bert_jax.config.objective import OBJECTIVES, check_objective, facts, pair_objective
from bert_jax.config.run_phases import Phase as Phase
from bert_jax.config.run_phases import batch_warmup as batch_warmup
from bert_jax.config.run_phases import by_tokens as by_tokens
from bert_jax.config.run_phases import num_steps as num_steps
from bert_jax.config.run_phases import phases as phases
from bert_jax.config.schema import check_type as check_type
from bert_jax.config.schema import closest
from bert_jax.errors import UserError

MOST = 2**31 - 1  # of a whole number
_LEAST_EPSILON = 1e-15  # whose square is a number in float32
_LONGEST_SPAN = 512
FORMATS = ("segment_pair", "sentence_pair", "full_sentences", "doc_sentences")
PAIR_FORMATS = FORMATS[:2]
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh")
CHOICES = {
    "model.activation": ACTIVATIONS,
    "model.head_activation": ("", *ACTIVATIONS),
    "model.conv_activation": ACTIVATIONS,
    "model.positions": ("learned", "rotary", "relative", "none", "learned+rotary", "learned+relative"),
    "model.relative_terms": ("c2p", "p2c", "c2p+p2c"),
    "model.norm": ("layer_norm", "rms_norm"),
    "model.norm_place": ("post", "pre"),
    "model.mlp": ("dense", "gated"),
    "model.mask_decoder": ("plain", "enhanced"),
    "model.attention": ("bidirectional", "causal"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.attention_kernel": ("auto", "xla", "splash", "flash", "cudnn"),
    "model.remat": ("none", "attention", "dots", "dots_no_batch", "full"),
    "mesh.across_slices": ("data", "fsdp"),
    "objective.name": tuple(OBJECTIVES),
    "objective.embedding_sharing": ("tied", "gradient_disentangled", "none"),
    "distillation.positions": ("masked", "all"),
    "data.format": FORMATS,
    "data.masking": ("dynamic", "static"),
    "data.mask_unit": ("token", "whole_word", "span", "ngram"),
    "optimizer.name": ("adamw", "lamb", "stable_adamw"),
    "optimizer.schedule": ("linear", "cosine", "trapezoidal", "constant"),
    "optimizer.decay_shape": ("linear", "sqrt", "cosine"),
}


def base() -> ml_collections.ConfigDict:
    """BERT Base with dynamic masking and no corpus: the schema of every recipe, with each key's default."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.init_from = ""  # MODEL whose parameters to start from: a run's workdir, a Hugging Face directory or name
    config.model_from_init = False  # take the architecture (sizes and switches of config.model) from init_from too
    config.init_layers = ()  # the layers of init_from, from 0, that the layers here start from; (): all
    config.init_grow = False  # start a larger model than init_from, by tiling its parameters

    model = config.model = ml_collections.ConfigDict()
    model.vocab_size = 0  # 0: the corpus's
    model.hidden_size = 768
    model.num_layers = 12
    model.num_heads = 12
    model.intermediate_size = 3072
    model.activation = "gelu"
    model.max_positions = 512  # tokens a row can hold; the position table has position_offset more rows
    model.position_offset = 0  # row of the first token's position; RoBERTa: 2
    model.type_vocab_size = 2  # 0: no token types
    model.embedding_size = 0  # of the tables of words, positions and token types; 0: hidden_size
    model.embedding_projection = False  # a linear map behind the tables also where they have hidden_size
    model.positions = "learned"  # what tells places apart: a table, rotations of queries and keys, distances, nothing
    model.rotary_base = 10_000.0
    model.local_rotary_base = 0.0  # of layers with a window; 0: rotary_base
    model.relative_span = 0  # the largest distance told apart, relative positions; 0: max_positions
    model.relative_buckets = 0  # rows a side of the table of distances, their logarithms; 0: one for each distance
    model.relative_terms = "c2p+p2c"  # content to position, position to content
    model.relative_shared = False  # positions use the content's query and key projections
    model.relative_norm = False  # of the table of distances
    model.local_window = 0  # tokens, half of them on each side, that a local layer sees; 0: all layers see all
    model.global_every = 3  # with a window: layers 0, n, 2n, ... see all
    model.num_kv_heads = 0  # heads of keys and values, each serving several queries; 0: num_heads
    model.head_size = 0  # 0: hidden_size / num_heads
    model.mlp = "dense"  # gated: activation(gate(x)) * up(x), GeGLU and SwiGLU
    model.norm = "layer_norm"
    model.norm_place = "post"  # pre: before attention and MLP, and one after the last layer
    model.embedding_norm = True
    model.first_norm = True  # pre: whether the first layer's attention has a norm before it
    model.norm_bias = True
    model.attention_bias = True
    model.key_bias = True
    model.mlp_bias = True
    model.layer_groups = 0  # layers share the parameters of so many groups; 0: each has its own
    model.group_layers = 1  # layers of a group
    model.conv_kernel_size = 0  # of a convolution beside the first layer; 0: none
    model.conv_groups = 1
    model.conv_activation = "tanh"
    model.norm_epsilon = 1e-12
    model.hidden_dropout = 0.1
    model.attention_dropout = 0.1
    model.initializer_range = 0.02
    model.scaled_initializer = False  # layers' output projections begin smaller, by sqrt(2 num_layers)
    model.pooler = True
    model.mlm_transform = True  # a linear map and a norm between hidden states and decoder
    model.head_activation = ""  # of that map; "": activation
    model.head_bias = True
    model.decoder_bias = True
    model.tied_decoder = True  # the decoder is the word embedding
    model.mask_decoder = "plain"  # enhanced: absolute positions enter in two last layers of masked prediction alone
    model.attention = "bidirectional"
    model.dtype = "auto"  # of the computation; parameters are float32
    model.scan_layers = False
    model.attention_kernel = "auto"  # auto: the platform's, where it can do what is asked; or one by name
    model.remat = "none"  # what a layer keeps for the backward pass: everything, or what the named policy saves

    objective = config.objective = ml_collections.ConfigDict()
    objective.name = "mlm"
    objective.next_sentence = True  # whether B follows A or is another document's (pairs of data.format)
    objective.sentence_order = False  # instead: whether two segments that follow each other were swapped
    objective.discriminator_weight = 50.0  # rtd: of the loss of replaced tokens, beside the generator's
    objective.embedding_sharing = "tied"  # rtd: of generator and model; see objectives/replaced_tokens.py

    generator = config.generator = ml_collections.ConfigDict()  # of rtd; what else it is made of, config.model says
    generator.hidden_size = 0  # 0, here and below: the model's
    generator.num_layers = 0
    generator.num_heads = 0
    generator.intermediate_size = 0

    distillation = config.distillation = ml_collections.ConfigDict()
    distillation.teacher = ""  # MODEL with the corpus's vocabulary
    distillation.temperature = 2.0  # of the distributions that are compared
    distillation.soft_weight = 5.0  # of their divergence
    distillation.mlm_weight = 2.0
    distillation.cosine_weight = 1.0  # of the angles between the last hidden states
    distillation.positions = "masked"  # whose distributions: of the masked tokens, or of all

    data = config.data = ml_collections.ConfigDict()
    data.corpus = ""  # one directory that prepare wrote, or several separated by commas
    data.old_corpus = ""  # of the text that init_from learned: its held-out part is evaluated too (eval_old/...)
    data.weights = ()  # of several corpora; () means by size and temperature
    data.temperature = 1.0  # share of a corpus ~ size ** (1 / temperature)
    data.format = "segment_pair"
    data.sequence_length = 512  # tokens a row, special tokens included; no phase is longer
    data.batch_size = 256  # rows of the global batch
    data.phases = ()  # dicts of `share` (of num_steps) and the data keys that differ, in order
    data.pair_repeats = 1  # different pairings of the same text that epochs cycle through
    data.short_target_share = 0.1
    data.masking = "dynamic"
    data.dupe_factor = 10  # static masking: how many masks each instance is seen with
    data.mask_unit = "token"
    data.mask_rate = 0.15  # of the tokens that are neither special nor padding
    data.mask_token_share = 0.8  # of the chosen: become the mask token
    data.random_token_share = 0.1  # of the chosen: become a random ordinary token; the rest stay
    data.max_predictions = 0  # prediction slots a row; 0: as many as mask_rate can ask for
    data.span_p = 0.2  # span lengths in words ~ geometric(p), clipped (SpanBERT section 3.1)
    data.span_max_words = 10
    data.ngram_max = 3  # words of the longest n-gram; p(n) ~ 1/n (ALBERT section 3.1)
    data.packing = False  # several short instances in one row, attention and positions apart; formats without pairs
    data.workers = 0  # processes that prepare batches; 0: a thread of this one
    data.prefetch = 2  # batches held ready

    mesh = config.mesh = ml_collections.ConfigDict()
    mesh.data = -1  # -1: the devices that the other axes leave
    mesh.fsdp = 1
    mesh.tensor = 1
    mesh.across_slices = "data"  # the axis that spans slices (DCN); the others stay within one (ICI)

    optimizer = config.optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"
    optimizer.learning_rate = 1e-4  # the peak
    optimizer.schedule = "linear"
    optimizer.warmup_steps = 10_000
    optimizer.decay_steps = 0  # trapezoidal: steps of the final decay; 0: a tenth of the run
    optimizer.decay_shape = "linear"  # trapezoidal: of the final decay
    optimizer.final_fraction = 0.0  # of the peak, at the last step
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.epsilon = 1e-6
    optimizer.weight_decay = 0.01
    optimizer.clip_norm = 1.0  # global norm; 0: none

    train = config.train = ml_collections.ConfigDict()
    train.num_steps = 1_000_000
    train.num_tokens = 0  # instead of num_steps (then 0): rows x sequence_length x steps
    train.microbatches = 1  # parts of the batch whose gradients are summed before a step
    train.logits_chunk = 0  # predictions whose vocabulary logits a device holds at once; 0: all of a microbatch
    train.log_norms = False  # norms of each layer's gradient and output; a pass more on each step that is logged
    train.compilation_cache = "auto"  # where programs are kept: a directory, "" for nowhere, auto: jax's or the workdir
    train.log_every = 100
    train.eval_every = 10_000  # 0: never
    train.eval_batches = 32
    train.eval_batch_size = 0  # 0: data.batch_size
    train.checkpoint_every = 1_000
    train.keep_newest = 3
    train.keep_best = 1  # by eval/mlm_loss, or eval/rtd_loss, among the checkpoints of steps that were evaluated
    train.keep_every = 0  # every n-th step's checkpoint is kept for ever; a multiple of checkpoint_every
    train.tensorboard = True
    train.progress = True

    profile = config.profile = ml_collections.ConfigDict()
    profile.first_step = 10  # from where this process begins
    profile.num_steps = 0  # traced by the JAX profiler into WORKDIR/profile; 0: none

    config.lock()
    return config


def load_recipe(recipe: str) -> ml_collections.ConfigDict:
    """The config of a recipe given as a file (configs/bert_base.py) or by name (bert_base).

    Raises:
      UserError: no such recipe (the closest name is given), or the file has no get_config().
    """
    path = recipe_path(recipe)
    if path.suffix != ".py":
        raise UserError(f"--config={path}: not a recipe; expected a Python file with get_config()")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # a recipe is a program: anything may be wrong with it
        raise UserError(f"{path}: the recipe does not load: {_first_line(error)}") from error
    return config


def recipe_path(recipe: str) -> pathlib.Path:
    """Where a recipe given as a file or by name lies. Raises UserError if nowhere."""
    path = pathlib.Path(recipe)
    if path.is_file():
        return path
    package = pathlib.Path(__file__).parents[1]
    folders = [folder for folder in (package.parent / "configs", package / "configs") if folder.is_dir()]
    for folder in folders:
        named = folder / f"{recipe.removeprefix('configs/').removesuffix('.py')}.py"
        if named.is_file():
            return named
    names = sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
        if path.stem != "__init__"
    )
    raise UserError(f"--config={recipe}: no such file or recipe{closest(recipe, names)}; recipes: {', '.join(names)}")


def check_key(key: str, schema: ml_collections.ConfigDict | None = None) -> None:
    """Raises UserError, with the closest valid name, if a schema (base() by default) has no such dotted key."""
    keys = flat(base() if schema is None else schema)
    groups = {".".join(k.split(".")[:i]) for k in keys for i in range(1, k.count(".") + 1)}
    if key not in keys:
        expected = "a key inside this group" if key in groups else "a known key"
        raise UserError(f"config.{key}: unknown key, expected {expected}{closest(key, keys)}")


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for an unknown or ill-typed key, or a value that cannot work."""
    found = check_keys(config)
    _check_positive(found)
    _check_model(found)
    check_objective(found)
    check_optimizer(found)
    for phase in phases(config):
        _check_positive(flat(phase.data, "data."), phase.name)
        _check_data(phase.data, phase.name, found)
    _check_train(found)


def check_keys(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values by dotted key. Raises UserError for a recipe of fine-tuning, or an unknown or ill-typed key."""
    if "task" in config:
        raise UserError("--config: a fine-tuning recipe, for python -m bert_jax.finetune; expected one of pre-training")
    return check_schema(config, base(), CHOICES)


def check_schema(
    config: ml_collections.ConfigDict, schema: ml_collections.ConfigDict, choices: Mapping[str, tuple]
) -> dict[str, Any]:
    """The values of a config by dotted key.

    Args:
      config: to be checked.
      schema: a config with every key that it must have, and a default of the right type for each.
      choices: of the keys that have but a few values.

    Raises:
      UserError: an unknown, missing or ill-typed key, or a value that is none of its choices.
    """
    found = flat(config)
    for key in found:
        check_key(key, schema)
    for key, default in flat(schema).items():
        if key not in found:
            raise UserError(f"config.{key}: missing; expected a {type(default).__name__} such as {default!r}")
        check_type(f"config.{key}", found[key], default)
    for key, values in choices.items():
        _check_choice(f"config.{key}", found[key], values)
    return found


def check_devices(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises UserError if the mesh does not fit the devices or the batch does not divide among them."""
    batches = [(phase.data.batch_size, phase.name) for phase in phases(config)]
    key = "num_kv_heads" if config.model.num_kv_heads else "num_heads"
    heads = {f"model.{key}": config.model[key]}
    if facts(config).generator:
        own = config.generator.num_heads or config.model.num_heads
        heads["generator.num_heads"] = own * config.model[key] // config.model.num_heads
    check_layout(config, num_devices, heads, batches)


def check_layout(
    config: ml_collections.ConfigDict, num_devices: int, heads: Mapping[str, int], batches: Sequence[tuple[int, str]]
) -> None:
    """Raises UserError if the mesh does not fit the devices, or heads or batches do not divide among them.

    Args:
      config: with mesh, data.batch_size, train.microbatches and train.eval_batch_size.
      num_devices: there are.
      heads: of keys and values, of each model that the run has, by the key of the config that says their number.
      batches: rows of each global batch, and what follows them in a message.
    """
    sizes = {axis: config.mesh[axis] for axis in AXES}
    fixed = [size for size in sizes.values() if size != -1]
    found = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if len(fixed) < len(sizes) - 1 or any(size < 1 for size in fixed):
        raise UserError(
            f"config.mesh: found {found}; expected positive sizes, and -1 (what is left) for one axis at most"
        )
    product = math.prod(fixed)
    if (len(fixed) == len(sizes) and product != num_devices) or num_devices % product:
        raise UserError(
            f"config.mesh: {found.replace(', ', ' x ')} does not fit {num_devices} devices; "
            "set one axis to -1 to take what is left"
        )
    sizes = {axis: num_devices // product if size == -1 else size for axis, size in sizes.items()}
    parts = sizes["tensor"]
    for key, count in heads.items():
        if count % parts:
            raise UserError(
                f"config.mesh: tensor={parts} does not divide config.{key}={count}; expected one of "
                f"{', '.join(str(size) for size in range(1, count + 1) if count % size == 0)}"
            )
    shards = math.prod(sizes[axis] for axis in BATCH_AXES)
    for size, name in batches:
        per_step = config.train.microbatches * shards
        if size % per_step:
            raise UserError(
                f"config.data.batch_size: {size}{name} is not divisible by {shards} device shards x "
                f"{config.train.microbatches} microbatches = {per_step}; try {_next_multiple(size, per_step)}"
            )
    eval_batch = config.train.eval_batch_size or config.data.batch_size
    if eval_batch % shards:
        raise UserError(
            f"config.train.eval_batch_size: {eval_batch} is not divisible by {shards} device shards; "
            f"try {_next_multiple(eval_batch, shards)}"
        )


def check_whole(key: str, value: Any, where: str = "") -> None:
    """Raises UserError for a whole number that the arrays of a step cannot hold."""
    most = {"seed": 2**32 - 1, "train.num_tokens": 2**63 - 1}.get(key, MOST)  # jax drops a seed's higher bits
    if isinstance(value, int) and value > most:
        raise UserError(f"config.{key}: found {value}{where}; expected at most {most:,}")


def _check_positive(found, where=""):
    at_least_one = (
        "model.hidden_size", "model.num_layers", "model.num_heads", "model.intermediate_size",
        "model.max_positions", "model.group_layers", "model.conv_groups", "data.sequence_length", "data.batch_size",
        "data.pair_repeats", "data.dupe_factor", "data.span_max_words", "data.ngram_max", "train.microbatches",
        "train.log_every",
        "train.checkpoint_every", "train.keep_newest", "train.eval_batches",
    )  # fmt: skip
    for key, value in found.items():
        if key.startswith("mesh.") or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        check_whole(key, value, where)
        least = 1 if key in at_least_one else 0
        if not least <= value or not math.isfinite(value):  # NaN too
            raise UserError(f"config.{key}: found {value}{where}; expected a number of at least {least}")


def _check_model(found):
    model = {key.removeprefix("model."): value for key, value in found.items() if key.startswith("model.")}
    combinations.check(model)
    for key in ("model.hidden_dropout", "model.attention_dropout"):
        if found[key] >= 1:
            raise UserError(f"config.{key}: found {found[key]}; expected a rate in [0, 1)")
    dtype, dropout = found["model.dtype"], found["model.attention_dropout"]
    resolve_kernel(
        found["model.attention_kernel"],
        dtype=None if dtype == "auto" else dtype,
        head_size=model["head_size"] or model["hidden_size"] // model["num_heads"],
        dropout=dropout,
    )


def check_optimizer(found: Mapping[str, Any]) -> None:
    """Raises UserError for values of config.optimizer, by dotted key, that do not go together."""
    for key in ("optimizer.b1", "optimizer.b2"):
        if found[key] >= 1:
            raise UserError(f"config.{key}: found {found[key]}; expected a number in [0, 1), a moving mean's memory")
    epsilon = found["optimizer.epsilon"]
    if epsilon < _LEAST_EPSILON:
        raise UserError(
            f"config.optimizer.epsilon: found {epsilon}; expected at least {_LEAST_EPSILON}, without which a parameter "
            "whose gradients are zero is divided by zero"
        )
    if found["optimizer.final_fraction"] > 1:
        raise UserError(
            f"config.optimizer.final_fraction: found {found['optimizer.final_fraction']}; expected a share of the peak "
            "rate, at most 1"
        )
    shape, schedule = found["optimizer.decay_shape"], found["optimizer.schedule"]
    if shape != "linear" and schedule != "trapezoidal":
        raise UserError(
            f"config.optimizer.decay_shape: {shape} with config.optimizer.schedule={schedule}; expected linear, or "
            "schedule=trapezoidal, whose end it shapes"
        )


def _check_data(data, name, found):
    where = "config.data"
    for key, choices in CHOICES.items():
        if key.startswith("data."):
            _check_choice(f"config.{key}{name}", data[key.removeprefix("data.")], choices)
    longest, positions = found["data.sequence_length"], found["model.max_positions"]  # phases have at most the first
    if longest > positions:
        raise UserError(f"{where}.sequence_length: {longest} is over config.model.max_positions={positions}")
    resolve_kernel(found["model.attention_kernel"], sequence_length=data.sequence_length)
    least = 5 if data.format in PAIR_FORMATS else 3
    if data.sequence_length < least:
        raise UserError(f"{where}.sequence_length: {data.sequence_length}{name}; {data.format} needs at least {least}")
    pairs = pair_objective(found)
    if pairs and data.format not in PAIR_FORMATS:
        raise UserError(
            f"{where}.format: {data.format}{name} has no sentence pairs, but {pairs}=True; "
            f"expected {' or '.join(PAIR_FORMATS)}, or {pairs}=False"
        )
    if data.packing and data.format in PAIR_FORMATS:
        raise UserError(
            f"{where}.packing: True{name} with {where}.format={data.format}, whose pairs are not packed; expected "
            "format=full_sentences or doc_sentences (with config.objective.next_sentence=False), or packing=False"
        )
    if data.max_predictions > data.sequence_length:
        raise UserError(
            f"{where}.max_predictions: found {data.max_predictions}{name}; expected at most "
            f"{where}.sequence_length={data.sequence_length}"
        )
    if not all(isinstance(weight, int | float) for weight in data.weights):
        raise UserError(f"{where}.weights: found {tuple(data.weights)}{name}; expected numbers, one for each corpus")
    if not 0 < data.mask_rate < 1:
        raise UserError(f"{where}.mask_rate: found {data.mask_rate}{name}; expected a share in (0, 1)")
    if data.mask_token_share + data.random_token_share > 1 + 1e-9:
        raise UserError(
            f"{where}.mask_token_share + random_token_share: found "
            f"{data.mask_token_share + data.random_token_share}{name}; expected at most 1"
        )
    if data.short_target_share > 1:
        raise UserError(f"{where}.short_target_share: found {data.short_target_share}{name}; expected at most 1")
    if not 0 < data.span_p <= 1:
        raise UserError(f"{where}.span_p: found {data.span_p}{name}; expected a probability in (0, 1]")
    for unit, key in (("span", "span_max_words"), ("ngram", "ngram_max")):
        if data.mask_unit == unit and data[key] > _LONGEST_SPAN:
            raise UserError(f"{where}.{key}: found {data[key]}{name}; expected at most {_LONGEST_SPAN} words")
    if data.temperature < 0.1:  # whose powers of sizes may be infinite
        raise UserError(f"{where}.temperature: found {data.temperature}{name}; expected a number of at least 0.1")


def _check_train(found):
    if bool(found["train.num_steps"]) == bool(found["train.num_tokens"]):
        raise UserError(
            f"config.train.num_steps: found {found['train.num_steps']} with config.train.num_tokens="
            f"{found['train.num_tokens']}; expected one of them, and 0 for the other"
        )
    keep_every, every = found["train.keep_every"], found["train.checkpoint_every"]
    if keep_every % every:
        raise UserError(
            f"config.train.keep_every: {keep_every} is not a multiple of config.train.checkpoint_every={every}"
        )


def _check_choice(where, value, choices):
    if value not in choices:
        raise UserError(f"{where}: found {value!r}; expected one of {', '.join(choices)}")


def flat(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """The values of a config by dotted key."""
    found = {}
    for key in config:
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """Names of a config's key; ("a,b",), which --config.KEY=a,b makes, has two."""
    return tuple(names[0].split(",")) if len(names) == 1 else tuple(names)


def _next_multiple(number, of):
    return -(-number // of) * of


def _first_line(error):
    text = str(error)
    if text[:1] == text[-1:] and text[:1] in ("'", '"'):  # a KeyError's
        text = text[1:-1]
    line = (text.splitlines() or [""])[0].partition(" Other fields present")[0]
    return f"{type(error).__name__}: {line}"
