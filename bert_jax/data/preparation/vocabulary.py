"""Opens, extends or trains the vocabulary of a corpus, as --tokenizer and --add_tokens say."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

from bert_jax import files
from bert_jax.data.preparation import readers, sources
from bert_jax.data.vocabularies import loading, new_tokens, training
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

_SAMPLE_BYTES = 64 << 20  # a vocabulary is trained on at most so many bytes of text


class Choice(NamedTuple):
    """The vocabulary that the settings ask for.

    Attributes:
      trained: (kind, size) of a vocabulary that is to be trained, or None.
      tokenizer: the vocabulary that was opened, with the words of an --add_tokens file; None where one is trained.
      added: those of the file's words that were new to it.
      source: identifies the choice: train:KIND:SIZE, or a hash of the tokenizer with the words.
    """

    trained: tuple[str, int] | None
    tokenizer: Tokenizer | None
    added: list[str]
    source: str


def choose(settings) -> Choice:
    """Checks the settings (pipeline.Settings) and opens their vocabulary.

    Raises:
      UserError: the vocabulary cannot be opened or extended, or no such kind can be trained.
    """
    lower_case = {"auto": None, "true": True, "false": False}[settings.lower_case]
    if not settings.tokenizer.startswith("train:"):
        folder = pathlib.Path(settings.tokenizer)
        if (folder / "run.json").is_file():  # a run's workdir
            folder /= "tokenizer"
        tokenizer, added = loading.load(folder, lower_case), []
        if settings.add_tokens and not _num_wanted(settings):
            words = new_tokens.read(settings.add_tokens)
            tokenizer, added = new_tokens.extend(tokenizer, words, f"--add_tokens={settings.add_tokens}")
        return Choice(None, tokenizer, added, tokenizer.digest())
    kind, _, size = settings.tokenizer.removeprefix("train:").partition(":")
    if kind not in training.KINDS or not size.isdigit() or int(size) < 1:
        raise UserError(
            f"--tokenizer={settings.tokenizer}: expected train:KIND:SIZE with KIND one of "
            f"{', '.join(training.KINDS)}, such as train:wordpiece:8192"
        )
    if lower_case is not None and kind not in training.LOWER_CASING:
        raise UserError(f"--lower_case={settings.lower_case}: not for {kind}; expected auto")
    return Choice((kind, int(size)), None, [], settings.tokenizer)


def make(output: pathlib.Path, choice: Choice, plan: sources.Plan, settings, progress: bool) -> Tokenizer:
    """Writes the vocabulary to output/tokenizer, unless it is there, and opens it from there.

    Args:
      output: the corpus's folder, with a folder `parts`.
      choice: what to write; training and counting words read the text.
      plan: the text.
      settings: pipeline.Settings.
      progress: whether to print what is trained.
    """
    folder = output / "tokenizer"
    if folder.is_dir():
        return loading.load(folder)
    trained, tokenizer, added, _ = choice
    with files.atomic_folder(folder) as temporary:
        if trained:
            kind, size = trained
            sample = _Sample(plan, settings.reading)
            if progress:
                print(f"training a {kind} vocabulary of {size:,}", file=sys.stderr, flush=True)
            tokenizer = training.train(kind, sample.texts(), size, lower_case=settings.lower_case != "false")
            tokenizer.save(temporary)
            sizes = {"asked": size, "sample_bytes": sample.bytes, "sample_is_everything": sample.everything}
            files.write_json(temporary / "training.json", sizes)
            if progress and tokenizer.vocab_size < size:
                print(f"the text gave {tokenizer.vocab_size:,} tokens, not {size:,}", file=sys.stderr, flush=True)
        else:
            assert tokenizer is not None, "a vocabulary is either trained or opened"
            if _num_wanted(settings):
                words = new_tokens.find(tokenizer, _Sample(plan, settings.reading).texts(), _num_wanted(settings))
                tokenizer, added = new_tokens.extend(tokenizer, words, f"--add_tokens={settings.add_tokens}")
            tokenizer.save(temporary)
            if settings.add_tokens:
                files.write_json(temporary / "new_tokens.json", added)
    return loading.load(folder)


def facts(output: pathlib.Path, tokenizer: Tokenizer, choice: Choice) -> dict:
    """Returns the manifest's entry about the vocabulary.

    Args:
      output: the corpus's folder.
      tokenizer: its tokenizer.
      choice: what it was made from.
    """
    entry = {"source": choice.source, "kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    for key, name in (("training", "training.json"), ("new_tokens", "new_tokens.json")):
        path = output / "tokenizer" / name
        if path.is_file():
            entry[key] = json.loads(path.read_text("utf-8"))
    return entry


def _num_wanted(settings):
    """Returns how many words of the text --add_tokens asks for; 0 where it names a file or is not given."""
    number = settings.add_tokens or ""
    return int(number) if number.isdigit() else 0


class _Sample:
    """Text to train a vocabulary on: the beginning of each shard, bounded in all, the same on every machine.

    Attributes:
      bytes: size of the text that `texts` has yielded.
      everything: whether no text was left out.
    """

    def __init__(self, plan: sources.Plan, options: sources.Options):
        self._plan, self._options = plan, options
        self.bytes = 0
        self.everything = True

    def texts(self) -> Iterator[str]:
        """Yields the paragraphs, each as one line."""
        share = max(1, _SAMPLE_BYTES // len(self._plan.shards))
        for shard in self._plan.shards:
            taken = 0
            for part in shard:
                with contextlib.suppress(readers.Unreadable):  # the pass over the shards reports it
                    for paragraph in readers.read(part, self._options, lambda where, reason: None):
                        if paragraph is None:
                            continue
                        text = " ".join(paragraph)
                        taken += len(text.encode())
                        if taken > share:
                            self.everything = False
                            break
                        self.bytes += len(text.encode())
                        yield text
                if taken > share:
                    break
