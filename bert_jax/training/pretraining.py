"""Pre-trains, from top to bottom: check, open, build, restore, train."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Sequence

import jax
import ml_collections
import numpy as np

from bert_jax import config as config_lib
from bert_jax import sharding, storage
from bert_jax.data import loader, mixture, verification
from bert_jax.data.corpus import Corpus
from bert_jax.errors import UserError
from bert_jax.interop.pretrained import Pretrained
from bert_jax.processes import distributed, host_memory
from bert_jax.runs import checkpoint_files, identity
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.checkpoints import Checkpoints
from bert_jax.runs.claim import claim
from bert_jax.runs.loggers import check_installed, say
from bert_jax.runs.models import vocabulary_settings
from bert_jax.training import branch, compiler, initial, loop, lowering, memory, runtime
from bert_jax.training import step as step_lib
from bert_jax.training.adaptation import Adaptation
from bert_jax.training.evaluation import Evaluation
from bert_jax.training.next_phase import NextPhase, Step
from bert_jax.training.norms import norms_step
from bert_jax.training.samples import predicted_tokens
from bert_jax.training.teacher import Teacher
from bert_jax.training.teacher import read as read_teacher


def pretrain(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    recipe: ml_collections.ConfigDict | None = None,
    given: Collection[str] = (),
) -> None:
    """Trains as the config says, or continues the run that the workdir holds; returns when it is done.

    SIGTERM, SIGINT or SIGHUP ends it early, after the current step and with a checkpoint; a second one ends it at once.
    Each process of a multi-process run calls this, after distributed.initialize; one of them writes the files.

    Args:
      config: the config of a recipe.
      workdir: a local directory, or gs://BUCKET/FOLDER; see runs/workdir.py for its files.
      recipe: the config of the recipe as it was before it was changed; warnings and the report compare with it.
      given: dotted keys that the user has set, beside those in which the config differs from `recipe`.

    Raises:
      UserError: config, corpus, workdir and devices do not go together; the loss is not finite; or the last
        checkpoint could not be saved.
    """
    given = {*given, *_changed(config, recipe)}
    config, workdir, source = _check(config, workdir, given)
    inputs = _open(config, workdir, source)
    with (
        claim(workdir),
        runtime.compilation_cache(config.train.compilation_cache, workdir),
        memory.explained(inputs.steps),
    ):
        run = _build(config, workdir, inputs)
        run.recipe = recipe
        state, done, begins = _restore(run, inputs, source)
        del source, inputs  # parameters as large as the model
        _train(run, state, done, begins)


@dataclasses.dataclass
class _Inputs:
    """Holds the mesh, the corpora and the teacher, if there is one, of a run, and what its steps are made of."""

    mesh: jax.sharding.Mesh
    corpora: Sequence[Corpus]
    teacher: Teacher | None
    steps: lowering.PretrainingSteps

    @property
    def teacher_identity(self):
        """Returns the name and digest of the teacher; None without one."""
        return self.teacher.identity if self.teacher else None


def _changed(config, recipe):
    """Returns the keys in which the config differs from its recipe; none where that is not known."""
    if recipe is None:
        return []
    before = config_lib.flat(recipe)
    return [key for key, value in config_lib.flat(config).items() if key in before and value != before[key]]


def _check(config, workdir, given) -> tuple[ml_collections.ConfigDict, pathlib.Path, Pretrained | None]:
    """Completes the config, and checks that it is consistent and fits the devices.

    Returns:
      (a copy of the config, whose config.model is complete except for vocab_size, the workdir's path, the model of
      config.init_from that a run without checkpoints starts from).
    """
    config = config.copy_and_resolve_references()
    workdir = workdir_lib.to_path(workdir, "--workdir=")
    identity.check_kind(workdir)
    config_lib.check_keys(config)
    kept = identity.keep_values_before(workdir, config)
    if kept:
        say(kept)
    source = initial.source(config, workdir)
    initial.resolve(config, source, workdir, given)
    config_lib.validate(config)
    check_installed(config)
    config_lib.check_devices(config, jax.device_count())
    if jax.default_backend() == "cpu":
        host_memory.keep_freed_memory()
    return config, workdir, source


def _open(config, workdir, source) -> _Inputs:
    """Opens corpora and teacher, and refuses a workdir of another run and steps that do not fit into memory.

    Completes config.model.vocab_size and mask_id, and config.train.microbatches.
    """
    mesh = sharding.make_mesh(config.mesh)
    corpora = mixture.open_corpora(config)
    for corpus in corpora:
        verification.verify(corpus)
    config.model.update(vocabulary_settings(config.model, corpora[0].tokenizer))
    _check_padding(config, corpora[0].tokenizer)
    teacher = read_teacher(config, mesh, corpora[0].tokenizer)
    network, shapes = (teacher.model, jax.eval_shape(lambda: teacher.params)) if teacher else (None, None)
    teacher_identity, step = teacher.identity if teacher else None, source.step if source else None
    identity.check_same_run(workdir, config, corpora, teacher_identity, step)
    identity.check_run(workdir, config, corpora, teacher_identity)
    loader.check_memory(config, jax.process_count())
    learners = step_lib.phase_learners(config, mesh, network)
    inputs = _Inputs(mesh, corpora, teacher, lowering.PretrainingSteps(config, mesh, network, shapes, learners))
    memory.check(inputs.steps, say, memory.begun_microbatches(workdir))
    return inputs


def _build(config, workdir, inputs) -> "_Pretraining":
    """Builds indexes and steps from the learner of each phase; writes nothing into the workdir."""
    # `_open` looked minutes ago; until this run claimed the workdir, another launch may have begun one there.
    identity.check_run(workdir, config, inputs.corpora, inputs.teacher_identity)
    distributed.first_then_all(lambda: loader.prepare_indexes(config))
    of_phases = inputs.steps.learners
    made = {learner: learner.in_microbatches(config.train.microbatches) for learner in dict.fromkeys(of_phases)}
    learners = [made[learner] for learner in of_phases]  # memory.check may have divided the batch
    return _Pretraining(config, workdir, learners, inputs)


def _restore(run, inputs, source) -> tuple[dict, int, bool]:
    """Makes the workdir this run's; returns the state to train from, the number of steps done, whether the run begins.

    The state is that of the newest checkpoint; where there is none, it is drawn, and parameters (of a branch, moments
    too) are taken from `source`, the model of config.init_from, if it is given.
    """
    config, learner, tokenizer = run.config, run.learner, inputs.corpora[0].tokenizer
    template = learner.saved(learner.abstract_state())
    start = begun = None
    if source and config.init_state == "parameters":
        start = initial.params(config, source, learner.model, tokenizer, say, learner.objective)
    elif source:
        begun = branch.start(config, source, learner, tokenizer, say)
    origin = {"workdir": source.name, "step": source.step} if source and begun else None
    distributed.run_on_first(
        lambda: workdir_lib.write_pretraining(
            run.workdir,
            config,
            inputs.corpora,
            inputs.teacher_identity,
            origin,
            begins=not checkpoint_files.has_checkpoints(run.workdir),
        )  # fmt: skip
    )
    if begun:
        return *begun, True
    restored = run.checkpoints.restore(template)
    if restored:
        state, done = restored
        state = learner.restored(state)
        state["bad_step"] = sharding.put(np.int32(-1), template["bad_step"].sharding)
        return state, done, False
    state = learner.init_state()
    if start:
        start = sharding.put(start, jax.tree.map(lambda leaf: leaf.sharding, template["params"]))
        state["params"] = learner.restored(start)
    return state, 0, True


def _train(run, state, done, begins) -> None:
    """Trains from step `done` on, and says how it ended. `begins`: whether the run has no checkpoint yet."""
    if done >= run.num_steps:
        say(f"nothing to do: step {done:,} of {run.num_steps:,} is done; its checkpoint is in {run.workdir}")
        return
    described = loop.describe_model(run.learner.model, state["params"])
    say(f"{described}; step {done:,} of {run.num_steps:,}, in {run.workdir}")
    for line in compiler.lines(run.learner.mesh):
        say(line)
    for phase, pairs, corpus, share in loader.text_shares(run.config, done):
        say(f"rows of {pairs}{phase} hold {share:.1%} of the text of {corpus}")
    run.warn(begins)
    run.begin(state, begins)
    if begins and run.config.init_state != "parameters":
        run.save(state, done, {})  # from here on the run that it branched from is not needed
    try:
        held_out = loop.train(run, state, done)
    finally:
        run.cancel_compilation()
    if held_out is not None:
        words = [f"done: step {run.num_steps:,}", *([run.learner.objective.summary(held_out)] if held_out else [])]
        say("; ".join([*words, f"checkpoint in {run.workdir / 'checkpoints' / str(run.num_steps)}"]))


class _Pretraining(loop.Run):
    """Is pre-training as the loop runs it."""

    def __init__(self, config, workdir, learners, inputs):
        self.config, self.workdir, self.learner, self.mesh = config, workdir, learners[0], learners[0].mesh
        self._phases = config_lib.phases(config)
        self.num_steps = self._phases[-1].stop
        self.checkpoints = Checkpoints(workdir, config, say, self.learner.objective.facts.best_metric)
        self.headline = self.learner.objective.headline
        teacher_params = ()
        if inputs.teacher:
            params = inputs.teacher.params
            teacher_params = (sharding.put(params, sharding.tree_shardings(params, self.mesh)),)
        made = {learner: _programs(learner, config, teacher_params) for learner in dict.fromkeys(learners)}
        self._programs = [made[learner] for learner in learners]  # by phase
        self._choose_programs(0)
        steps = inputs.steps  # the inputs have parameters as large as the model
        self._next_phase = NextPhase(
            self._phases, self._step_and_shapes, lambda phase: steps.step_arguments(phase, learners[phase.index])
        )
        self.key = self.learner.dropout_key
        self._hosts = sharding.hosts_of_rows(self.mesh)
        self._evaluation = Evaluation(
            config, inputs.corpora, lambda step: self._programs_at(step).eval_step, self.put, self._hosts
        )
        self._tokenizer = inputs.corpora[0].tokenizer
        self._evaluates = config.train.eval_every > 0 and self._evaluation.possible
        self._adaptation = None
        if config.data.old_corpus:
            self._adaptation = Adaptation(workdir, self._evaluation, self.num_steps, say)

    def _programs_at(self, step):
        return self._programs[config_lib.phase_at(self._phases, step).index]

    def enter(self, index):
        self._choose_programs(index)
        self._next_phase.before(index)

    def _choose_programs(self, index):
        self._current = self._programs_at(index)
        self.train_step, self.norms = self._current.train_step, self._current.norms

    def is_compiled(self, batch):
        return self._current.train_step.is_compiled(batch)

    def cancel_compilation(self):
        """Keeps the next phase's step from being compiled if that has not begun."""
        self._next_phase.cancel()

    def _step_and_shapes(self, phase):
        shapes = lowering.batch_shapes(self.config, phase.data)
        return self._programs[phase.index].train_step, {name: shape for name, (shape, _) in shapes.items()}

    def begin(self, state, begins):
        """Evaluates before the first step, where the run reports on old text; `begins`: it has no checkpoint yet."""
        if self.config.train.eval_every and not self._evaluates:
            say("no document of the corpus is held out: no evaluation")
        if self._adaptation:
            self._adaptation.before(state["params"], begins)

    def batches(self, done):
        return iter(loader.Loader(self.config, done, *self._hosts))

    def flops(self, batch):
        return self.learner.objective.flops(batch)

    def due(self, done):
        settings, last = self.config.train, done == self.num_steps
        evaluates = self._evaluates and (done % settings.eval_every == 0 or last)
        return evaluates, done % settings.checkpoint_every == 0 or last

    def check(self, state, done, saves):
        bad = int(jax.device_get(state["bad_step"]))
        if bad < 0 and saves and not step_lib.all_finite(state["params"]):
            bad = done - 1
        if bad < 0:
            return
        rows = loader.describe_batch(self.config, bad)
        path = self.workdir / f"nonfinite-{bad + 1}.txt"
        if distributed.is_first():
            with contextlib.suppress(OSError):  # a full disk must not hide what happened
                storage.write_text(path, "".join(f"{row}\n" for row in rows))
        self.checkpoints.finish_save()
        raise UserError(
            f"step {bad + 1}: the loss, a gradient or a parameter is not finite; its batch "
            f"(bert_jax.data.batch_at(config, {bad})) has {rows[0]}; ... ({len(rows)} rows, listed in {path}); "
            f"{loop.last_good(self.checkpoints)}"
        )

    def evaluate(self, state, done):
        return state, self._evaluation(state["params"], done)

    def samples(self, state):
        if not self._evaluates:
            return []
        batch = self._evaluation.first_batch(self.num_steps)
        return predicted_tokens(self.learner.objective, state["params"], batch, self._tokenizer, self.mesh)

    def save(self, state, done, held_out):
        if self._adaptation and done == self.num_steps:
            self._adaptation.after(held_out or self._evaluation(state["params"], done))
        self.checkpoints.save(done, self.learner.saved(state), held_out, self._record(done))

    def _record(self, done):
        """Returns what differs from config.json at this step: the model's settings of the phase; None if nothing."""
        if not any(name.startswith("model.") for phase in self._phases for name in phase.settings):
            return None
        settings = config_lib.phase_at(self._phases, max(0, done - 1)).settings
        return {"settings": {name: value for name, value in settings.items() if name.startswith("model.")}}


def _check_padding(config, tokenizer):
    first, padding = config.model.position_offset, tokenizer.pad_id
    if first and padding != first - 1:
        raise UserError(
            f"config.model.position_offset: found {first}, but the padding token of config.data.corpus="
            f"{config.data.corpus} has id {padding}, and positions are counted from the id behind it; expected "
            f"{padding + 1}, or 0 for positions from 0"
        )


@dataclasses.dataclass(frozen=True)
class _Programs:
    """Holds the compiled programs of a phase; `norms` is None where none are logged."""

    train_step: Step
    eval_step: Callable
    norms: Callable | None


def _programs(learner, config, teacher_params):
    norms = Step(norms_step(learner), teacher_params) if config.train.log_norms else None
    return _Programs(Step(learner.train_step(), teacher_params), learner.eval_step(), norms)
