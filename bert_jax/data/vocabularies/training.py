"""Trains vocabularies on text: WordPiece, byte-level BPE, unigram, SentencePiece.

Text is prepared for training by the normalizer and the pre-tokenizer of the pipeline that the vocabulary is then used
in: pieces that this pipeline never produces would be learned for nothing, and those that it produces would be unknown.
"""

import collections
import io
import json
import re
from collections.abc import Iterable, Iterator

import tokenizers as hf
from tokenizers import models, pre_tokenizers, trainers

from bert_jax.data.vocabularies import hugging_face, sentencepiece_models, tokenizer_classes
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

KINDS = ("wordpiece", "bpe", "bert-bpe", "unigram", "sentencepiece")
LOWER_CASING = ("wordpiece", "unigram")
COVERAGE = 0.9995  # share of the text's characters that a vocabulary of characters must be able to write
_MOST_USUAL = 1000  # characters that have a place however rare they are, in a vocabulary of four times as many entries
NUM_SPECIAL = 5  # special tokens of every kind
# Entries of the smallest vocabulary that may learn something: a character needs one, or two at the beginning of a word.
SMALLEST = {
    "wordpiece": NUM_SPECIAL + 1, "bpe": NUM_SPECIAL + 256, "bert-bpe": NUM_SPECIAL + 256, "unigram": NUM_SPECIAL + 2,
    "sentencepiece": NUM_SPECIAL + 2,
}  # fmt: skip
_PIECE = 1 << 12  # characters of text that trainers are given at once
# SentencePiece drops text with the first, which it uses itself; the second stands for it while a model is trained.
_RESERVED, _PLACEHOLDER = "\u2585", "\U0010fffd"
_NEVER_SPACED = 100  # characters; words of scripts without spaces are cut after so many, as WordPiece takes no more


def cut(text: str, longest: int = _PIECE) -> Iterator[str]:
    """Yields a text in pieces of at most `longest` characters, cut before a space where there is one."""
    start = 0
    while len(text) - start > longest:
        end = text.rfind(" ", start + 1, start + longest + 1)
        end = end if end > start else start + longest
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def train(
    kind: str, texts: Iterable[str], vocab_size: int, lower_case: bool = True, strip_accents: bool | None = None
) -> Tokenizer:
    """Trains a vocabulary. The same text gives the same vocabulary, on any number of threads.

    Args:
      kind: "wordpiece" (as BERT's), "bpe" (byte-level, as RoBERTa's), "bert-bpe" (the same with BERT's special tokens,
        as DeBERTa's and ModernBERT's), "unigram" (as ALBERT's in transformers), or "sentencepiece" (the same for the
        sentencepiece package, which no other program reads).
      texts: read once; of any length.
      vocab_size: includes the special tokens. Little text may give fewer.
      lower_case: whether wordpiece and unigram lower-case text; other kinds do not.
      strip_accents: whether they drop accents, vowel signs and the like; None does where they lower-case.

    Raises:
      UserError: vocab_size is too small for the text's characters, or there is too little text.
    """
    if strip_accents is None:
        strip_accents = lower_case
    makers = {
        "wordpiece": _train_wordpiece,
        "bpe": _train_byte_level,
        "bert-bpe": _train_bert_byte_level,
        "unigram": _train_unigram,
        "sentencepiece": _train_sentencepiece,
    }
    pieces = (piece for text in texts for piece in cut(text))
    return makers[kind](pieces, vocab_size, lower_case, strip_accents)


def _train_wordpiece(texts, vocab_size, lower_case, strip_accents):
    where = f"train:wordpiece:{vocab_size}"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    accents = None if strip_accents == lower_case else strip_accents
    words = collections.Counter()
    for text in texts:
        words.update(text.split())
    if not words:
        _refuse_training(vocab_size, "the text holds no character to learn")
    pipeline = tokenizer_classes.bert_pipeline({"[UNK]": 0}, "[UNK]", lower_case, accents, True)
    characters, long = _characters(words, pipeline)
    if long > (1 - COVERAGE) * characters.total():
        tokenizer_classes.cut_long_words(pipeline, _NEVER_SPACED)
    alphabet = _alphabet(words, characters, pipeline, vocab_size)
    if not alphabet and characters:
        _refuse_training(vocab_size, f"no character of the text fits beside {NUM_SPECIAL} special tokens")
    if not alphabet:
        _refuse_training(vocab_size, "the text holds no character to learn")
    tokenizer = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = pipeline.normalizer, pipeline.pre_tokenizer
    # The trainer numbers continuing characters in the order of a hash map, and breaks ties by these numbers: listed as
    # special tokens, they have the same numbers every time.
    numbered = [*special, *(f"##{character}" for character in alphabet if alphabet[character])]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=numbered,
        initial_alphabet=list(alphabet),
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(words), trainer)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    return hugging_face.wordpiece(tokens, lower_case, where, accents, pre_tokenizer=pipeline.pre_tokenizer)


def _characters(words, pipeline):
    """Counts the characters of normalised words.

    Returns:
      (Counter of characters without white space, number of them in words that are too long for WordPiece)
    """
    characters, long = collections.Counter(), 0
    for word, count in words.items():
        normal = pipeline.normalizer.normalize_str(word)
        for character in normal:
            characters[character] += count
        if len(normal) > _NEVER_SPACED:
            parts = pipeline.pre_tokenizer.pre_tokenize_str(normal)
            long += count * sum(len(part) for part, _ in parts if len(part) > _NEVER_SPACED)
    for character in [character for character in characters if character.isspace()]:
        del characters[character]
    return characters, long


def _usual_alphabet(vocab_size):
    """Returns how many characters have a place in a vocabulary of this size, however rare they are."""
    return min(_MOST_USUAL, vocab_size // 4)


def _alphabet(words, characters, pipeline, vocab_size):
    """Chooses the characters of a WordPiece vocabulary.

    These are the most frequent ones, as many as cover the text: so many that the words which consist of them alone have
    all but 1 - COVERAGE of its characters, because a word with a single unknown character is unknown.

    Args:
      words: counter of the text's words, before they are normalised.
      characters: counter of their characters.
      pipeline: has the normalizer and the pre-tokenizer.
      vocab_size: number of entries that the vocabulary may have, special tokens included.

    Returns:
      The characters in sorted order: whether each also gets an entry for its places inside a word. A character that
      the pipeline makes a word of its own, such as an ideograph, never stands there. Text of Latin letters alone keeps
      those entries for its punctuation, as the published English vocabularies do.
    """
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    wanted = _usual_alphabet(vocab_size)
    room = vocab_size - NUM_SPECIAL
    if len(ranked) > wanted:
        wanted = max(wanted, _covering(words, ranked, characters.total(), pipeline))
    is_latin = all(character < "\u0250" or "\u2000" <= character <= "\u206f" for character in ranked[:wanted])
    alphabet = {}
    for character in ranked[:wanted]:
        alphabet[character] = is_latin or len(_words_of(f"a{character}a", pipeline)) == 1
        room -= 1 + alphabet[character]
        if room < 0:
            del alphabet[character]
            break
    return {character: alphabet[character] for character in sorted(alphabet)}


def _covering(words, ranked, total, pipeline):
    """Returns how many of the ranked characters write all but 1 - COVERAGE of the text, word by word."""
    rank = {character: i for i, character in enumerate(ranked)}
    written = [0] * len(ranked)  # characters of the words whose rarest character has this rank
    for word, count in words.items():
        for part in _words_of(word, pipeline):
            written[max(map(rank.__getitem__, part))] += count * len(part)
    number, covered = 0, 0
    while covered < COVERAGE * total and number < len(ranked):
        covered += written[number]
        number += 1
    return number


def _words_of(text, pipeline):
    return [word for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str(text))]


def _repeated(words: collections.Counter) -> Iterator[str]:
    """Yields text with the same words in sorted order, each as often as counted."""
    at_once = 10_000
    for word in sorted(words):
        for start in range(0, words[word], at_once):
            yield " ".join([word] * min(at_once, words[word] - start))


def _train_byte_level(texts, vocab_size, lower_case, strip_accents):
    vocab, merges = _merges(texts, vocab_size, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return hugging_face.byte_level(vocab, merges, f"train:bpe:{vocab_size}")


def _train_bert_byte_level(texts, vocab_size, lower_case, strip_accents):
    vocab, merges = _merges(texts, vocab_size, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return hugging_face.byte_level(vocab, merges, f"train:bert-bpe:{vocab_size}")


def _merges(texts, vocab_size, special):
    """Trains byte-level BPE: returns (ids of the tokens, pairs of tokens that are joined)."""
    if vocab_size < 256 + NUM_SPECIAL:
        _refuse_training(vocab_size, "byte-level BPE begins with 256 bytes and 5 special tokens")
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if not model["merges"] and vocab_size > 256 + NUM_SPECIAL:
        _refuse_training(vocab_size, "no two bytes of the text stand together twice")
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _train_unigram(texts, vocab_size, lower_case, strip_accents):
    normalizer = tokenizer_classes.unigram_normalizer(lower_case, strip_accents)
    texts = (_normalized(text, normalizer, lower_case) for text in texts)
    proto = _train_model(texts, vocab_size, pad="<pad>", unk="<unk>", normalization_rule_name="identity")
    return hugging_face.unigram(proto, lower_case, f"train:unigram:{vocab_size}", strip_accents)


def _normalized(text, normalizer, lower_case):
    """Returns what unigram_normalizer does to a text; for printable ASCII, in which there is little to do, faster."""
    if not (text.isascii() and text.isprintable()):
        return normalizer.normalize_str(text)
    text = text.replace("``", '"').replace("''", '"')
    return text.lower() if lower_case else text


def _train_sentencepiece(texts, vocab_size, lower_case, strip_accents):
    proto = _train_model(texts, vocab_size, pad="[PAD]", unk="[UNK]")
    return sentencepiece_models.SentencePieceTokenizer(proto, f"train:sentencepiece:{vocab_size}", lower_case=False)


def _train_model(texts, vocab_size, pad, unk, **settings):
    """Trains a SentencePiece model that begins with five special tokens; returns the content of the .model file."""
    import sentencepiece

    table = str.maketrans({_RESERVED: _PLACEHOLDER, "\x00": " "})
    texts = [text.translate(table) for text in texts]
    coverage, usual_letters = 1.0, _usual_alphabet(vocab_size)
    if len(set().union(*texts)) > usual_letters:
        characters = collections.Counter()
        for text in texts:
            characters.update(text)
        covered = sum(count for _, count in characters.most_common(usual_letters))
        coverage = max(COVERAGE, covered / characters.total())
    trained = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_emptying(texts),
            model_writer=trained,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=coverage,
            max_sentence_length=1 << 20,
            num_threads=1,  # its sums depend on the number of threads
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=pad,
            unk_piece=unk,
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            minloglevel=2,
            **settings,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).strip().split(")", 1)[-1].split("] ")[-1].split())
        if needed := re.search(r"required_chars\. \d+ vs (\d+)", reason):
            reason = f"the text's characters need {needed[1]}"
        _refuse_training(vocab_size, reason or "SentencePiece gave up")
    return sentencepiece_models.renamed(trained.getvalue(), {_PLACEHOLDER: _RESERVED})


def _emptying(texts):
    """Yields the members of a list, which are removed from it, so that the trainer's copy of them is the only one."""
    texts.reverse()
    while texts:
        yield texts.pop()


def _refuse_training(vocab_size, reason):
    raise UserError(f"--tokenizer: cannot train {vocab_size} tokens: {reason}; expected another size or more text")
