"""Makes what the runs of an experiment share: the corpus, tasks made from it, and batches of equally many tokens."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from bert_jax import config as config_lib
from bert_jax import files
from bert_jax.config.evaluation import RECIPE
from bert_jax.data import loader
from bert_jax.data.corpus import Corpus, Split
from bert_jax.data.preparation import pipeline
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

from ..experiment import Experiment, Text, configured

TASK_ROWS = {"train": 4000, "held_out": 1000}
_SAMPLED_BATCHES = 16
_PARTS = 32
_SHORTEST, _LONGEST = 5, 30  # words in a sentence of the task


def make_corpus(text: Text, folder: pathlib.Path) -> None:
    """Prepares the corpus, or continues; does nothing if it is complete."""
    settings = pipeline.Settings(input=text.input, tokenizer=text.tokenizer, **text.settings)
    pipeline.prepare(settings, folder)


def make_bigram_shift(corpus: Corpus, folder: pathlib.Path) -> dict[str, str]:
    """Writes the files of the task bigram shift (Conneau et al. 2018, section 2): are two neighbouring words swapped?

    Half of the sentences have such a pair. Training sentences come from the corpus's train split, held-out ones from
    its eval split. Returns the task's overrides that name the files.

    Raises:
      UserError: the corpus has too few sentences.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overrides = {"task.text": "sentence", "task.label": "label"}
    for split, name in (("train", "train"), ("eval", "held_out")):
        path = folder / f"{name}.jsonl"
        overrides[f"task.{name}"] = str(path)
        if path.exists():
            continue
        rows = list(_sentences(corpus.split(split), corpus.tokenizer, TASK_ROWS[name]))
        if len(rows) < 20:
            raise UserError(
                f"{corpus.path}: {len(rows)} sentences of {_SHORTEST} to {_LONGEST} words in its {split} split; the "
                "task bigram_shift needs 20; expected more text, a larger eval_share, or other --tasks"
            )
        random = np.random.default_rng(0)
        lines = [files.json_line(_example(words, shifted=bool(i % 2), random=random)) for i, words in enumerate(rows)]
        files.atomic_write(path, "".join(f"{line}\n" for line in lines))
    return overrides


def with_equal_tokens(experiment: Experiment, corpus: str) -> Experiment:
    """Returns the experiment with batch sizes that give a step of each arm as many tokens as the first arm's."""
    rows, lengths = {}, {}
    for arm, changes in experiment.arms.items():
        config = configured(experiment.recipe, {**experiment.overrides, **changes, "data.corpus": corpus})
        stream = loader.Stream(config)
        rows[arm] = [phase.data.batch_size for phase in stream.phases]
        lengths[arm] = [_mean_length(stream, phase) for phase in stream.phases]
    first = next(iter(experiment.arms))
    arms = {}
    for arm, changes in experiment.arms.items():
        sizes = [
            _rows(size, size * length / own)
            for size, length, own in zip(rows[first], lengths[first], lengths[arm], strict=True)
        ]
        phases = configured(experiment.recipe, {**experiment.overrides, **changes}).data.phases
        if phases:
            with_sizes = [{**phase, "batch_size": size} for phase, size in zip(phases, sizes, strict=True)]
            arms[arm] = {**changes, "data.phases": with_sizes}
        else:
            arms[arm] = {**changes, "data.batch_size": sizes[0]}
    return dataclasses.replace(experiment, arms=arms)


def check_tuning_rows(experiment: Experiment, corpus: str) -> None:
    """Raises UserError if the corpus has no held-out rows behind those reported, to choose pre-training rates on."""
    key = experiment.tuning.measure or experiment.measures[0].key
    if not key.startswith("common/"):
        return
    data = {name: value for name, value in experiment.evaluation.items() if name not in ("batches", "seed", "split")}
    config = config_lib.base()
    config.data.update(RECIPE | data)
    config.data.corpus = corpus
    config.objective.next_sentence = False
    stream = loader.Stream(config)
    rows = sum(int(source.counts[0]) for source in stream.sources(stream.phases[0], "eval", packed=False))
    reported = experiment.evaluation["batches"] * config.data.batch_size
    if rows <= reported:
        raise UserError(
            f"--tune: {corpus} has {rows} held-out rows, and the first {reported} are reported; expected more held-out "
            "text (--eval_share of prepare), or a tuning.measure of a task"
        )


def _mean_length(stream, phase):
    """Returns the mean number of non-padding tokens in a row."""
    steps = range(phase.start, min(phase.stop, phase.start + _SAMPLED_BATCHES))
    return np.mean([stream.batch(step)["attention_mask"].sum(1).mean() for step in steps])


def _rows(size, wanted):
    part = max(1, size // _PARTS)  # batch sizes are multiples of this, so that devices divide the batch
    return max(1, round(wanted / part)) * part


def _sentences(split: Split, tokenizer: Tokenizer, number: int) -> Iterator[list[str]]:
    """Yields the words of up to `number` sentences, drawn from the whole split."""
    order = np.random.default_rng(0).permutation(split.num_sentences)
    count = 0
    for sentence in order.tolist():
        words = _words(split, tokenizer, int(split.sentences[sentence]), int(split.sentences[sentence + 1]))
        if _SHORTEST <= len(words) <= _LONGEST and _swappable(words):
            yield words
            count += 1
        if count == number:
            return


def _words(split, tokenizer, start, stop):
    shard = int(np.searchsorted(split.shard_starts, start, side="right")) - 1
    offset = int(split.shard_starts[shard])
    start, stop = start - offset, stop - offset
    tokens = np.asarray(split.shards[shard].tokens[start:stop])
    starts = np.unpackbits(split.shards[shard].word_starts[start // 8 : -(-stop // 8)])[start % 8 :][: stop - start]
    starts[:1] = 1
    words = np.split(tokens, np.flatnonzero(starts)[1:])
    return [word for word in (tokenizer.decode(ids.tolist()).strip() for ids in words) if word]


def _swappable(words):
    """Returns the positions of neighbouring words that may be swapped: different, alphabetic, not the first."""
    pairs = list(zip(words, words[1:], strict=False))
    return [i for i, (a, b) in enumerate(pairs) if i and a.isalpha() and b.isalpha() and a != b]


def _example(words, shifted, random):
    if shifted:
        i = random.choice(_swappable(words))
        words = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
    return {"sentence": " ".join(words), "label": "shifted" if shifted else "original"}
