"""Opens, extends or trains the vocabulary of a corpus, as --tokenizer and --add_tokens say."""

import itertools
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

from bert_jax import files
from bert_jax.config.key_groups import LARGEST_VOCABULARY
from bert_jax.config.schema import closest
from bert_jax.data.preparation import sampling, sources
from bert_jax.data.vocabularies import fit, hugging_face, loading, new_tokens, training
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError, shortened

PROTEINS = "amino-acids"  # the value of --tokenizer for ESM's vocabulary, which is built in
_SAMPLE_BYTES = 64 << 20  # a vocabulary is trained on at most so many bytes of text
_CHECKED_BYTES = 1 << 18  # one that is opened is checked with so many
_FAR_FEWER = 0.9  # share of the tokens asked for, below which a user is warned
_UNKNOWN_TOKENS = 0.1  # share of the tokens, from which a user is warned
_LEAST_BYTES = 1 / 8  # text that training needs for each token asked for


_SWITCHES = {"auto": None, "true": True, "false": False}


class Choice(NamedTuple):
    """Describes the vocabulary that the settings ask for.

    Attributes:
      trained: (kind, size) of a vocabulary that is to be trained, or None.
      tokenizer: the vocabulary that was opened, with the words of an --add_tokens file; None where one is trained.
      added: words of the file that were new to it.
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
    lower_case, strip_accents = _SWITCHES[settings.lower_case], _SWITCHES[settings.strip_accents]
    if _num_wanted(settings) > LARGEST_VOCABULARY:
        raise UserError(f"--add_tokens={settings.add_tokens}: expected at most {LARGEST_VOCABULARY:,} words")
    if not settings.tokenizer.startswith("train:"):
        if strip_accents is not None:
            raise UserError(
                f"--strip_accents={settings.strip_accents}: {settings.tokenizer} says itself how it treats accents; "
                "expected auto"
            )
        folder = pathlib.Path(settings.tokenizer)
        if (folder / "run.json").is_file():  # a run's workdir
            folder /= "tokenizer"
        is_built_in = settings.tokenizer == PROTEINS and not folder.exists()
        tokenizer, added = hugging_face.proteins() if is_built_in else loading.load(folder, lower_case), []
        if settings.add_tokens and not _num_wanted(settings):
            words = new_tokens.read(settings.add_tokens)
            tokenizer, added = new_tokens.extend(tokenizer, words, f"--add_tokens={settings.add_tokens}")
        return Choice(None, tokenizer, added, tokenizer.digest())
    kind, _, size = settings.tokenizer.removeprefix("train:").partition(":")
    if kind not in training.KINDS:
        raise UserError(
            f"--tokenizer={settings.tokenizer}: expected train:KIND:SIZE with KIND one of "
            f"{', '.join(training.KINDS)}, such as train:wordpiece:8192{closest(kind, training.KINDS)}"
        )
    if not (size.isascii() and size.isdigit()):
        problem = f"found {shortened(size)!r} as its size" if size else "no size"
        raise UserError(
            f"--tokenizer={settings.tokenizer}: {problem}; expected a whole number, such as train:{kind}:8192"
        )
    if int(size) < training.SMALLEST[kind]:
        held = "256 bytes" if training.SMALLEST[kind] > 256 else "one character"
        raise UserError(
            f"--tokenizer={settings.tokenizer}: {int(size)} is less than its {training.NUM_SPECIAL} special tokens and "
            f"{held} need; expected a size of at least {training.SMALLEST[kind]}, such as train:{kind}:8192"
        )
    if int(size) > LARGEST_VOCABULARY:
        raise UserError(f"--tokenizer={settings.tokenizer}: expected a size of at most {LARGEST_VOCABULARY:,}")
    if lower_case is not None and kind not in training.LOWER_CASING:
        raise UserError(f"--lower_case={settings.lower_case}: not for {kind}; expected auto")
    if strip_accents is not None and kind not in training.LOWER_CASING:
        raise UserError(f"--strip_accents={settings.strip_accents}: not for {kind}; expected auto")
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
            sample = sampling.Sample(plan, settings.reading, _SAMPLE_BYTES)
            texts = _enough(sample, settings, size)
            if progress:
                print(f"training a {kind} vocabulary of {size:,}", file=sys.stderr, flush=True)
            lower_case, strip_accents = settings.lower_case != "false", _SWITCHES[settings.strip_accents]
            tokenizer = training.train(kind, texts, size, lower_case, strip_accents)
            tokenizer.save(temporary)
            sizes = {"asked": size, "sample_bytes": sample.bytes, "sample_is_everything": sample.everything}
            files.write_json(temporary / "training.json", sizes)
            if progress and tokenizer.vocab_size < size:
                print(f"the text gave {tokenizer.vocab_size:,} tokens, not {size:,}", file=sys.stderr, flush=True)
        else:
            assert tokenizer is not None, "a vocabulary is either trained or opened"
            wanted = _num_wanted(settings)
            sample = sampling.Sample(plan, settings.reading, _SAMPLE_BYTES if wanted else _CHECKED_BYTES)
            if wanted:
                words = new_tokens.find(tokenizer, _enough(sample, settings, wanted), wanted)
                tokenizer, added = new_tokens.extend(tokenizer, words, f"--add_tokens={settings.add_tokens}")
            else:
                for _ in sample.texts():
                    pass
            tokenizer.save(temporary)
            if settings.add_tokens:
                files.write_json(temporary / "new_tokens.json", added)
        measured = fit.measure(tokenizer, sample.excerpt)
        if trained and measured.unknown_share >= fit.TOO_MUCH_UNKNOWN:
            raise UserError(_misfit(settings.tokenizer, measured))
        files.write_json(temporary / "fit.json", _summary(measured))
        if progress:
            for line in warnings({"fit": _summary(measured)}):
                print(line, file=sys.stderr, flush=True)
    return loading.load(folder)


def _enough(sample, settings, wanted) -> Iterator[str]:
    """Returns the texts of a sample. Raises UserError if there are none, or too few to learn `wanted` tokens from."""
    texts, first, size = sample.texts(), [], 0
    while size <= wanted * _LEAST_BYTES and (text := next(texts, None)) is not None:
        first.append(text)
        size += len(text.encode())
    if size > wanted * _LEAST_BYTES:
        return itertools.chain(first, texts)
    lack = f"{size:,} bytes of text are too few to learn {wanted:,} tokens from" if size else "no text in it"
    skipped = f"; the first of {len(sample.skipped)} skipped: {sample.skipped[0]}" if sample.skipped else ""
    expected = "expected more text, or fewer tokens" if size else "expected at least one document"
    raise UserError(f"--input={settings.input}: {lack}{skipped}; {expected}")


def _misfit(tokenizer, measured):
    """Returns why a trained vocabulary is refused."""
    examples = f" (such as {', '.join(measured.unknown_examples)})" if measured.unknown_examples else ""
    return (
        f"--tokenizer={tokenizer}: {measured.unknown_share:.1%} of the text's characters would be unknown{examples}: "
        "the text has more characters than fit; expected a larger vocabulary, or train:bpe:N, to which none is unknown"
    )


def _summary(measured):
    """Returns what the manifest says about the fit of a vocabulary to the excerpt that it was checked with."""
    return {
        "characters": measured.characters,
        "unknown_character_share": measured.unknown_share,
        "unknown_examples": list(measured.unknown_examples),
        "long_words": measured.long_words,
        "altered_letter_share": measured.altered_share,
        "altered_examples": list(measured.altered_examples),
        "lost_joiner_share": measured.lost_joiner_share,
    }


def warnings(facts: dict, unknown_share: float | None = None, unknown_tokens: float = 0.0) -> list[str]:
    """Returns what a user should know about how a vocabulary reads the text, a line for each.

    Args:
      facts: the manifest's entry about the vocabulary, as `facts` returns it.
      unknown_share: share of unknown characters in all of the text; None takes that of the excerpt in `facts`.
      unknown_tokens: share of unknown tokens in all of the text.
    """
    measured, lines = facts.get("fit", {}), []  # a vocabulary that an earlier version wrote has none
    share = measured.get("unknown_character_share", 0) if unknown_share is None else unknown_share
    asked, size = facts.get("training", {}).get("asked", 0), facts.get("vocab_size", 0)
    if size < _FAR_FEWER * asked:
        lines.append(
            f"warning: the vocabulary has {size:,} tokens, not the {asked:,} that were asked for: the text has no more "
            "that occur often enough; models of it need --config.model.vocab_size=0, which takes the corpus's own size"
        )
    if unknown_tokens >= _UNKNOWN_TOKENS and share < fit.UNKNOWN:
        lines.append(
            f"warning: {unknown_tokens:.1%} of the tokens are unknown to the vocabulary: train one on this text "
            "(--tokenizer=train:unigram:N), or one of bytes, to which none is unknown (train:bpe:N)"
        )
    if share >= fit.UNKNOWN:
        missing = measured.get("unknown_examples")
        examples = f", such as {', '.join(missing)}" if missing else ""
        reason = "; most of them in words of over 100 characters" if measured.get("long_words") else ""
        lines.append(
            f"warning: {share:.1%} of the characters are unknown to the vocabulary{examples}{reason}: train one on "
            "this text (--tokenizer=train:unigram:N), a larger one, or one of bytes, to which none is unknown "
            "(train:bpe:N)"
        )
    if measured.get("altered_letter_share", 0) >= fit.ALTERED:
        examples = measured["altered_examples"]
        is_lost = all(example.endswith(" to nothing") for example in examples)  # letters of private use
        lines.append(
            f"warning: {measured['altered_letter_share']:.1%} of the letters change in more than their case "
            f"({', '.join(examples)}): a trained vocabulary keeps them with "
            + ("train:bpe:N" if is_lost else "--strip_accents=false, or with --lower_case=false")
        )
    if measured.get("lost_joiner_share", 0) >= fit.JOINERS:
        lines.append(
            f"warning: in {measured['lost_joiner_share']:.1%} of the words a joiner or non-joiner is lost (U+200D, "
            "U+200C), which join or part letters and emoji: train:bpe:N keeps them"
        )
    return lines


def facts(output: pathlib.Path, tokenizer: Tokenizer, choice: Choice) -> dict:
    """Returns the manifest's entry about the vocabulary.

    Args:
      output: the corpus's folder.
      tokenizer: its tokenizer.
      choice: what it was made from.
    """
    entry = {"source": choice.source, "kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    for key, name in (("training", "training.json"), ("new_tokens", "new_tokens.json"), ("fit", "fit.json")):
        path = output / "tokenizer" / name
        if path.is_file():
            entry[key] = json.loads(path.read_text("utf-8"))
    return entry


def _num_wanted(settings):
    """Returns how many words of the text --add_tokens asks for; 0 where it names a file or is not given."""
    number = settings.add_tokens or ""
    return int(number) if number.isdigit() else 0
