"""Fine-tunes a model on a labelled task, or continues where its workdir stands.

    python -m bert_jax.finetune --config=configs/finetune/sst2.py --workdir=DIR --config.init_from=MODEL
        --config.task.train=FILE [--config.KEY=VALUE ...]

MODEL is a run's workdir, a Hugging Face directory, or a name on its hub.
"""

from absl import flags

from bert_jax import command
from bert_jax.errors import UserError
from bert_jax.processes import signals

_WORKDIR = flags.DEFINE_string("workdir", None, "where checkpoints, scores and predictions go")


def main(argv):
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir: empty; expected a directory")
    with signals.exit_on_sigterm(), command.processes():
        from bert_jax.finetuning import run as finetuning  # here, so that a mistake in the flags is told at once

        finetuning.finetune(flags.FLAGS.config, _WORKDIR.value)


if __name__ == "__main__":
    command.define_config_flag()
    command.define_process_flags()
    flags.mark_flag_as_required("workdir")
    command.run(main)
