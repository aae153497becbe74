"""Writes the report of an experiment from the folders of its runs: report.md with pictures, and report.html.

    python -m experiments.report --workdir=WORKDIR [--output=DIR]

WORKDIR is the folder of an experiment, which is only read. The experiment may be unfinished: the report says what is
missing. report.html holds the whole report in one file. The same folders give the same bytes.
"""

import importlib.util
import pathlib
import sys

from absl import flags

from bert_jax import command, files, outputs
from bert_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of an experiment", required=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "folder for report.md, report.html and PNG files; default: WORKDIR/report"
)


def main(argv):
    del argv
    for package in ("matplotlib", "markdown_it"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package}: not installed; expected it for the report: pip install 'bert_jax[report]'")
    workdir = pathlib.Path(_WORKDIR.value)
    output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else workdir / "report"
    outputs.check_folder("output", output, (outputs.EXPERIMENT,))
    names, damaged = write_files(workdir, output)
    print(f"{output}: {', '.join(names)}")
    for line in damaged:
        print(f"warning: {line}", file=sys.stderr)


def write(workdir: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Writes the report as `write_files` does, and returns the path of report.md."""
    write_files(workdir, output)
    return output / "report.md"


def write_files(workdir: pathlib.Path, output: pathlib.Path) -> tuple[list[str], list[str]]:
    """Writes the report of the experiment in `workdir` into `output`.

    Returns:
      (names of the files written, a line for each job that has no row because a file of it is damaged)

    Raises:
      UserError: there is no experiment in the folder, a file in it is damaged, or the report cannot be written.
    """
    from .reporting import comparisons, curves, markdown, measures, page, results  # after the flags: matplotlib is slow

    experiment = results.read(workdir)
    compared = comparisons.compare(experiment)
    pictures = [*measures.draw(experiment, compared), *curves.draw(experiment)]
    text = markdown.report(experiment, compared, pictures)
    try:
        contents = {picture.name: picture.content for picture in pictures}
        pages = {"report.html": page.page(text, pictures).encode(), "report.md": text.encode()}
        _write_all(output, contents | pages)
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written: {error.strerror or error}") from error
    damaged = [f"{job.name}: {job.problem}" for job in experiment.jobs.values() if job.problem]
    return [*pages, *contents], damaged


def _write_all(folder, contents):
    """Writes files, given as {name: bytes}, into a folder; a new one appears with all of them or not at all."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_folder(folder) as new:
            for name, content in contents.items():
                (new / name).write_bytes(content)
        return
    for name, content in contents.items():
        files.atomic_write(folder / name, content)


if __name__ == "__main__":
    command.run(main, outlives_output=True, likely=("workdir", "output"))
