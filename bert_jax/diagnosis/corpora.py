"""What is known of the text that a run learns from: its manifest, and the run's own indexes where they are at hand."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

from bert_jax import config as config_lib
from bert_jax import storage
from bert_jax.errors import UserError

_SAMPLE = 100_000  # instances of an index that are looked at
_HELD_OUT_SENTENCES, _TRAIN_SENTENCES = 2_000, 500_000  # that are compared: a second
_LEAST_TOKENS = 8  # of a sentence that is no commonplace


@dataclasses.dataclass(frozen=True)
class Text:
    """One corpus of a run.

    Attributes:
      path: as the run knew it.
      manifest: what manifest.json holds; None where it cannot be had.
      missing: why not, in words.
      folder: on this machine; None where it lies elsewhere.
    """

    path: str
    manifest: Mapping | None
    missing: str = ""
    folder: pathlib.Path | None = None

    @property
    def documents(self) -> int:
        return self.manifest["documents"]

    @property
    def duplicates(self) -> int:
        """Documents that equal an earlier one and were kept."""
        return 0 if self.manifest["settings"].get("drop_duplicates") else self.manifest["duplicate_documents"]

    def tokens(self, split: str) -> int:
        return self.manifest["splits"][split]["tokens"]

    def held_out_documents(self) -> int:
        return self.manifest["splits"]["eval"]["documents"]

    @functools.cached_property
    def unigram_counts(self):
        """How often the train split has each token, [vocabulary]; None where the file is not at hand."""
        import numpy as np

        try:
            return np.load(self.folder / "train" / "unigram.npy") if self.folder else None
        except (OSError, ValueError):
            return None

    def rows(self, config, phase: config_lib.Phase) -> "Rows | None":
        """The rows that a phase makes of the train split; None where the run's index is not at hand."""
        if self.folder is None:
            return None
        import numpy as np

        from bert_jax.data import instances, loader
        from bert_jax.data.corpus import Corpus

        data = phase.data
        recipe = loader.instance_recipe(config, data)
        index = instances.cached_index(Corpus(self.folder, self.manifest), "train", recipe)
        if index is None or not len(index):
            return None
        some = index[:: max(1, len(index) // _SAMPLE)]
        if data.format in config_lib.PAIR_FORMATS:
            lengths, random = some["a_length"] + some["b_length"] + 3, None
            if "is_random" in some.dtype.names:
                random = float(some["is_random"].mean())
        else:
            lengths, random = some["stop"] - some["start"] + some["num_documents"] + 1, None
        return Rows(len(index), 1 - float(np.mean(lengths)) / data.sequence_length, random)

    @functools.cached_property
    def shared_sentences(self) -> float | None:
        """The share of the held-out sentences of 8 tokens or more that stand in the training text too, to the letter.

        Of a sample, and in the beginning of a large training text: at least so many. None where the files are not at
        hand, or no such sentence is held out.
        """
        if self.folder is None:
            return None
        from bert_jax.data.corpus import Corpus

        corpus = Corpus(self.folder, self.manifest)
        try:
            held_out = list(_sentences(corpus.split("eval"), _HELD_OUT_SENTENCES))
            if not held_out:
                return None
            missing = set(held_out)
            missing.difference_update(_sentences(corpus.split("train"), _TRAIN_SENTENCES))
        except UserError:
            return None
        return sum(sentence not in missing for sentence in held_out) / len(held_out)


def _sentences(split, most):
    """The first sentences of a split that are long enough, as bytes."""
    import numpy as np

    for i, shard in enumerate(split.shards):
        start, stop = split.shard_starts[i], split.shard_starts[i + 1]
        first, last = np.searchsorted(split.sentences, [start, stop])
        offsets = np.asarray(split.sentences[first : min(last, first + most) + 1]) - start
        most -= len(offsets) - 1
        tokens = np.asarray(shard.tokens[: offsets[-1]])
        for begin, end in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
            if end - begin >= _LEAST_TOKENS:
                yield tokens[begin:end].tobytes()
        if most <= 0:
            return


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a corpus.

    Attributes:
      count: in a pass over it.
      padding: the share of their positions.
      random_pairs: the share whose second part is another document's; None without pairs.
    """

    count: int
    padding: float
    random_pairs: float | None


def find(run: Mapping, workdir) -> list[Text]:
    """The corpora that run.json names.

    A relative path counts from the current directory, else from the workdir's ancestors.
    """
    return [_find(corpus["path"], corpus["fingerprint"], workdir) for corpus in run.get("corpora", ())]


def _find(path, fingerprint, workdir):
    places, other = [path], False
    if not storage.is_remote(path) and not pathlib.Path(path).is_absolute() and not storage.is_remote(workdir):
        places += [str(folder / path) for folder in pathlib.Path(workdir).absolute().parents]
    from bert_jax.data.corpus import read_manifest

    for place in places:
        where = f"{place.rstrip('/')}/manifest.json"
        try:
            manifest = read_manifest(storage.read(where), where)
            _check(manifest)
        except (OSError, UserError, KeyError, TypeError):
            continue
        if manifest["fingerprint"] == fingerprint:
            return Text(path, manifest, folder=None if storage.is_remote(place) else pathlib.Path(place))
        other = True
    return Text(path, None, "another corpus lies there now" if other else "no corpus that can be read is there now")


def _check(manifest):
    """Raises KeyError or TypeError if the manifest lacks what is read of it."""
    _ = manifest["documents"] + manifest["duplicate_documents"] + manifest["unknown_token_share"]
    _ = [manifest["splits"][split]["tokens"] + manifest["splits"][split]["documents"] for split in ("train", "eval")]
    _ = manifest["settings"].get("drop_duplicates")


def shares(texts: Sequence[Text], data) -> list[float]:
    """The share of the training rows that each corpus has, of a phase's `data`; all manifests must be there."""
    found = [float(weight) for weight in data.weights]
    if len(found) != len(texts):
        found = [text.tokens("train") ** (1 / data.temperature) for text in texts]
    return [share / (sum(found) or 1) for share in found]


def frequencies(texts: Sequence[Text], data):
    """The share of each token in the training text, [vocabulary]; None where a corpus is not at hand.

    Corpora are weighed as a phase's `data` mixes them.
    """
    if not texts or any(text.manifest is None or text.unigram_counts is None for text in texts):
        return None
    parts = [
        share * text.unigram_counts / max(1, text.unigram_counts.sum())
        for share, text in zip(shares(texts, data), texts, strict=True)
    ]
    return sum(parts)


def entropy(frequencies) -> float:
    """Nats that a token costs under its own frequencies."""
    import numpy as np

    some = frequencies[frequencies > 0]
    return float(-(some * np.log(some)).sum())


def copying_loss(frequencies, data) -> float:
    """The least loss of masked tokens, in nats, without a look at their neighbours.

    Some of the chosen tokens are not masked: they stay, or become a random one. A model that knows frequencies alone
    soon finds out that what it sees there is likely the answer, more so the more frequent it is.

    Args:
      frequencies: of the tokens, [vocabulary].
      data: with mask_token_share and random_token_share.
    """
    import numpy as np

    unmasked = 1 - data.mask_token_share
    if unmasked <= 0:
        return entropy(frequencies)
    randomised = data.random_token_share / unmasked
    p, q = frequencies[frequencies > 0], 1 / len(frequencies)  # q: of a random token
    seen = (1 - randomised) * p + randomised * q
    right = p * (1 - randomised + randomised * q)  # seen, and the answer
    loss = -(right * np.log(right / seen)).sum()
    if randomised:
        others = -entropy(frequencies) - p * np.log(p)  # sum over the other answers y of p_y ln p_y
        rest = others + (1 - p) * (np.log(randomised * q) - np.log(seen))
        loss -= (randomised * q * rest).sum()
        unseen = len(frequencies) - len(p)  # random tokens that the text lacks: frequencies are all there is to go by
        loss += randomised * q * unseen * entropy(frequencies)
    return data.mask_token_share * entropy(frequencies) + unmasked * float(loss)
