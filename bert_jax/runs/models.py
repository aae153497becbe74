"""Opens a MODEL: a run's workdir, a Hugging Face directory, or a name on the hub."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from bert_jax import _moved, objectives
from bert_jax import model as model_lib
from bert_jax.config.finetuning_keys import LATE_POOLING, SPARSE_POOLING
from bert_jax.config.keys import DEVICE_DEFAULTS
from bert_jax.config.objective import facts as objective_facts
from bert_jax.data.vocabularies import loading
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import parameters
from bert_jax.model.projection import Projection
from bert_jax.runs import checkpoints
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.outcomes import Outcomes


def open_model(
    name: str | os.PathLike, step: int | str | None = None, seed: int | None = None, part: str = "discriminator"
) -> Pretrained:
    """Opens the model of a workdir, of a Hugging Face directory, or of a hub name.

    Args:
      name: the workdir, directory or hub name. A directory with run.json is a workdir, which may lie in gs://; any
        other is read as Hugging Face's. WORKDIR@STEP names the step too.
      step: step of a workdir's checkpoint, "best", "mean:K" for the mean of the parameters of the newest K, "ema:DECAY"
        for their exponential average, or None for the newest. Each checkpoint of fine-tuning holds the best parameters
        until its step, and these are opened.
      seed: seed of a fine-tuning run; None for the best seed.
      part: part of a run of replaced-token detection: "discriminator", "generator", or "language_model" for the one
        that predicts masked tokens, which is the generator there and the model elsewhere.

    Raises:
      UserError: no such model, a damaged one, or one of a kind that is not supported.
    """
    if step is None:
        name, step = workdir_lib.split_step(name)
    if not workdir_lib.holds_run(name):
        if step is not None:
            raise UserError(f"{name}: no run's workdir, which a step ({step}) is of; expected one, or no step")
        return huggingface.read(name)
    workdir = workdir_lib.to_path(name)
    if workdir_lib.read(workdir)[0].get("kind") == "finetune":
        return _finetuned(workdir, None if step == "best" else step, seed)
    params, config, step = checkpoints.load_params(name, step)
    tokenizer = load_tokenizer(workdir)
    config.model.update(vocabulary_settings(config.model, tokenizer) | DEVICE_DEFAULTS)
    if part == "language_model":
        part = objective_facts(config).language_model
    try:
        settings, model, params = objectives.implementation(config.objective.name).trained_part(
            config, tokenizer.vocab_size, params, part
        )
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    _check_vocabulary(name, params, tokenizer)
    family = formats.choose_family(model.spec)
    return Pretrained(str(name), family, settings, model, params, tokenizer, step=step)


def load_tokenizer(workdir: pathlib.Path) -> Tokenizer:
    """Reads the tokenizer that a run's workdir holds."""
    with workdir_lib.local_tokenizer(workdir) as folder:
        return loading.load(folder)


def vocabulary_settings(model: Mapping, tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the keys of config.model that follow from a vocabulary: its size and, where one is read, its mask's id.

    Args:
      model: config.model of a run.
      tokenizer: the run's tokenizer.

    Raises:
      UserError: the config names another token as the mask.
    """
    if not model["token_dropout"]:
        return {"vocab_size": tokenizer.vocab_size}
    mask_id = tokenizer.mask_id
    if model["mask_id"] not in (0, mask_id):
        raise UserError(
            f"config.model.mask_id: found {model['mask_id']}, but {tokenizer.token(mask_id)} of the vocabulary has id "
            f"{mask_id}; expected {mask_id}, or 0"
        )
    return {"vocab_size": tokenizer.vocab_size, "mask_id": mask_id}


def build_fine_tuned(run: Mapping) -> model_lib.Model:
    """Builds the model, with its task's head, that a fine-tuning workdir's run.json describes."""
    head = model_lib.Task(**run["head"])
    reads_words = head.name == "embedding" and (head.pooling in SPARSE_POOLING or head.rebuilds)
    vocab_size = run["model"]["vocab_size"]
    return model_lib.build(run["model"], vocab_size, next_sentence=False, language_model=reads_words, task=head)


def _check_vocabulary(workdir, params, tokenizer):
    """Raises UserError if the tokenizer of a workdir gives ids that the word embedding of its checkpoint lacks."""
    rows = params["encoder"]["embeddings"]["word"]["embedding"].shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{workdir}/tokenizer: {tokenizer.vocab_size:,} tokens, but the word embedding of the run's checkpoint has "
            f"{rows:,} rows; expected the run's own tokenizer, which was changed or damaged"
        )


def _check_description(workdir, run, params, tokenizer):
    """Raises UserError if run.json of fine-tuning, the tokenizer and the parameters do not belong together."""
    _check_vocabulary(workdir, params, tokenizer)
    rows = params["encoder"]["embeddings"]["word"]["embedding"].shape[0]
    labels = run["head"].get("pair_labels") if run["head"]["name"] == "embedding" else run["head"]["num_labels"]
    for key, number, expected in (
        ("model.vocab_size", run["model"]["vocab_size"], rows), ("the number of labels", len(run["labels"]), labels),
    ):  # fmt: skip
        if number != expected:
            raise UserError(
                f"{workdir}/run.json: {key} is {number:,}; expected {expected:,}, as the model has: the file was "
                "changed or damaged"
            )


def _finetuned(workdir, step, seed):
    run, config = workdir_lib.read(workdir)
    step = checkpoints.find_step(workdir, step)
    seed_outcomes = Outcomes.from_json(checkpoints.load_record(workdir, step))
    seeds = [outcome.seed for outcome in seed_outcomes.seeds]
    if seed is not None and seed not in seeds:
        raise UserError(f"{workdir}: no seed {seed}; expected one of {', '.join(map(str, seeds))}")
    index = seed_outcomes.best() if seed is None else seeds.index(seed)
    items = checkpoints.load_items(workdir, step, [f"best-{index}", "frozen"])
    params = parameters.merge_adapters(parameters.merge_trees(items[f"best-{index}"], items["frozen"]), config.tuning)
    tokenizer = load_tokenizer(workdir)
    _check_description(workdir, run, params, tokenizer)
    settings = dict(run["settings"]) | {"columns": workdir_lib.text_columns(config)}
    thresholds = [value for name, value in seed_outcomes.seeds[index].best.items() if name.endswith("/null_threshold")]
    if thresholds:
        settings["null_threshold"] = thresholds[0]  # the first held-out set's, whose score chose the seed
    model = build_fine_tuned(run | {"model": run["model"] | DEVICE_DEFAULTS})
    labels = tuple(run["labels"])
    if model.spec.task and model.spec.task.name == "embedding":
        model, params, layers = _without_head(model, params)
        settings |= {"pooling": tuple(settings["pooling"])} | ({"layers": layers} if layers else {})
        if settings["pooling"][0] in SPARSE_POOLING:
            settings["sparse"] = (SPARSE_POOLING[settings.pop("pooling")[0]], "relu")
        elif settings["pooling"][0] == LATE_POOLING:
            settings = {key: value for key, value in settings.items() if key not in ("pooling", "layers", "normalize")}
            settings["late_layers"] = (*layers, Projection("normalize"))
        run, labels = run | {"problem": "", "model": run["model"] | {"global_tokens": model.spec.global_tokens}}, ()
    return Pretrained(
        str(workdir),
        run["family"],
        run["model"] | DEVICE_DEFAULTS,
        model,
        params,
        tokenizer,
        labels,
        run["problem"],
        run["scheme"],
        settings,
        step=step,
    )


def _without_head(model, params):
    """Returns an embedder as inference and sentence-transformers have it: (encoder, its parameters, layers behind)."""
    task = model.spec.task
    if task.chunk_length:  # the head reads a text's chunks too
        return model, params, ()
    # The task has chosen its global tokens, and does so no more.
    chosen = "first" if model.spec.first_is_global else "none" if model.spec.global_tokens == "none" else "auto"
    encoder = model_lib.Model(dataclasses.replace(model.spec, task=None, global_tokens=chosen))
    head = params.get("task", {})
    layers = ()
    if task.transform:
        arrays = {name: np.asarray(array, np.float32) for name, array in head["dense"].items()}
        layers = (Projection("dense", arrays, {"linear": "Identity", "tanh": "Tanh"}[task.transform_activation]),)
    return encoder, {name: part for name, part in params.items() if name != "task"}, layers


def __getattr__(name):
    return _moved.find("runs.models", name)
