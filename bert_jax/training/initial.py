"""Takes a run's first parameters, and if asked for its architecture, from another model (config.init_from)."""

import pathlib
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bert_jax import _moved
from bert_jax import model as model_lib
from bert_jax.config.keys import NOT_ARCHITECTURE
from bert_jax.config.objective import facts
from bert_jax.data.vocabularies import new_tokens
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained, transfer
from bert_jax.objectives import Objective
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.checkpoints import is_average, saved_steps
from bert_jax.runs.models import open_model
from bert_jax.training import branch, transplant
from bert_jax.training.transplant import LONG, ROTARY


def source(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Pretrained | None:
    """Returns the model that the run in `workdir` starts from; None without init_from, or if it has a checkpoint.

    Raises:
      UserError: there is no such model, or config.model_from_init is set without config.init_from.
    """
    if config.model_from_init and not config.init_from:
        raise UserError("config.model_from_init: True, but config.init_from is empty; expected a model")
    if not config.init_from or saved_steps(workdir / "checkpoints"):
        return None
    return open_model(config.init_from) if config.init_state == "parameters" else branch.source(config)


@_moved.renamed_arguments(found="pretrained")
def resolve(
    config: ml_collections.ConfigDict, pretrained: Pretrained | None, workdir: pathlib.Path, given: Collection[str] = ()
) -> None:
    """Sets config.model to the architecture of init_from, in place, if config.model_from_init is set.

    Where config.data.sequence_length is longer than its rows, and no table or config.init_positions stands in the way,
    config.model.max_positions becomes that. Keys of rotary positions that the user has set stay as they are.

    Args:
      config: the run's config, as recipe and flags made it.
      pretrained: the result of `source`; if None, the architecture is the one that the workdir's run began with.
      workdir: the run's directory.
      given: dotted keys that the user has set; none of them is replaced by another value.

    Raises:
      UserError: the model does not have config.model's architecture and config.model_from_init is False; or it is True
        and the model has another value of a key in `given`.
    """
    if not config.model_from_init:
        if pretrained:
            _check(config, pretrained)
        _check_positions(config)
        return
    taken = pretrained.config if pretrained else workdir_lib.read(workdir)[1].model
    keys = (*_architecture(config), "pooler")
    asked = {key: config.model[key] for key in keys if f"model.{key}" in given}
    for key in _architecture(config):
        if key not in ROTARY or f"model.{key}" not in given:
            config.model[key] = taken[key]
    if config.init_layers and not config.model.layer_groups:
        config.model.num_layers = len(config.init_layers)
    pairs = config.objective.next_sentence or config.objective.sentence_order
    config.model.pooler = bool(pairs or taken["pooler"])
    _check_positions(config)
    longer = config.data.sequence_length > config.model.max_positions
    if pretrained and longer and (config.init_positions or not pretrained.model.spec.has_learned_positions):
        config.model.max_positions = config.data.sequence_length
        if pretrained.model.spec.has_relative_positions:  # whose distances are to stay the same
            config.model.relative_span = pretrained.model.spec.relative_span
    _check_given(config, asked, pretrained.name if pretrained else workdir)


@_moved.renamed_arguments(found="pretrained")
def params(
    config: ml_collections.ConfigDict,
    pretrained: Pretrained,
    model: model_lib.Model,
    tokenizer: Tokenizer,
    say: Callable[[str], None],
    objective: Objective | None = None,
) -> dict:
    """Returns the run's first parameters, taken from `pretrained`, with newly drawn heads where it has none.

    With config.init_layers, config.init_grow or config.init_long they are first converted to the run's model. A run
    that trains a generator starts it from that of init_from, if that run has one, and draws it otherwise.

    Vocabulary entries that the corpus has beyond the model's start as the mean of the rows of their pieces under the
    model's own tokenizer, in the word embedding and in the bias of the language-model head (Koto et al. 2021,
    IndoBERTweet, who found it the best start). Rows of an embedding beyond its vocabulary are left out.

    Args:
      config: the run's config, after `resolve`.
      pretrained: the result of `source`.
      model: the run's model.
      tokenizer: the corpus's tokenizer.
      say: called with a line that says what is taken, drawn and left out.
      objective: the run's objective; None if the model alone is trained.

    Raises:
      UserError: config.init_layers names a layer that init_from does not have, the corpus was prepared with another
        vocabulary, or a parameter has no place or another shape.
    """
    if not new_tokens.begins_with(tokenizer, pretrained.tokenizer):
        raise UserError(
            f"config.init_from={pretrained.name}: its vocabulary is not that of {config.data.corpus}; prepare "
            f"the corpus with --tokenizer={pretrained.name}"
        )
    grown, notes = _grown(pretrained, tokenizer)
    grown = _extended(config, pretrained, grown, model)
    notes += transplant.changes_of_positions(pretrained.model.spec, model.spec, config.init_positions)
    if config.init_long and model.spec.global_projections:
        grown = transplant.with_global_maps(grown)
        notes.append("maps of global tokens: copies of the others")
    grown, more = _transplanted(config, pretrained, grown, model)
    notes += more
    key = jax.random.split(jax.random.key(config.seed))[0]  # drawn heads are those of a run without init_from
    taken, fresh, left = transfer(grown, model, key)
    wrong = [name for name in (*fresh, *left) if name.startswith("encoder")]
    if wrong:
        raise UserError(
            f"config.init_from={pretrained.name}: {wrong[0]} ({len(wrong)} in all) is absent there or here, "
            f"or has another shape; expected a model of the same architecture"
            + (", sizes apart" if config.init_grow else "")
        )
    notes = [f"fresh: {', '.join(fresh)}"] * bool(fresh) + [f"left out: {', '.join(left)}"] * bool(left) + notes
    generator = None
    if objective and objective.facts.generator:
        generator = _generator(config, pretrained, tokenizer, objective, key)
        notes.append("its generator too" if generator else "a fresh generator")
    say(f"starts from {pretrained.name}" + "".join(f"; {note}" for note in notes))
    return objective.started(taken, key, generator) if objective else taken


def _transplanted(config, pretrained, params, model):
    """Returns the parameters converted to the run's sizes, and in words what was done."""
    shapes = model.shapes()
    if config.init_layers:
        num_layers = len(params["encoder"]["layers"])
        absent = [number for number in config.init_layers if number >= num_layers]
        if absent:
            raise UserError(
                f"config.init_layers: found {absent[0]}; expected layers of config.init_from={pretrained.name}, which "
                f"has 0 to {num_layers - 1}"
            )
        params = transplant.pick_layers(params, config.init_layers, shapes, model.spec.zero_centered_scale)
        notes = [f"its layers {', '.join(map(str, config.init_layers))}"]
        embeddings = params["encoder"]["embeddings"]
        if "token_type" in embeddings and not model.spec.type_vocab_size:
            kept = {name: part for name, part in embeddings.items() if name != "token_type"}
            params = params | {"encoder": params["encoder"] | {"embeddings": kept}}
            notes.append("left out: its token types")
        return params, notes
    if config.init_grow:
        small, large = pretrained.model.spec, model.spec
        grown = [key for key in transplant.SIZES if getattr(small, key) != getattr(large, key)]
        sizes = ", ".join(f"{key} from {getattr(small, key)} to {getattr(large, key)}" for key in grown)
        return transplant.grow(params, small, large, shapes), [f"grown: {sizes}"]
    return params, []


def _generator(config, discriminator, tokenizer, objective, key):
    """Returns the parameters of init_from's generator; None unless it is a run with one of the same sizes."""
    workdir, step = workdir_lib.split_step(config.init_from)
    if not workdir_lib.holds_run(workdir):
        return None
    source_config = workdir_lib.read(workdir_lib.to_path(workdir))[1]
    if "objective" not in source_config or not facts(source_config).generator:  # fine-tuning has no objective
        return None
    step = step if is_average(step) else discriminator.step  # a run that trains may have saved another one since
    pretrained = open_model(workdir, step, part="generator")
    grown = _extended(config, pretrained, _grown(pretrained, tokenizer)[0], objective.generator)
    taken, fresh, left = transfer(grown, objective.generator, key)
    return None if fresh or left else taken


def _extended(config, pretrained, params, model):
    """Returns the parameters with as many rows of a learned table of positions as the model has."""
    rows = model.spec.max_positions + model.spec.position_offset
    table = params["encoder"]["embeddings"].get("position")
    if table is None or not config.init_positions or len(table["embedding"]) == rows:
        return params
    offset = pretrained.model.spec.position_offset
    extended = np.asarray(
        transplant.extend_positions(jnp.asarray(table["embedding"]), rows, offset, config.init_positions)
    )
    embeddings = params["encoder"]["embeddings"] | {"position": {"embedding": extended}}
    return params | {"encoder": params["encoder"] | {"embeddings": embeddings}}


def _check_positions(config):
    learned = "learned" in config.model.positions.split("+")
    if config.init_positions and not learned:
        raise UserError(
            f"config.init_positions: {config.init_positions}, but config.model.positions={config.model.positions} has "
            "no learned table; expected none, and config.model.max_positions and rotary bases as wanted"
        )


def _architecture(config):
    """Returns the keys of config.model that init_from fixes."""
    own = LONG if config.init_long else ()
    return [key for key in config.model if key not in NOT_ARCHITECTURE and key not in own]


def _check_given(config, asked, source_name):
    """Raises UserError where the architecture that was taken has another value than the user has asked for."""
    wrong = [key for key, value in asked.items() if value != config.model[key] and not _same_size(config, key, value)]
    if wrong:
        asked_for, taken = (
            ", ".join(f"{key}={values[key]!r}" for key in wrong).replace("'", "") for values in (asked, config.model)
        )
        raise UserError(
            f"config.model: found {asked_for}, but config.model_from_init=True takes {taken} from {source_name}; "
            "expected these, or --config.model_from_init=False"
        )


def _same_size(config, key, value):
    """Returns whether one of the value and config.model's is a 0 that stands for the other."""
    if value and config.model[key]:
        return False
    sizes = config.model.to_dict() | {"vocab_size": 0}
    try:
        specs = [model_lib.build(sizes | {key: size}, 1, next_sentence=False).spec for size in (value, sizes[key])]
    except UserError:
        return False
    return getattr(specs[0], key) == getattr(specs[1], key)


def _check(config, pretrained):
    # 0 and the size that it stands for are the same; heads make no difference.
    spec = model_lib.build(config.model.to_dict() | {"vocab_size": 0}, 1, next_sentence=False).spec
    source_spec = pretrained.model.spec
    wrong = [key for key in _architecture(config) if config.model[key] != pretrained.config[key]]
    wrong = [key for key in wrong if getattr(spec, key) != getattr(source_spec, key)]
    if config.init_layers:
        lacks_types = spec.type_vocab_size == 0
        wrong = [key for key in wrong if key != "num_layers" and not (key == "type_vocab_size" and lacks_types)]
    if config.init_grow:
        _check_grows(pretrained, spec)
        wrong = [key for key in wrong if key not in transplant.SIZES]
    wrong = [key for key in wrong if key not in ROTARY]
    shorter = spec.max_positions < source_spec.max_positions
    if not source_spec.has_learned_positions or (config.init_positions and not shorter):
        wrong = [key for key in wrong if key != "max_positions"]
    if wrong:
        flags = " ".join(f"--config.model.{key}={getattr(source_spec, key)}" for key in wrong)
        source_sizes, own_sizes = (
            ", ".join(f"{key}={getattr(compared, key)}" for key in wrong) for compared in (source_spec, spec)
        )
        raise UserError(
            f"config.init_from={pretrained.name}: its model has {source_sizes}, but config.model has {own_sizes}; "
            f"expected {flags}, or --config.model_from_init=True, which takes them from there"
            + ("" if shorter or wrong != ["max_positions"] else ", or --config.init_positions=tile, which extends it")
            + (", or --config.init_long=True, which adds them" if set(wrong) <= set(LONG) else "")
        )


def _check_grows(pretrained, large):
    small = pretrained.model.spec
    for key in transplant.SIZES:
        large_size, small_size = getattr(large, key), getattr(small, key)
        if large_size < small_size:
            raise UserError(
                f"config.init_grow: config.model.{key} is {large_size}, smaller than the {small_size} of "
                f"config.init_from={pretrained.name}; expected a model that is nowhere smaller"
            )
    served = [spec.num_heads // spec.num_kv_heads for spec in (small, large)]
    if served[1] < served[0]:
        raise UserError(
            f"config.init_grow: {served[1]} heads share keys and values in config.model, {served[0]} in "
            f"config.init_from={pretrained.name}; expected as many or more"
        )
    if "rotary" in large.positions and large.head_size != small.head_size:
        raise UserError(
            f"config.init_grow: heads of {large.head_size} units in config.model, of {small.head_size} in "
            f"config.init_from={pretrained.name}; expected the same, as rotary positions give each unit "
            "its own frequency"
        )


def _grown(pretrained, tokenizer):
    """Returns the parameters with a row for each token of `tokenizer`, and in words what changed."""
    size, new = pretrained.tokenizer.vocab_size, tokenizer.vocab_size - pretrained.tokenizer.vocab_size
    word = np.asarray(pretrained.params["encoder"]["embeddings"]["word"]["embedding"])
    if not new and len(word) == size:
        return pretrained.params, []
    pieces = new_tokens.pieces(tokenizer, pretrained.tokenizer)

    def rows(table):
        table = np.asarray(table)[:size]
        means = [table[ids].mean(0, keepdims=True) if ids else table.mean(0, keepdims=True) for ids in pieces]
        return np.concatenate([table, *means])

    params = dict(pretrained.params)
    embeddings = params["encoder"]["embeddings"] | {"word": {"embedding": rows(word)}}
    params["encoder"] = params["encoder"] | {"embeddings": embeddings}
    if "mlm" in params:
        head = dict(params["mlm"])
        if "bias" in head:
            head["bias"] = rows(head["bias"])
        if "decoder" in head:
            head["decoder"] = {"embedding": rows(head["decoder"]["embedding"])}
        params["mlm"] = head
    notes = [f"{new:,} new vocabulary entries, each the mean of its pieces"] if new else []
    if len(word) > size:
        notes.append(f"{len(word) - size:,} rows of its word embedding that no token has are left out")
    return params, notes
