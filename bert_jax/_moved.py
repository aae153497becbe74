"""Keeps imports from a module's old place working: the one list of what has moved, and where to.

`bert_jax` installs `MovedModules` behind the ordinary import system, so a module that still exists is never touched.
Renamed arguments and members stand where they are defined, by `renamed_arguments` and `renamed_members`.
"""

import dataclasses
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import operator
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

# Old module -> the modules that its names are in today, searched in order. Names are below bert_jax.
MODULES = {
    "clusters": ("processes.clusters",),
    "combinations": ("config.architecture",),
    "data.beam": ("data.preparation.beam",),
    "data.chunks": ("data.vocabularies.chunks",),
    "data.joining": ("data.preparation.joining",),
    "data.json_lines": ("files",),
    "data.new_tokens": ("data.vocabularies.new_tokens",),
    "data.packs": ("data.packing",),
    "data.preparation": ("data.preparation.pipeline",),
    "data.published": ("data.vocabularies.published", "data.vocabularies.tokenizer_classes"),
    "data.python_docs": ("data.preparation.python_docs",),
    "data.sentencepiece_models": ("data.vocabularies.sentencepiece_models",),
    "data.sentences": ("data.preparation.sentences",),
    "data.shards": ("data.preparation.shards",),
    "data.sources": ("data.preparation.sources", "data.preparation.readers"),
    "data.storage": ("storage",),
    "data.tokenizer_training": ("data.vocabularies.training",),
    "data.tokenizers": (
        "data.vocabularies.loading",
        "data.vocabularies.hugging_face",
        "data.vocabularies.tokenizer",
    ),
    "distributed": ("processes.distributed",),
    "finetune_config": ("config.finetuning",),
    "finetuning.memory": ("finetuning.lowering",),
    "kernel_choice": ("config.kernels",),
    "mesh_axes": ("config.mesh",),
    "objective_config": ("config.objective",),
    "phases": ("config.run_phases",),
    "planning.apart": ("planning.isolated",),
    "schema": ("config.schema",),
    "signals": ("processes.signals",),
    "training.checkpoint": ("runs.checkpoints",),
    "training.compilation_cache": ("training.runtime",),
    "training.cross_entropy": ("objectives.cross_entropy",),
    "training.distillation": ("objectives.distillation",),
    "training.finetuning": ("finetuning.run",),
    "training.flops": ("model.flops",),
    "training.host_memory": ("processes.host_memory", "training.runtime"),
    "training.language_modeling": ("objectives.language_modeling",),
    "training.metrics": ("runs.loggers",),
    "training.models": ("runs.models",),
    "training.objective": ("objectives",),
    "training.outcomes": ("runs.outcomes",),
    "training.padding": ("training.throughput",),
    "training.replaced_tokens": ("objectives.replaced_tokens",),
    "training.seeds_step": ("finetuning.step",),
    "training.step_sizes": ("training.lowering",),
    "training.task_objective": ("finetuning.losses",),
    "training.timing": ("training.throughput",),
    "training.tuning": ("finetuning.trainable",),
    "training.workdir": ("runs.workdir",),
}

# Old name, "module.name" below bert_jax -> the module and the name that it has today. The module may still exist.
NAMES: dict[str, tuple[str, str]] = {
    "data.rows.second_begins": ("data.rows", "second_start"),
    "data.tasks.classification.Labels": ("data.tasks.labels", "Labels"),
    "data.tasks.classification.class_id": ("data.tasks.labels", "class_id"),
    "data.tasks.metrics.OF_PROBLEM": ("data.tasks.metrics", "METRICS"),
    "data.tasks.metrics.chosen": ("data.tasks.metrics", "choose"),
    "data.tasks.schemes.first_that_marks_none": ("data.tasks.schemes", "first_non_entity_tag"),
    "data.tasks.schemes.uniform": ("data.tasks.schemes", "convert"),
    "data.tasks.spans.most_context": ("data.tasks.spans", "max_context"),
    "data.vocabularies.published.names_beside": ("data.vocabularies.published", "special_token_names"),
    "data.tasks.records.names_beside": ("data.tasks.records", "output_names"),
    "data.loader.Source": ("data.stream", "Source"),
    "data.loader.instance_recipe": ("data.stream", "instance_recipe"),
    "data.instances.open_array": ("data.array_files", "open_array"),
    "data.loader.mixture_shares": ("data.mixture", "mixture_shares"),
    "data.loader.open_corpora": ("data.mixture", "open_corpora"),
    "data.loader.prediction_slots": ("data.stream", "prediction_slots"),
    "data.loader.unigram_counts": ("data.mixture", "unigram_counts"),
    "data.packs.build": ("data.packing", "build_packs"),
    "diagnosis.causes.fill_rows": ("diagnosis.causes", "padding_advice"),
    "diagnosis.causes.sentences": ("diagnosis.causes", "describe"),
    "diagnosis.corpora.find": ("diagnosis.corpora", "find_corpora"),
    "diagnosis.corpora.shares": ("diagnosis.corpora", "mixture_shares"),
    "diagnosis.curves.blocks": ("diagnosis.curves", "block_medians"),
    "diagnosis.finetuning.NEAR_CHANCE": ("diagnosis.near_chance", "NEAR_CHANCE"),
    "diagnosis.finetuning.SAME_ANSWER": ("diagnosis.near_chance", "SAME_ANSWER"),
    "diagnosis.finetuning.near_chance": ("diagnosis.near_chance", "near_chance"),
    "diagnosis.finetuning.no_better_than_scratch": ("diagnosis.scratch", "no_better_than_scratch"),
    "diagnosis.finetuning.headline": ("diagnosis.finetuning", "score_summary"),
    "diagnosis.held_out.is_worse": ("diagnosis.held_out", "overfits"),
    "diagnosis.learning.Now": ("diagnosis.learning", "CurrentLoss"),
    "diagnosis.learning.falling": ("diagnosis.learning", "is_falling"),
    "diagnosis.learning.now": ("diagnosis.learning", "current_loss"),
    "diagnosis.learning.state": ("diagnosis.learning", "learning_state"),
    "diagnosis.report.in_words": ("diagnosis.report", "format_report"),
    "files.object_line": ("files", "json_line"),
    "finetuning.losses.count": ("finetuning.losses", "loss_denominator"),
    "finetuning.losses.outputs": ("finetuning.losses", "task_outputs"),
    "finetuning.run.Outputs": ("finetuning.results", "Outputs"),
    "finetuning.step.all_finite": ("finetuning.state", "all_finite"),
    "finetuning.trainable.adapters": ("finetuning.trainable", "init_adapters"),
    "finetuning.trainable.check": ("finetuning.trainable", "check_tuning"),
    "finetuning.trainable.effective": ("model.parameters", "merge_adapters"),
    "finetuning.trainable.layer_share": ("finetuning.trainable", "rate_multiplier"),
    "finetuning.trainable.merge": ("model.parameters", "merge_trees"),
    "finetuning.trainable.passes": ("finetuning.trainable", "forward_passes"),
    "finetuning.trainable.reinitialised": ("finetuning.trainable", "reinitialised_pattern"),
    "finetuning.trainable.split": ("finetuning.trainable", "split_params"),
    "finetuning.trainable.start": ("model.parameters", "fit_parameters"),
    "processes.clusters.find": ("processes.clusters", "detect"),
    "processes.distributed.Notice": ("processes.distributed", "StopNotice"),
    "processes.distributed.agreed": ("processes.distributed", "broadcast"),
    "processes.distributed.call_off": ("processes.distributed", "cancel"),
    "processes.distributed.check": ("processes.distributed", "raise_on_all"),
    "processes.distributed.gathered": ("processes.distributed", "all_gather"),
    "processes.distributed.leave": ("processes.distributed", "exit_now"),
    "processes.distributed.meet": ("processes.distributed", "barrier"),
    "processes.distributed.once": ("processes.distributed", "run_on_first"),
    "processes.distributed.several": ("processes.distributed", "is_multiprocess"),
    "processes.distributed.speaks": ("processes.distributed", "reports_errors"),
    "processes.distributed.where": ("processes.distributed", "process_label"),
    "processes.signals.ending": ("processes.signals", "exit_on_sigterm"),
    "processes.signals.live_as_long_as_the_parent": ("processes.signals", "end_with_parent"),
    "runs.checkpoints.find": ("runs.checkpoints", "find_step"),
    "runs.checkpoints.judged": ("runs.checkpoints", "selection_loss"),
    "runs.checkpoints.load": ("runs.checkpoints", "load_params"),
    "runs.checkpoints.record": ("runs.checkpoints", "load_record"),
    "runs.checkpoints.steps_in": ("runs.checkpoints", "saved_steps"),
    "runs.loggers.MetricsObject": ("runs.loggers", "RemoteMetricsFile"),
    "runs.models.fine_tuned": ("runs.models", "build_fine_tuned"),
    "runs.models.tokenizer_of": ("runs.models", "load_tokenizer"),
    "diagnosis.causes.figures": ("diagnosis.causes", "metrics"),
    "diagnosis.finetuning.settings_figures": ("diagnosis.finetuning", "settings_metrics"),
    "runs.outcomes.figures_row": ("runs.outcomes", "metrics_row"),
    "runs.outcomes.table": ("runs.outcomes", "format_table"),
    "runs.workdir.check": ("runs.identity", "check_run"),
    "runs.workdir.check_config": ("runs.identity", "check_config"),
    "runs.workdir.check_run": ("runs.identity", "check_run"),
    "runs.workdir.check_same_run": ("runs.identity", "check_same_run"),
    "runs.workdir.claim": ("runs.claim", "claim"),
    "runs.workdir.path_of": ("runs.workdir", "to_path"),
    "runs.workdir.tokenizer_of": ("runs.workdir", "local_tokenizer"),
    "runs.workdir.whole": ("storage", "atomic_open"),
    "runs.workdir.write": ("runs.workdir", "write_pretraining"),
    "inference.predictor.heads": ("inference.predictor", "head_names"),
    "inference.windows.cut": ("inference.windows", "overlapping_windows"),
    "inference.windows.grouped": ("inference.windows", "group_by_text"),
    "inference.windows.single": ("inference.windows", "rows_of_text"),
    "interop.families.bert.AROUND": ("interop.families.bert", "LAYER_REST"),
    "interop.families.bert.with_pooled_task": ("interop.families.bert", "heads_with_pooled_task"),
    "interop.families.family.dropout_of": ("interop.families.family", "read_dropout"),
    "interop.families.family.has": ("interop.families.family", "has_prefix"),
    "interop.families.family.refuse": ("interop.families.family", "unsupported"),
    "interop.families.family.spelled": ("interop.families.family", "activation_name"),
    "interop.families.roberta.task_of": ("interop.families.roberta", "task_from_names"),
    "interop.formats.choose": ("interop.formats", "choose_family"),
    "interop.formats.encoder_of": ("interop.formats", "encoder_only"),
    "interop.formats.head_of": ("interop.formats", "task_head"),
    "interop.formats.nameless_heads": ("interop.formats", "inexpressible_heads"),
    "interop.huggingface.table_of": ("interop.huggingface", "weight_table"),
    "interop.weights.canonical": ("interop.weights", "canonical_name"),
    "interop.weights.known": ("interop.weights", "count_known"),
    "model.attention.context_of": ("model.attention", "make_context"),
    "model.attention.kernel_of": ("model.attention", "choose_kernel"),
    "model.encoder.layer_seeds": ("model.encoder", "seeds_per_layer"),
    "model.flops.peak_of": ("model.flops", "peak_flops_of_kind"),
    "model.kernels.Visibility": ("model.kernels", "AttentionMask"),
    "model.kernels.padding_last": ("model.kernels", "padding_last_order"),
    "model.kernels.reordered": ("model.kernels", "reorder"),
    "model.kernels.weights": ("model.kernels", "attention_weights"),
    "model.kernels.windowed": ("model.kernels", "windowed_attention"),
    "model.layers.dropout_seeds": ("model.dropout", "dropout_seeds"),
    "model.layouts.ROWS": ("config.mesh", "BATCH_AXES"),
    "model.layouts.constrained": ("model.layouts", "constrain"),
    "model.layouts.parts": ("model.layouts", "num_shards"),
    "model.layouts.split_mesh": ("model.layouts", "active_mesh"),
    "model.positions.by_key": ("model.positions", "relative_shift"),
    "model.positions.distance_rows": ("model.positions", "relative_table_size"),
    "model.positions.rotated": ("model.positions", "apply_rotary"),
    "model.positions.rotations": ("model.positions", "rotary_angles"),
    "model.positions.rows_of_distances": ("model.positions", "relative_rows"),
    "model.stack.Segment": ("model.stack", "LayerPattern"),
    "model.stack.segments_of": ("model.stack", "layer_patterns"),
    "model.stack.sources_of": ("model.stack", "parameter_layers"),
    "training.compilation_cache.used": ("training.runtime", "compilation_cache"),
    "training.flops.peak_of": ("model.flops", "peak_flops_of_kind"),
    "config.CHOICES": ("config.deprecated", "CHOICES"),
    "config.MOST": ("config.deprecated", "MOST"),
    "config.check_schema": ("config.deprecated", "check_schema"),
    "config.check_whole": ("config.deprecated", "check_whole"),
    "finetune_config.CHOICES": ("config.deprecated", "FINETUNING_CHOICES"),
    "objective_config.GENERATOR_SIZES": ("config.keys", "GENERATOR_SIZES"),
    "training.runtime.keep_freed_memory": ("processes.host_memory", "keep_freed_memory"),
    "training.workdir.MAY_CHANGE": ("config.keys", "RESUMABLE"),
    "runs.workdir.write_json": ("storage", "write_json"),
    "runs.workdir.write_text": ("storage", "write_text"),
    "training.loop.described": ("training.loop", "describe_model"),
    "training.loop.pretrain": ("training.pretraining", "pretrain"),
    "training.padding.shares": ("training.throughput", "padding_shares"),
}


def find(module: str, name: str) -> object:
    """Returns what `name` of the old module `module` (below bert_jax) is today. Raises AttributeError."""
    if f"{module}.{name}" in NAMES:
        home, today = NAMES[f"{module}.{name}"]
        return getattr(importlib.import_module(f"bert_jax.{home}"), today)
    if _is_submodule(module, name):  # "from package import module" asks for it before it imports the module
        raise AttributeError(f"module 'bert_jax.{module}' has not imported {name!r}")
    for home in MODULES.get(module, ()):
        members = vars(importlib.import_module(f"bert_jax.{home}"))
        if name in members:
            return members[name]
        if f"{home}.{name}" in NAMES:  # renamed after it moved
            return find(home, name)
    raise AttributeError(f"module 'bert_jax.{module}' has no attribute {name!r}")


def renamed_arguments(**today: str) -> Callable[[F], F]:
    """Returns a decorator that makes a function accept keyword arguments under their old names too.

    The function's name, docstring and signature stay as they are: `inspect` shows today's arguments alone.

    Args:
      today: maps an argument's old name to the name that it has today.
    """

    def decorate(function):
        @functools.wraps(function)
        def accepting_old_names(*args, **kwargs):
            for old in today.keys() & kwargs:
                if today[old] in kwargs:
                    raise TypeError(
                        f"{function.__qualname__}() got {old!r} and {today[old]!r}, which are old and new name of one "
                        f"argument; expected {today[old]!r} alone"
                    )
                kwargs[today[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        vars(accepting_old_names)["renamed_arguments"] = today
        return cast(F, accepting_old_names)

    return decorate


def renamed_members(**today: str) -> Callable[[C], C]:
    """Returns a class decorator that makes renamed fields, attributes and methods readable under their old names.

    A dataclass accepts the old names of its fields as keyword arguments too.

    Args:
      today: maps a member's old name to today's; with a dot it is a member of a member, such as "layout.init".
    """

    def decorate(cls):
        for old, name in today.items():
            setattr(cls, old, property(operator.attrgetter(name), doc=f"Returns `{name}`, under its old name."))
        fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else ()
        arguments = {old: name for old, name in today.items() if name in fields}
        if arguments:
            cls.__init__ = renamed_arguments(**arguments)(cls.__init__)
        return cls

    return decorate


def _is_submodule(package: str, name: str) -> bool:
    """Tells whether a package below bert_jax has a module of this name, without importing anything."""
    module = sys.modules.get(f"bert_jax.{package}")
    folders = vars(module).get("__path__") if module else None  # not getattr, which would ask `find`
    return bool(folders) and importlib.machinery.PathFinder.find_spec(f"bert_jax.{package}.{name}", folders) is not None


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports an old module as an empty one whose names are looked up where they are today."""

    def find_spec(self, fullname, path=None, target=None):
        """Returns the spec of a module that has moved; None for any other."""
        package, _, module = fullname.partition(".")
        if package == "bert_jax" and module in MODULES:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def create_module(self, spec):
        """Returns a module whose names are looked up in their homes of today."""
        module = types.ModuleType(spec.name, f"Moved: see {', '.join(MODULES[spec.name.partition('.')[2]])}.")
        module.__getattr__ = lambda name: find(spec.name.partition(".")[2], name)
        return module

    def exec_module(self, module):
        """Does nothing: the module is complete when it is created."""
        pass


def install() -> None:
    """Makes old modules importable."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
