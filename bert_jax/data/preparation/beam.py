"""Runs the map over shards under Apache Beam: on this machine (DirectRunner), Dataflow, Flink, Spark, or others.

Workers read the input and write whole shards to a path that all machines reach: a shared file system, or remote
storage. Beam may run an element twice, even at the same time: both write the same bytes (see ShardMaker.write). A
worker that meets a UserError writes its message to parts/error, which stops all workers and is shown to the user: an
exception would be retried, and each runner would report it in its own form.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from bert_jax import storage
from bert_jax.data.preparation import shards as shards_lib
from bert_jax.data.preparation import sources
from bert_jax.errors import UserError

_ERROR = "error"  # name of the file in parts/


class Cluster:
    """Describes a Beam runner and its options."""

    def __init__(self, runner: str, options: Sequence[str] = ()):
        """Checks the runner and its options.

        Args:
          runner: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, ..., or a class by its full name.
          options: Beam's own flags, such as --project=NAME.

        Raises:
          UserError: Beam is not installed, or knows no such runner or option.
        """
        self.runner = runner
        self._options = [f"--runner={runner}", *options]
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
            from apache_beam.runners.runner import create_runner
        except ImportError as error:
            raise UserError(
                f"--runner={runner}: Apache Beam is not installed ({error}); install bert_jax[beam], in an environment "
                "of its own: it needs older protobuf and pyarrow than the rest"
            ) from error
        usage = io.StringIO()
        try:
            create_runner(runner)
            with contextlib.redirect_stderr(usage):
                known = PipelineOptions(self._options).get_all_options()
        except SystemExit as error:  # argparse exits
            reason = usage.getvalue().strip().rpartition("error: ")[2]
            raise UserError(f"--runner={runner}: {reason or 'Beam does not take ' + ' '.join(options)}") from error
        except Exception as error:  # each runner raises its own exceptions
            raise UserError(f"--runner={runner}: {_line(error)}") from error
        for option in options:
            name = option.removeprefix("--").partition("=")[0]
            if option.startswith("--") and not {name, name.removeprefix("no_")} & known.keys():
                raise UserError(f"{option}: no option of Apache Beam; expected one of its pipeline options")

    def write_all(
        self, shards: Mapping[int, tuple[sources.Part, ...]], parts: str, tokenizer: str, settings, strict: bool
    ) -> Iterator[tuple[int, dict]]:
        """Writes shards, as shards.write_all does, to a file system that the workers share."""
        self._run(shards, parts, tokenizer, settings, strict)
        for number in shards:
            facts = pathlib.Path(parts, f"{number:05d}", shards_lib.FACTS)
            if not facts.is_file():
                raise UserError(
                    f"{facts}: not there, though --runner={self.runner} is done; expected --output on a path "
                    "that every worker reaches"
                )
            yield number, _skipped(facts)

    def write_through(
        self,
        remote: str,
        shards: Mapping[int, tuple[sources.Part, ...]],
        parts: str,
        tokenizer: str,
        settings,
        strict: bool,
    ) -> Iterator[tuple[int, dict]]:
        """Writes shards, as `write_all` does, to the URL `remote`, and copies them to the local folder `parts`."""
        storage.upload_folder(pathlib.Path(tokenizer), f"{remote}/tokenizer")
        names = storage.sizes(remote)
        left = {i: shard for i, shard in shards.items() if f"{i:05d}/{shards_lib.FACTS}" not in names}
        self._run(left, remote, f"{remote}/tokenizer", settings, strict)
        for number in shards:
            name = f"{number:05d}"
            with shards_lib.new_folder(parts, name) as folder:
                storage.download_folder(f"{remote}/{name}", folder)
                skipped = _skipped(folder / shards_lib.FACTS)
            yield number, skipped

    def _run(self, shards, parts, tokenizer, settings, strict):
        if not shards:
            return
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions

        error = f"{parts}/{_ERROR}"
        _forget(error)
        print(f"{len(shards):,} shards on {self.runner}", file=sys.stderr, flush=True)
        write = apache_beam.ParDo(_write_shard_class()(parts, tokenizer, settings, strict))
        try:
            with apache_beam.Pipeline(options=PipelineOptions(self._options)) as pipeline:
                _ = (
                    pipeline
                    | "Shards" >> apache_beam.Create(list(shards.items()))
                    | "Spread" >> apache_beam.Reshuffle()
                    | "Write" >> write
                )
        except Exception as failure:  # each runner raises its own exceptions
            if not storage.exists(error):
                raise UserError(
                    f"--runner={self.runner}: {_line(failure)}; what is finished is kept, the same command continues it"
                ) from failure
        if storage.exists(error):
            message = storage.read(error).decode()
            _forget(error)
            raise UserError(message)


def _write_shard_class():
    """Returns the class of the DoFn, which can be defined only where Beam is installed."""
    import apache_beam

    class WriteShard(apache_beam.DoFn):
        def __init__(self, *arguments):
            self._worker = Worker(*arguments)

        def process(self, element):
            self._worker.write(*element)
            return ()

        def teardown(self):
            self._worker.close()

    return WriteShard


class Worker:
    """Writes shards in one thread of a worker process, to which it is pickled before its first use."""

    def __init__(self, parts: str, tokenizer: str, settings, strict: bool):
        """Takes the arguments of shards.ShardMaker; the tokenizer's folder may be a URL."""
        self._arguments = parts, tokenizer, settings, strict
        self._maker: shards_lib.ShardMaker | None = None
        self._copy: tempfile.TemporaryDirectory | None = None

    def write(self, number: int, shard: tuple[sources.Part, ...]) -> None:
        """Writes a shard, or the message of a UserError to parts/error. Writes nothing once that file exists."""
        parts, *_ = self._arguments
        if not storage.is_remote(parts) and not pathlib.Path(parts).is_dir():
            raise UserError(f"--output: no {parts} on a worker; expected a path that every worker reaches")
        error = f"{parts}/{_ERROR}"
        if storage.exists(error):
            return
        try:
            for part in shard:
                if (
                    part.kind not in ("tfds", "hf")
                    and not storage.is_remote(part.path)
                    and not storage.exists(part.path)
                ):
                    raise UserError(
                        f"--input: no {part.path} on a worker; expected files on a path that every worker reaches"
                    )
            self._open_maker().write(number, shard)
        except UserError as refusal:
            storage.write(error, str(refusal).encode())

    def close(self) -> None:
        """Removes the local copy of the tokenizer."""
        if self._copy:
            self._copy.cleanup()

    def _open_maker(self):
        if self._maker is None:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the runner chooses the number of threads
            parts, tokenizer, settings, strict = self._arguments
            if storage.is_remote(tokenizer):
                self._copy = tempfile.TemporaryDirectory()
                storage.download_folder(tokenizer, pathlib.Path(self._copy.name))
                tokenizer = self._copy.name
            self._maker = shards_lib.ShardMaker(parts, tokenizer, settings, strict)
        return self._maker


def _skipped(facts):
    return json.loads(facts.read_text("utf-8"))["skipped"]


def _forget(path):
    if storage.is_remote(path):
        storage.remove(path)
    else:
        pathlib.Path(path).unlink(missing_ok=True)


def _line(error):
    """Returns the informative line of a runner's exception, which may be in another process's traceback."""
    refusal = re.search(r"bert_jax\.errors\.UserError: (.*?)(?: \[while running .*)?$", str(error), re.MULTILINE)
    if refusal:
        return refusal[1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1]
