"""Checks that a workdir, a config, corpora and a teacher are those of one run, on every process and every restart."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_collections

from bert_jax import config as config_lib
from bert_jax import outputs
from bert_jax.config.keys import PATHS
from bert_jax.errors import UserError
from bert_jax.processes import distributed
from bert_jax.runs import checkpoint_files, continuation
from bert_jax.runs import workdir as workdir_lib
from bert_jax.runs.continuation import keep_values_before
from bert_jax.runs.loggers import say

if TYPE_CHECKING:
    from bert_jax.data.corpus import Corpus

__all__ = ["check_config", "check_kind", "check_run", "check_same_run", "keep_values_before"]


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
    run, changed = continuation.compare(workdir, config)
    if changed:
        words = ", ".join(f"config.{key}" for key in changed)
        say(f"{workdir}: a run that ended before its first checkpoint; begins anew, with other values of {words}")
        return None
    return run


def check_kind(workdir: pathlib.Path) -> None:
    """Raises UserError for a local workdir whose files no run has written, before anything is written there."""
    outputs.check_workdir(workdir)


def _named(identities):
    return ", ".join(f"{corpus['path']} (fingerprint {corpus['fingerprint'][:12]})" for corpus in identities)
