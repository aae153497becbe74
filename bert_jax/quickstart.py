"""Pre-trains a small BERT on Python's documentation and fills masks with it: minutes on two CPU cores.

    python -m bert_jax.quickstart [--folder=runs/quickstart] [--config.KEY=VALUE ...]

Prepares the documentation of the installed Python as a corpus, pre-trains the recipe `quickstart` on it and predicts a
few masked words. The same command started again continues where it stopped.
"""

import pathlib

from absl import flags

from bert_jax import command, interruption, outputs
from bert_jax import config as config_lib
from bert_jax.processes import signals

_FOLDER = flags.DEFINE_string("folder", "runs/quickstart", "folder for the corpus and the run")

TEXTS = (
    "return true if the [MASK] is empty.",
    "the default [MASK] is none.",
    "raises a typeerror if the argument is not a [MASK].",
    "open the [MASK] and return its contents as a string.",
)


def main(argv):
    del argv
    config = flags.FLAGS.config
    config_lib.check_keys(config)
    outputs.check_unused("folder", _FOLDER.value, (outputs.QUICKSTART,), ("corpus", "run"), "quickstart")
    folder = pathlib.Path(_FOLDER.value)
    config.data.corpus = str(folder / "corpus")
    if not config.init_from:  # a model that the run would begin with completes the config
        import jax  # after the keys: it takes a second

        config_lib.validate(config)
        config_lib.check_devices(config, jax.device_count())
    from bert_jax.data.preparation import pipeline

    print(f"1. The corpus: the documentation of Python, in {folder / 'corpus'}")
    settings = pipeline.Settings(input="python-docs", tokenizer="train:wordpiece:4096", eval_share=0.05)
    pipeline.prepare(settings, folder / "corpus")

    from bert_jax.training import pretraining

    print(f"2. Pre-training: {config.train.num_steps} steps, in {folder / 'run'}")
    with signals.exit_on_sigterm():
        pretraining.pretrain(config, folder / "run", command.config_changes()[0])
        interruption.exit_if_stopped()

    from bert_jax.inference import FillMask

    print("3. Filling masks")
    answers = FillMask.from_pretrained(folder / "run")(TEXTS, top_k=5)
    for text, answer in zip(TEXTS, answers, strict=True):
        best = "  ".join(f"{token['token']} {token['score']:.2f}" for token in answer["masks"][0])
        print(f"   {text}\n      {best}")


if __name__ == "__main__":
    command.define_config_flag(default="quickstart")
    command.run(main, outlives_output=True, likely=("folder",))
