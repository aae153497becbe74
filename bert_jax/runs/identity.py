"""Checks that a workdir, a config, corpora and a teacher are those of one run, on every process and every restart."""

import json
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax import outputs, storage
from bert_jax.config.keys import FINETUNING, PATHS, PRETRAINING, RESUMABLE
from bert_jax.errors import UserError
from bert_jax.processes import distributed
from bert_jax.runs import checkpoint_files
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.loggers import say

if TYPE_CHECKING:
    from bert_jax.data.corpus import Corpus


def keep_values_before(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> str:
    """Fills in, in place, each key that the workdir's run began without, with what the run did then.

    A run goes on as it began, whatever later versions of a recipe say of keys that there were none of then. Keys that
    may change when a run continues are left alone.

    Returns:
      a line for the user that names the keys whose value was changed; "" if there is none, or no run in the workdir.
    """
    with storage.reporting(str(workdir)):
        text = (workdir / "config.json").read_text() if (workdir / "config.json").exists() else "null"
    try:
        stored = json.loads(text)
    except ValueError:
        return ""  # `check_config` refuses it
    if not isinstance(stored, Mapping) or ("task" in stored) != ("task" in config):
        return ""
    values, kept = config_lib.flat(config.to_dict()), []
    for name, value in workdir_lib.values_before(stored).items():
        if name not in RESUMABLE and values[name] != value:
            config.update_from_flattened_dict({name: value})
            kept.append(f"config.{name}={value}")
    return f"goes on as it began, before there were these keys: {', '.join(kept)}" if kept else ""


def check_same_run(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    corpora: "Sequence[Corpus]" = (),
    teacher: Mapping[str, str] | None = None,
    source_step: int | None = None,
) -> None:
    """Raises UserError on every process unless all were given the same workdir, config, corpora, teacher and source.

    Keys that hold paths may differ; what they lead to is compared by fingerprint, digest, or, of the run that
    config.init_from names, by the step of its checkpoint: a run that still trains may save while the processes look.
    """
    settings = {f"config.{key}": value for key, value in config_lib.flat(config.to_dict()).items() if key not in PATHS}
    contents: dict[str, Any] = {"config.data.corpus (fingerprint)": [corpus.fingerprint for corpus in corpora]}
    if teacher:
        contents["config.distillation.teacher (digest)"] = teacher["digest"]
    if source_step is not None:
        contents["config.init_from (step)"] = source_step
    distributed.check_same({"--workdir": str(workdir)} | contents | settings)


def check_run(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    corpora: "Sequence[Corpus]",
    teacher: Mapping[str, str] | None = None,
) -> None:
    """Raises UserError if the workdir holds a pre-training run of another config, corpus or teacher."""
    run = check_config(workdir, config)
    if run is None:
        return
    old, new = run["corpora"], workdir_lib.corpus_identities(corpora)
    if not checkpoint_files.has_checkpoints(workdir):
        return
    if [corpus["fingerprint"] for corpus in old] != [corpus["fingerprint"] for corpus in new]:
        raise UserError(
            f"--workdir={workdir}: its run began with corpus {_named(old)}, but config.data.corpus is "
            f"{_named(new)}; give the old corpus, or another --workdir"
        )
    if teacher and run["teacher"]["digest"] != teacher["digest"]:
        old = run["teacher"]
        raise UserError(
            f"--workdir={workdir}: its run began with the teacher {old['name']} (digest {old['digest'][:12]}), but "
            f"config.distillation.teacher={teacher['name']} has other parameters ({teacher['digest'][:12]}); give the "
            "old teacher, or another --workdir"
        )


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """Returns what run.json holds; None if the workdir holds no run yet, or another one that has no checkpoint.

    A first attempt that failed before its first checkpoint therefore leaves nothing that refuses the next.

    Raises:
      UserError: the workdir holds the run of another config: a key differs that may not change on resuming.
    """
    if not (workdir / "config.json").exists():
        return None
    run, before = workdir_lib.read(workdir)
    if ("task" in before) != ("task" in config):
        kind = "fine-tuning" if "task" in before else "pre-training"
        raise UserError(f"--workdir={workdir}: holds a run of {kind}; name another")
    old = config_lib.flat(before.to_dict())
    new = config_lib.flat(workdir_lib.config_from_json(json.loads(json.dumps(config.to_dict()))).to_dict())
    changed = [
        key
        for key in old
        if old[key] != new[key] and key not in RESUMABLE and not _new_default(config, key, old[key], new[key])
    ]
    if changed and not checkpoint_files.has_checkpoints(workdir):
        words = ", ".join(f"config.{key}" for key in changed)
        say(f"{workdir}: a run that ended before its first checkpoint; begins anew, with other values of {words}")
        return None
    if changed:
        values = "; ".join(f"config.{key}={old[key]!r}, found {new[key]!r}" for key in changed)
        flags = " ".join(_flag(key, old[key]) for key in changed)
        raise UserError(
            f"--workdir={workdir}: its run began with {values}; give the old value ({flags}), or another --workdir"
        )
    return run


def _flag(name, value):
    """Returns a key's value as an argument of a command line, quoted for a shell."""
    text = value if isinstance(value, str) else repr(value)
    quoted = shlex.quote(text)
    if quoted != text and not re.search(r'["$`\\!]', text):
        quoted = f'"{text}"'  # a tuple of dicts, whose own quotation marks are single ones
    return f"--config.{name}={quoted}"


def check_kind(workdir: pathlib.Path) -> None:
    """Raises UserError for a local workdir whose files no run has written, before anything is written there."""
    outputs.check_workdir(workdir)


def _new_default(config, name, old, new):
    """Tells whether two values are an earlier version's default of a key and today's."""
    key = (FINETUNING if "task" in config else PRETRAINING).get(name)
    return key is not None and key.earlier_default is not None and (old, new) == (key.earlier_default, key.default)


def _named(identities):
    return ", ".join(f"{corpus['path']} (fingerprint {corpus['fingerprint'][:12]})" for corpus in identities)
