"""Fine-tunes a model on a labelled task, or continues a run from its last checkpoint.

    python -m bert_jax.finetune --config=finetune/sst2 --workdir=DIR --config.init_from=MODEL
        --config.task.train=FILE [--config.KEY=VALUE ...]

MODEL is the workdir of a run, a Hugging Face directory, or a name on the Hugging Face hub. --help-keys=task lists the
configuration keys of a group with their defaults; --help-keys lists all.
"""

from absl import flags

from bert_jax import command, interruption
from bert_jax.config import finetuning as finetune_config
from bert_jax.errors import UserError
from bert_jax.processes import signals

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder for checkpoints, scores and predictions; a run in it is continued"
)


def main(argv):
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir: empty; expected a directory")
    command.check_config(flags.FLAGS.config, _WORKDIR.value)
    with signals.exit_on_sigterm(), command.processes():
        from bert_jax.finetuning import run as finetuning  # after the flags: importing jax takes a second
        from bert_jax.runs.loggers import say

        config = flags.FLAGS.config
        recipe, changed = command.config_changes()
        for follow in (finetune_config.follow_train, finetune_config.follow_adapters):
            if note := follow(config, recipe, changed):
                say(f"note: {note}")
        finetuning.finetune(config, _WORKDIR.value, recipe)
    interruption.exit_if_stopped()


if __name__ == "__main__":
    command.define_config_flag(schema="finetuning", continues=True)
    command.define_process_flags()
    flags.mark_flag_as_required("workdir")
    command.run(main, outlives_output=True, likely=("config", "workdir"))
