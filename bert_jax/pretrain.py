"""Pre-trains a model from a recipe and a corpus, or continues a run from its last checkpoint.

    python -m bert_jax.pretrain --config=bert_base --config.data.corpus=DIR --workdir=DIR [--config.KEY=VALUE ...]

--help-keys=data lists the configuration keys of a group with their defaults; --help-keys lists all.
"""

from absl import flags

from bert_jax import command, interruption
from bert_jax.errors import UserError
from bert_jax.processes import signals

_WORKDIR = flags.DEFINE_string("workdir", None, "folder for checkpoints, metrics and logs; a run in it is continued")


def main(argv):
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir: empty; expected a directory")
    command.check_config(flags.FLAGS.config, _WORKDIR.value)
    with signals.exit_on_sigterm(), command.processes():
        from bert_jax.training import pretraining  # after the flags: importing jax takes a second

        pretraining.pretrain(flags.FLAGS.config, _WORKDIR.value, *command.config_changes())
    interruption.exit_if_stopped()


if __name__ == "__main__":
    command.define_config_flag(continues=True)
    command.define_process_flags()
    flags.mark_flag_as_required("workdir")
    command.run(main, outlives_output=True, likely=("config", "workdir"))
