"""The report of an experiment: from the folders of its runs to report.md and pictures.

    python -m experiments.report --workdir=WORKDIR [--output=DIR]

WORKDIR is the folder of experiments.launch. It is only read, and may be that of an experiment that is not finished: the
report says what is missing. The same folders give the same bytes.
"""

import importlib.util
import pathlib

from absl import flags

from bert_jax import command, files
from bert_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "an experiment's folder", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "where report.md and PNG files go; by default WORKDIR/report")


def main(argv):
    del argv
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("matplotlib: not installed; expected for the pictures: pip install 'bert_jax[report]'")
    workdir = pathlib.Path(_WORKDIR.value)
    output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else workdir / "report"
    print(write(workdir, output))


def write(workdir: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Writes the report of an experiment's folder into another; its report.md.

    Raises:
      UserError: there is no experiment in the folder, a file in it is damaged, or the report cannot be written.
    """
    from .reporting import comparisons, curves, markdown, results  # after the flags: matplotlib is slow

    found = results.read(workdir)
    compared = comparisons.compare(found)
    pictures = curves.draw(found, compared)
    text = markdown.report(found, compared, pictures)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in [*((one.name, one.content) for one in pictures), ("report.md", text.encode())]:
            files.atomic_write(output / name, content)
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written: {error.strerror or error}") from error
    return output / "report.md"


if __name__ == "__main__":
    command.run(main)
