"""Begins a run with the parameters and the moments of another run's checkpoint (config.init_state).

Decay branches, context extension and other mixtures or objectives begin so (ModernBERT, EuroBERT and mmBERT do). The
branch saves a checkpoint before its first step, so that from then on it needs the other run no more.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.config.keys import DEVICE_DEFAULTS
from bert_jax.config.objective import facts
from bert_jax.config.run_phases import in_phase, num_steps, phase_at, phases
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model.parameters import leaves_by_name, path_name
from bert_jax.runs import checkpoints
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.models import load_tokenizer, vocabulary_settings
from bert_jax.training import step as step_lib
from bert_jax.training.transplant import changes_of_positions, extend_positions, is_position_table


def source(config: ml_collections.ConfigDict) -> Pretrained:
    """Returns the model of the checkpoint that config.init_from names, without its parameters.

    Raises:
      UserError: it is no pre-training run's workdir, or has no such checkpoint.
    """
    where = f"config.init_state={config.init_state}: config.init_from={config.init_from}"
    name, step = workdir_lib.split_step(config.init_from)
    kind = workdir_lib.read(workdir_lib.to_path(name))[0].get("kind") if workdir_lib.holds_run(name) else "model"
    if kind:
        folder_kind = "a run of fine-tuning" if kind == "finetune" else "no run's workdir"
        raise UserError(f"{where} is {folder_kind}; expected one of pre-training, or config.init_state=parameters")
    if checkpoints.is_average(step):
        raise UserError(f"{where} is an average, which has no moments; expected the step of one checkpoint")
    workdir = workdir_lib.to_path(name)
    step = checkpoints.find_step(workdir, step)
    settings, tokenizer = _settings(workdir, step)
    heads = objective_lib.heads(settings.objective)
    model = model_lib.build(settings.model, settings.model.vocab_size, **heads)
    return Pretrained(str(name), "", settings.model.to_dict(), model, {}, tokenizer, step=step)


def start(
    config: ml_collections.ConfigDict,
    source: Pretrained,
    learner: step_lib.Learner,
    tokenizer: Tokenizer,
    say: Callable[[str], None],
) -> tuple[dict, int]:
    """Returns the state that the branch begins with, and its number of steps done.

    Parameters, moments and the moments' count of updates are the checkpoint's; what it lacks, such as the head of
    another objective, is drawn and has moments of zero. The schedule goes on from the number of steps done.

    Args:
      config: the branch's config, after initial.resolve.
      source: the result of `source`.
      learner: a learner of the branch.
      tokenizer: the corpus's tokenizer.
      say: called with a line that says what is taken, drawn and left out.

    Raises:
      UserError: the vocabularies or the objectives' parameters differ, or the branch has no step left.
    """
    where = f"config.init_from={source.name}"
    if tokenizer.digest() != source.tokenizer.digest():
        raise UserError(
            f"{where}: its vocabulary is not that of {config.data.corpus}, and moments belong to its entries; prepare "
            f"the corpus with --tokenizer={source.name}, or set config.init_state=parameters"
        )
    workdir = workdir_lib.to_path(source.name)
    source_config = _settings(workdir, source.step)[0]
    _check_objective(config, source_config, where)
    done = source.step if config.init_state == "run" else 0
    if done >= num_steps(config):
        raise UserError(
            f"config.train.num_steps: found {num_steps(config)}, but {where} has done {done}; expected more, or "
            "config.init_state=moments, which begins at step 0"
        )
    mesh = learner.mesh
    old = step_lib.Learner.from_config(source_config, source.model, mesh, num_steps(source_config))
    template = old.saved(old.abstract_state())
    stored = checkpoints.load_state(
        workdir, source.step, {"params": template["params"], "opt_state": template["opt_state"]}
    )
    state = learner.init_state()
    own_state = learner.saved({"params": state["params"], "opt_state": state["opt_state"]})
    fit = functools.partial(_fitted, config, source.model.spec)
    fresh, left = _difference(own_state["params"], stored["params"], fit)
    wrong = [name for name in (*fresh, *left) if name.startswith("encoder")]
    if wrong:
        raise UserError(f"{where}: {wrong[0]} ({len(wrong)} in all) is absent there or here; expected the same model")
    moments = _moments(stored["opt_state"])
    if len(moments) != len(_moments(own_state["opt_state"])):
        raise UserError(
            f"{where}: its optimizer has {len(moments)} sets of moments, that of config.optimizer "
            f"{len(_moments(own_state['opt_state']))}; expected as many, or config.init_state=parameters"
        )
    begun = {
        "params": fit(own_state["params"], stored["params"]),
        "opt_state": _branched(own_state["opt_state"], iter(moments), done, fit),
    }
    notes = [
        f"{label}: {', '.join(_modules(names))}" for label, names in (("fresh", fresh), ("left out", left)) if names
    ]
    goes_on = in_phase(config, phase_at(phases(config), done)).model
    spec = model_lib.build(goes_on, goes_on.vocab_size, next_sentence=False).spec
    notes += changes_of_positions(source.model.spec, spec, config.init_positions)
    notes += [_goes_on(config, source_config, done)] if config.init_state == "run" else []
    say(f"branches from {source.name}, step {source.step:,}, with its moments" + "".join(f"; {note}" for note in notes))
    return state | learner.restored(begun), done


def _goes_on(config, source_config, done):
    """Returns in words where a branch goes on, and in which phase, where the other run's phases have other borders."""
    own_phases, source_phases = (phases(settings) for settings in (config, source_config))
    if [phase.stop for phase in own_phases] == [phase.stop for phase in source_phases]:
        return f"goes on at step {done:,}"
    own_phase, source_phase = phase_at(own_phases, done), phase_at(source_phases, max(0, done - 1))
    own_words, source_words = (
        f"phase {part.index + 1} of {len(run_phases)} (steps {part.start:,} to {part.stop:,})"
        for part, run_phases in ((own_phase, own_phases), (source_phase, source_phases))
    )
    return f"goes on at step {done:,}, in {own_words}, after {source_words}"


def _settings(workdir, step):
    """Returns the config that a run has at a step, completed and for the devices here, and its tokenizer."""
    settings = checkpoints.config_at(workdir, step)
    tokenizer = load_tokenizer(workdir)
    settings.model.update(vocabulary_settings(settings.model, tokenizer) | DEVICE_DEFAULTS)
    return settings, tokenizer


def _check_objective(config, source_config, where):
    def parts(settings):
        return settings.objective.embedding_sharing if facts(settings).generator else ""

    if parts(config) != parts(source_config):
        described = [
            f"objective.name={settings.objective.name}"
            + (f" with embedding_sharing={parts(settings)}" if parts(settings) else "")
            for settings in (source_config, config)
        ]
        raise UserError(
            f"{where}: its run has {described[0]}, this one {described[1]}, whose parameters and moments are others; "
            "expected the same, or config.init_state=parameters"
        )


def _is_moments(node):
    return hasattr(node, "mu") and hasattr(node, "nu")


def _moments(opt_state):
    """Returns the nodes of an optimizer's state that hold first and second moments, such as ScaleByAdamState."""
    return [node for node in jax.tree.leaves(opt_state, is_leaf=_is_moments) if _is_moments(node)]


def _branched(opt_state, moments, done, fit):
    """Returns an optimizer's state with moments taken from another's, and with a schedule that has done some steps."""

    def taken(node):
        if _is_moments(node):
            source_node = next(moments)
            counts = {"count": source_node.count} if hasattr(node, "count") else {}
            return node._replace(mu=fit(node.mu, source_node.mu), nu=fit(node.nu, source_node.nu), **counts)
        if isinstance(node, optax.ScaleByScheduleState):
            count: Any = node.count
            return node._replace(count=sharding.put(np.int32(done), count.sharding))
        return node

    def is_leaf(node):
        return _is_moments(node) or isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(taken, opt_state, is_leaf=is_leaf)


def _fitted(config, spec, template, source):
    """Returns a tree like `template` with the leaves of `source` of the same name, where they have the same shape."""
    source_leaves = leaves_by_name(source)

    def fitted(path, leaf):
        source_leaf = source_leaves.get(path_name(path))
        if source_leaf is not None and source_leaf.shape == leaf.shape:
            return source_leaf
        if source_leaf is None or not (config.init_positions and is_position_table(path_name(path))):
            return leaf
        extend = functools.partial(
            extend_positions, rows=leaf.shape[0], offset=spec.position_offset, rule=config.init_positions
        )
        return jax.jit(extend, out_shardings=leaf.sharding)(source_leaf)

    return jax.tree_util.tree_map_with_path(fitted, template)


def _difference(template: Mapping, source: Mapping, fit) -> tuple[list[str], list[str]]:
    """Returns the names of the leaves that `fit` leaves as they are, and of those that it has no place for."""
    fitted, before = leaves_by_name(fit(template, source)), leaves_by_name(template)
    fresh = sorted(name for name, leaf in fitted.items() if leaf is before[name])
    return fresh, sorted(leaves_by_name(source).keys() - before.keys())


def _modules(names):
    return sorted({name.split("/")[0] for name in names})
