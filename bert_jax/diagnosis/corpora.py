"""Reads facts about a run's training text: the corpus manifest, and instance indexes cached on this machine."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

from bert_jax import _moved, storage
from bert_jax import config as config_lib
from bert_jax.errors import UserError

_SAMPLE = 100_000  # instances of an index that are read
_HELD_OUT_SENTENCES, _TRAIN_SENTENCES = 2_000, 500_000  # compared with each other; takes a second
_LEAST_TOKENS = 8  # shorter sentences are too common to prove anything


@dataclasses.dataclass(frozen=True)
class Text:
    """Describes one corpus of a run.

    Attributes:
      path: path of the corpus in the run's config.
      manifest: content of manifest.json; None if it cannot be read.
      missing: why it cannot be read, in words.
      folder: the corpus's folder on this machine; None if it lies elsewhere.
    """

    path: str
    manifest: Mapping | None
    missing: str = ""
    folder: pathlib.Path | None = None

    @property
    def documents(self) -> int:
        """Returns the number of documents."""
        return self.manifest["documents"]

    @property
    def duplicates(self) -> int:
        """Returns the number of documents that equal an earlier one and were kept."""
        return 0 if self.manifest["settings"].get("drop_duplicates") else self.manifest["duplicate_documents"]

    @property
    def unknown_share(self) -> tuple[float, str]:
        """Returns the share of the text that the vocabulary lacks, and its unit: "characters", or "tokens" if larger.

        One unknown token may stand for a whole clause of a script without spaces, so characters say more. A corpus of
        an earlier version has the share of tokens alone.
        """
        manifest = self.manifest or {}
        by_token, by_character = (manifest.get(f"unknown_{unit}_share", 0.0) for unit in ("token", "character"))
        return (by_token, "tokens") if by_token > by_character else (by_character, "characters")

    def tokens(self, split: str) -> int:
        """Returns the number of tokens of a split, "train" or "eval"."""
        return self.manifest["splits"][split]["tokens"]

    def held_out_documents(self) -> int:
        """Returns the number of held-out documents."""
        return self.manifest["splits"]["eval"]["documents"]

    @functools.cached_property
    def unigram_counts(self):
        """Returns how often each token occurs in the train split, [vocabulary]; None if the file cannot be read."""
        import numpy as np

        try:
            return np.load(self.folder / "train" / "unigram.npy") if self.folder else None
        except (OSError, ValueError, EOFError):
            return None

    def rows(self, config, phase: config_lib.Phase) -> "Rows | None":
        """Returns statistics of the rows of a phase, from the cached instance index; None if there is no such index."""
        if self.folder is None:
            return None
        import numpy as np

        from bert_jax.data import instances, stream
        from bert_jax.data.corpus import Corpus

        data = phase.data
        recipe = stream.instance_recipe(config, data)
        index = instances.cached_index(Corpus(self.folder, self.manifest), "train", recipe)
        if index is None or not len(index):
            return None
        held = instances.share_held(index, self.tokens("train"))
        sample = index[:: max(1, len(index) // _SAMPLE)]
        random = float(sample["is_random"].mean()) if "is_random" in sample.dtype.names else None
        padding = 1 - float(np.mean(instances.row_lengths(sample))) / data.sequence_length
        return Rows(len(index), padding, random, held)

    @functools.cached_property
    def shared_sentences(self) -> float | None:
        """Returns the share of the held-out sentences of at least 8 tokens that occur verbatim in the training text.

        A lower bound: a sample of held-out sentences is searched in the first part of a large training text. None if
        the files cannot be read or no such sentence is held out.
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


def _sentences(split, limit):
    """Yields the sentences with enough tokens among the first `limit` of a split, as bytes."""
    import numpy as np

    for i, shard in enumerate(split.shards):
        start, stop = split.shard_starts[i], split.shard_starts[i + 1]
        first, last = np.searchsorted(split.sentences, [start, stop])
        offsets = np.asarray(split.sentences[first : min(last, first + limit) + 1]) - start
        limit -= len(offsets) - 1
        tokens = np.asarray(shard.tokens[: offsets[-1]])
        for begin, end in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
            if end - begin >= _LEAST_TOKENS:
                yield tokens[begin:end].tobytes()
        if limit <= 0:
            return


@dataclasses.dataclass(frozen=True)
class Rows:
    """Holds statistics of the rows that a phase makes of a corpus.

    Attributes:
      count: number of rows in a pass over the corpus.
      padding: share of padding among their positions.
      random_pairs: share of rows whose second segment is from another document; None without pairs.
      text_share: share of the corpus's training tokens that the rows hold.
    """

    count: int
    padding: float
    random_pairs: float | None
    text_share: float = 1.0


def find_corpora(run: Mapping, workdir) -> list[Text]:
    """Finds the corpora that run.json names.

    A relative path is looked up in the current directory, then in each ancestor of the workdir.
    """
    return [_find(corpus["path"], corpus["fingerprint"], workdir) for corpus in run.get("corpora", ())]


def _find(path, fingerprint, workdir):
    places, has_changed = [path], False
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
        has_changed = True
    return Text(
        path, None, "another corpus lies there now" if has_changed else "no corpus that can be read is there now"
    )


def _check(manifest):
    """Raises KeyError or TypeError if the manifest lacks a field that the checks read."""
    _ = manifest["documents"] + manifest["duplicate_documents"] + manifest["unknown_token_share"]
    _ = [manifest["splits"][split]["tokens"] + manifest["splits"][split]["documents"] for split in ("train", "eval")]
    _ = manifest["settings"].get("drop_duplicates")


def mixture_shares(texts: Sequence[Text], data) -> list[float]:
    """Returns the share of training rows that each corpus has under a phase's `data`; needs all manifests."""
    weights = [float(weight) for weight in data.weights]
    if len(weights) != len(texts):
        weights = [text.tokens("train") ** (1 / data.temperature) for text in texts]
    first = data.first_corpora or len(weights)
    weights = [weight if i < first else 0.0 for i, weight in enumerate(weights)]
    return [weight / (sum(weights) or 1) for weight in weights]


def frequencies(texts: Sequence[Text], data):
    """Returns the relative frequency of each token in the training text, [vocabulary]; None if a file is missing.

    Corpora are weighted as a phase's `data` mixes them.
    """
    if not texts or any(text.manifest is None or text.unigram_counts is None for text in texts):
        return None
    parts = [
        share * text.unigram_counts / max(1, text.unigram_counts.sum())
        for share, text in zip(mixture_shares(texts, data), texts, strict=True)
    ]
    return sum(parts)


def entropy(frequencies) -> float:
    """Returns the entropy of a distribution [vocabulary] in nats: the unigram loss of its text."""
    import numpy as np

    positive = frequencies[frequencies > 0]
    return float(-(positive * np.log(positive)).sum())


def copying_loss(frequencies, data) -> float:
    """Returns the lowest loss of predicted tokens, in nats, that is possible without reading their context.

    Some of the chosen tokens are not masked: they stay or become a random token. A model that knows frequencies alone
    soon learns that a visible token is likely the answer, the more so the more frequent it is.

    Args:
      frequencies: relative frequency of each token, [vocabulary].
      data: holds mask_token_share and random_token_share.
    """
    import numpy as np

    unmasked = 1 - data.mask_token_share
    if unmasked <= 0:
        return entropy(frequencies)
    randomised = data.random_token_share / unmasked
    p, q = frequencies[frequencies > 0], 1 / len(frequencies)  # q: probability of a random token
    visible = (1 - randomised) * p + randomised * q
    right = p * (1 - randomised + randomised * q)  # joint probability: the visible token is the answer
    loss = -(right * np.log(right / visible)).sum()
    if randomised:
        other_answers = -entropy(frequencies) - p * np.log(p)  # sum over all other answers y of p_y ln p_y
        unlike = other_answers + (1 - p) * (np.log(randomised * q) - np.log(visible))
        loss -= (randomised * q * unlike).sum()
        # Random tokens that never occur in the text: for these the frequencies are the best guess.
        unseen = len(frequencies) - len(p)
        loss += randomised * q * unseen * entropy(frequencies)
    return data.mask_token_share * entropy(frequencies) + unmasked * float(loss)


def __getattr__(name):
    return _moved.find("diagnosis.corpora", name)
