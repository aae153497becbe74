"""What fill-mask, classify, tag, answer and embed share: opening a model, streaming examples through it, errors."""

import concurrent.futures
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from bert_jax import model as model_lib
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.inference.batching import Program, Row
from bert_jax.interop.pretrained import Pretrained
from bert_jax.runs.models import open_model

Example = tuple[str, ...]
Where = Callable[[int], str]

_EXAMPLES, _CHARACTERS = 4096, 1 << 23  # of a chunk; it ends at whichever comes first


class Predictor:
    """A model with one head, fed with examples: tuples of texts.

    Args:
      model: as open_model gives it.
      dtype: of the computation, "float32" or "bfloat16"; None: as the model says (config.model.dtype, where "auto"
        is bfloat16 on accelerators).
      packing: whether several texts share a row, which changes no answer: True, False, or "auto", where it saves time
        (see Program).

    Attributes:
      model: as it was given.
      tokenizer: the model's.
      max_length: tokens of a row, special tokens included.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("text",)  # names of an example's texts, for messages
    POSITIONS: ClassVar[str] = ""  # see Program
    OUTPUTS: ClassVar[str] = "text"
    PART: ClassVar[str] = "discriminator"  # see open_model

    def __init__(self, model: Pretrained, *, dtype: str | None = None, packing: str | bool = "auto"):
        if dtype not in (None, "float32", "bfloat16"):
            raise UserError(f"dtype: found {dtype!r}; expected float32 or bfloat16")
        if packing not in ("auto", True, False):
            raise UserError(f'packing: found {packing!r}; expected "auto", True or False')
        self._check_head(model)
        self.model = model
        self.tokenizer = model.tokenizer
        self.max_length = model.model.spec.max_positions
        self._program = Program(model, self._compute, dtype, self.POSITIONS, self.OUTPUTS, packing)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options) -> Self:
        """Opens a run's workdir (its best or newest checkpoint), a Hugging Face directory, or a name on the hub.

        Args:
          name: MODEL.
          **options: of the class.

        Raises:
          UserError: no such model, one without the head that this needs, or an option that does not fit it.
        """
        return cls(open_model(name, part=cls.PART), **options)

    def stream(
        self,
        examples: Iterable[Example],
        where: Where = lambda i: f"text {i + 1}",
        done: Callable[[int], None] = lambda count: None,
        **options,
    ) -> Iterator[Any]:
        """The answers to examples, in order, read and held some thousands at a time.

        Args:
          examples: tuples of texts, as many as the class reads.
          where: what to call the i-th one in an error.
          done: called with the number of examples whenever some are finished.
          **options: of the class's call.

        Raises:
          UserError: an example that cannot be answered.
        """
        static = self._static(**options)
        for chunk, rows, notes in _ahead(self._prepared(examples, where, options)):
            outputs = self._program(rows, static, _in_examples(len(chunk), len(rows), done))
            yield from self._answers(chunk, rows, notes, outputs, options)

    def check(self, examples: Iterable[Example], where: Where, **options) -> None:
        """Raises UserError for what `stream` with these arguments would refuse, as far as it shows without running."""
        self._static(**options)

    def _prepared(self, examples, where, options):
        first = 0
        for chunk in _chunks(examples):
            for i, example in enumerate(chunk, first):
                check_texts(example, self.FIELDS[: len(example)], where(i))
            rows, notes = self._rows(chunk, lambda i, first=first: where(first + i), options)
            yield chunk, rows, notes
            first += len(chunk)

    def _check_head(self, model: Pretrained) -> None:
        """Raises UserError if the model has not what this class reads."""

    def _static(self, **options) -> Hashable:
        """What `_compute` is compiled for besides shapes. Raises UserError for options out of range."""
        return None

    def _compute(self, network: model_lib.Model, params: dict, batch: dict, static: Hashable) -> Any:
        """Traced: what is fetched for each row."""
        raise NotImplementedError

    def _rows(self, examples: Sequence[Example], where: Where, options: Mapping) -> tuple[list[Row], Any]:
        """The rows of a chunk, and what `_answers` needs to know of them. Runs in a thread, beside the device."""
        raise NotImplementedError

    def _answers(
        self, examples: Sequence[Example], rows: Sequence[Row], notes: Any, outputs: Sequence[Any], options: Mapping
    ) -> Iterable[Any]:
        """An answer for each example, from the outputs of its rows."""
        raise NotImplementedError

    def _call(self, examples, single, **options):
        found = list(self.stream(examples, **options))
        return found[0] if single else found


def load(name: str | os.PathLike) -> tuple[Pretrained, Tokenizer]:
    """A model with its parameters, and its vocabulary; see training.models.open_model for names and errors."""
    model = open_model(name)
    return model, model.tokenizer


def check_texts(example: Example, fields: Sequence[str], where: str) -> None:
    """Raises UserError if a text of an example is no string, empty, only white space, or not Unicode."""
    for name, text in zip(fields, example, strict=True):
        what = where if len(fields) == 1 else f"{where}: {name}"
        if not isinstance(text, str):
            raise UserError(f"{what}: found {type(text).__name__}; expected a string")
        if not text or text.isspace():
            raise UserError(f"{what}: empty{' (only white space)' if text else ''}; expected text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{what}: half a surrogate pair at character {error.start}; expected Unicode") from error


def require_task(model: Pretrained, task: str, purpose: str) -> None:
    """Raises UserError unless the model was fine-tuned for `task`."""
    found = model.model.spec.task
    if found is None or found.name != task:
        raise UserError(
            f"{model.name}: {purpose} needs a model fine-tuned for {task.replace('_', ' ')}, but this one has "
            f"{heads(model)}"
        )


def heads(model: Pretrained) -> str:
    """What a model can do, in words."""
    spec = model.model.spec
    found = [f"a head for {spec.task.name.replace('_', ' ')}"] if spec.task else []
    found += ["a masked-language-model head"] if spec.language_model else []
    found += ["a next-sentence head"] if spec.next_sentence else []
    found += ["a sentence-order head"] if spec.sentence_order else []
    found += ["a head for replaced tokens"] if spec.replaced_tokens else []
    return " and ".join(found) or "no head (a bare encoder)"


def shortened(text: str, length: int = 60) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _chunks(examples):
    chunk, characters = [], 0
    for example in examples:
        chunk.append(example)
        characters += sum(len(text) for text in example if isinstance(text, str))
        if len(chunk) == _EXAMPLES or characters >= _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _ahead(items: Iterator) -> Iterator:
    """The same items, each made in a thread while the one before it is used."""
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item


def _in_examples(examples, rows, done):
    """A function of rows done that tells `done` of examples done."""
    finished = reported = 0

    def report(count):
        nonlocal finished, reported
        finished += count
        reached = examples * finished // rows
        done(reached - reported)
        reported = reached

    return report
