"""Defines the base class of the predictors: it opens a model and streams examples through it."""

import concurrent.futures
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from bert_jax import _moved
from bert_jax import model as model_lib
from bert_jax.config.keys import DTYPES
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError
from bert_jax.errors import shortened as shortened
from bert_jax.inference.batching import Program, Row, row_limits
from bert_jax.inference.examples import Example as Example
from bert_jax.inference.examples import Reader, check_texts
from bert_jax.interop.pretrained import Pretrained
from bert_jax.runs.models import open_model

Where = Callable[[int], str]

_CHUNK_EXAMPLES, _CHUNK_CHARACTERS = 4096, 1 << 23  # a chunk ends at whichever is reached first


class Predictor:
    """Runs a model with one head on examples, each a tuple of texts.

    A subclass gives the head's computation on the device (`_compute`), the rows of a chunk of examples (`_rows`) and
    the answers from the outputs of these rows (`_answers`).

    Args:
      model: a model's name, as `from_pretrained` takes it, or an opened model (`bert_jax.load`).
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says (config.model.dtype,
        whose "auto" is bfloat16 on accelerators and float32 elsewhere).
      packing: whether several texts may share a row, which changes no answer: True, False, or "auto": where it saves
        time (see `batching.Program`).

    Attributes:
      model: the opened model.
      tokenizer: the model's tokenizer.
      max_length: the most tokens of a row, special tokens included.
      chunk_length: tokens of the chunks that a row consists of, for a model that reads texts in chunks; else 0.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("text",)  # names of an example's texts
    REQUIRED: ClassVar[int] = 1  # how many of the first of them an example must have
    WORDS: ClassVar[bool] = False  # whether a list of words may stand for the text
    POSITIONS: ClassVar[str] = ""  # argument `positions` of Program
    OUTPUTS: ClassVar[str] = "text"  # argument `outputs` of Program
    PART: ClassVar[str] = "discriminator"  # argument `part` of open_model
    _chunk_examples: int = _CHUNK_EXAMPLES

    def __init__(
        self, model: str | os.PathLike | Pretrained, *, dtype: str | None = None, packing: str | bool = "auto"
    ):
        model = self.opened(model)
        if dtype not in (None, *DTYPES):
            raise UserError(f"dtype: found {dtype!r}; expected {' or '.join(DTYPES)}")
        if packing not in ("auto", True, False):
            raise UserError(f'packing: found {packing!r}; expected "auto", True or False')
        self._check_head(model)
        self.model = model
        self.tokenizer = model.tokenizer
        self.max_length, self.chunk_length = row_limits(model.model.spec)
        self._program = Program(model, self._compute, dtype, self.POSITIONS, self.OUTPUTS, packing)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options) -> Self:
        """Opens a model by name.

        Args:
          name: the workdir of a run (its newest checkpoint; of fine-tuning, the best parameters), a Hugging Face
            directory, or a name on the Hugging Face hub.
          **options: keyword arguments of the class.

        Raises:
          UserError: there is no such model, it lacks the head that this class reads, or an option does not fit it.
        """
        return cls(cls.opened(name), **options)

    @classmethod
    def opened(cls, model: Any) -> Pretrained:
        """Returns the model that the first argument of the class stands for; see `open_argument`."""
        return open_argument(model, cls.PART)

    def stream(
        self,
        examples: Iterable[Example],
        where: Where = lambda i: f"text {i + 1}",
        done: Callable[[int], None] = lambda count: None,
        allow_empty: bool = False,
        **options,
    ) -> Iterator[Any]:
        """Yields the answer to each example, in order, holding a few thousand examples in memory at a time.

        Args:
          examples: tuples of texts, as many as the class reads (FIELDS), or texts and records as a call takes them.
          where: returns the name of the i-th example (from 0) for error messages.
          done: called with the number of newly finished examples.
          allow_empty: whether a text may be empty, as in fine-tuning; else it is refused.
          **options: keyword arguments of the class's call, such as top_k of FillMask.

        Raises:
          UserError: an example cannot be answered.
        """
        static = self._static(**options)
        for chunk, rows, notes in _ahead(self._prepared(examples, where, options, allow_empty)):
            outputs = self._program(rows, static, _in_examples(len(chunk), len(rows), done))
            yield from self._answers(chunk, rows, notes, outputs, options)

    def check(self, examples: Iterable[Example], where: Where, allow_empty: bool = False, **options) -> None:
        """Raises UserError for examples and options that `stream` would refuse, as far as can be seen without a run."""
        self._static(**options)

    def _prepared(self, examples, where, options, allow_empty=False):
        first, reader = 0, self._reader
        read = (
            example if type(example) is tuple else reader.example(example, where(i))
            for i, example in enumerate(examples)
        )
        for chunk in _chunks(read, self._chunk_examples):
            for i, example in enumerate(chunk, first):
                self._check(example, where(i), allow_empty)
            rows, notes = self._rows(chunk, lambda i, first=first: where(first + i), options)
            yield chunk, rows, notes
            first += len(chunk)

    def _check(self, example, where, allow_empty):
        """Raises UserError for an example that cannot be read."""
        check_texts(example, self.FIELDS[: len(example)], where, allow_empty)

    def _check_head(self, model: Pretrained) -> None:
        """Raises UserError if the model lacks the head that this class reads."""

    def _static(self, *_: Any, **options: Any) -> Hashable:
        """Returns the static argument of `_compute` for a call's options. Raises UserError for an invalid option."""
        return None

    def _compute(self, network: model_lib.Model, params: dict, batch: dict, static: Any, /) -> Any:
        """Returns the outputs to fetch for a batch; traced by jax, once for each shape and static argument."""
        raise NotImplementedError

    def _rows(self, examples: Sequence[Example], where: Where, options: Mapping) -> tuple[list[Row], Any]:
        """Returns the rows of a chunk, and notes for `_answers`. Runs in a thread while the device works."""
        raise NotImplementedError

    def _answers(
        self, examples: Sequence[Example], rows: Sequence[Row], notes: Any, outputs: Sequence[Any], options: Mapping, /
    ) -> Iterable[Any]:
        """Returns an answer for each example of a chunk, from the outputs of its rows."""
        raise NotImplementedError

    @property
    def _reader(self) -> Reader:
        """Reads what a call is given."""
        return Reader(self.FIELDS, self.REQUIRED, self.WORDS, tuple(self.model.settings.get("columns", ())))

    def _call(self, examples_and_whether_single, **options):
        examples, single = examples_and_whether_single
        answers = list(self.stream(examples, **options))
        return answers[0] if single else answers


def open_argument(model: Any, part: str = "discriminator") -> Pretrained:
    """Returns an opened model: the one of a name, or the one that is given, alone or as `load` returns it.

    Args:
      model: a name, as `Predictor.from_pretrained` takes it, a Pretrained, or the pair that `load` returns.
      part: argument `part` of open_model.

    Raises:
      UserError: there is no such model, or `model` is none of these.
    """
    if isinstance(model, str | os.PathLike):
        return open_model(model, part=part)
    if isinstance(model, tuple) and model and isinstance(model[0], Pretrained):
        model = model[0]
    if not isinstance(model, Pretrained):
        raise UserError(f"model: found {type(model).__name__}; expected a model's name, or what bert_jax.load returns")
    return model


def load(name: str | os.PathLike) -> tuple[Pretrained, Tokenizer]:
    """Opens a model and returns it with its tokenizer.

        model, tokenizer = bert_jax.load("runs/bert")
        outputs = model.apply(batch)  # hidden [batch, sequence, hidden], logits of each head

    Args:
      name: the workdir of a run, a Hugging Face directory, or a name on the Hugging Face hub.

    Returns:
      The model with its float32 parameters (`model.params`), and its tokenizer.

    Raises:
      UserError: there is no such model, it is damaged, or it is of a kind that is not supported.
    """
    model = open_model(name)
    return model, model.tokenizer


def prompt_text(model: Pretrained, prompt: str | None = None, prompt_name: str | None = None) -> str:
    """Returns the text that is put before an input, "" for none.

    Args:
      model: the model, which may have prompts by name and a default one, as sentence-transformers has them.
      prompt: the text itself; None: see prompt_name.
      prompt_name: name of one of the model's prompts; None: its default one, if any.

    Raises:
      UserError: the model has no prompt of that name.
    """
    prompts = model.settings.get("prompts") or {}
    if prompt is not None:
        return prompt
    name = prompt_name or model.settings.get("default_prompt_name")
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(sorted(prompts)) or "none"
        raise UserError(f"prompt_name: found {name!r}; the prompts of {model.name} are: {known}")
    return prompts[name] or ""


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Returns the token of an id; "" for a row of the embedding beyond the vocabulary."""
    return tokenizer.token(token_id) if token_id < tokenizer.vocab_size else ""


def require_task(model: Pretrained, task: str, purpose: str) -> None:
    """Raises UserError unless the model was fine-tuned for `task`, such as "token_classification"."""
    head = model.model.spec.task
    if head is None or head.name != task:
        also = " (config.task.name=reranking)" if purpose == "reranking" else ""
        raise UserError(
            f"{model.name}: {purpose} needs a model fine-tuned for {task.replace('_', ' ')}{also}, but this one has "
            f"{head_names(model)}"
        )


def head_names(model: Pretrained) -> str:
    """Returns the heads of a model in words, such as "a masked-language-model head and a next-sentence head".

    What the files of a model lack of further heads follows.
    """
    spec = model.model.spec
    names = [f"a head for {spec.task.name.replace('_', ' ')}"] if spec.task else []
    names += ["a masked-language-model head"] if spec.language_model else []
    names += ["a next-sentence head"] if spec.next_sentence else []
    names += ["a sentence-order head"] if spec.sentence_order else []
    names += ["a head for replaced tokens"] if spec.replaced_tokens else []
    return "; ".join([" and ".join(names) or "no head (a bare encoder)", *model.lacking.values()])


def _chunks(examples, number):
    chunk, characters = [], 0
    for example in examples:
        chunk.append(example)
        characters += sum(len(text) if isinstance(text, str) else _characters(text) for text in example)
        if len(chunk) == number or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _characters(words):
    """Returns the characters of a list of words; 0 for what is none."""
    return sum(map(len, filter(lambda word: isinstance(word, str), words))) if isinstance(words, list | tuple) else 0


def _ahead(items: Iterator) -> Iterator:
    """Yields the same items, computing the next one in a thread while the caller uses the current one."""
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item


def _in_examples(examples, rows, done):
    """Returns a callback for numbers of finished rows that calls `done` with numbers of finished examples."""
    finished_rows = reported = 0

    def report(count):
        nonlocal finished_rows, reported
        finished_rows += count
        finished = examples * finished_rows // rows
        done(finished - reported)
        reported = finished

    return report


def __getattr__(name):
    return _moved.find("inference.predictor", name)
