"""Pre-trains a model, or continues where its workdir stands.

python -m bert_jax.pretrain --config=configs/bert_base.py --workdir=DIR [--config.KEY=VALUE ...]
"""

from absl import flags

from bert_jax import command
from bert_jax.errors import UserError
from bert_jax.processes import signals

_WORKDIR = flags.DEFINE_string("workdir", None, "where checkpoints, metrics and logs go; continued if it holds a run")


def main(argv):
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir: empty; expected a directory")
    with signals.exit_on_sigterm(), command.processes():
        from bert_jax.training import loop  # here, so that a mistake in the flags is told at once

        loop.pretrain(flags.FLAGS.config, _WORKDIR.value)


if __name__ == "__main__":
    command.define_config_flag()
    command.define_process_flags()
    flags.mark_flag_as_required("workdir")
    command.run(main)
