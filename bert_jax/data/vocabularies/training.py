"""Trains vocabularies on text: WordPiece, byte-level BPE, unigram, SentencePiece."""

import collections
import io
import json
from collections.abc import Iterable, Iterator

import tokenizers as hf
from tokenizers import models, normalizers, pre_tokenizers, trainers

from bert_jax.data.vocabularies import hugging_face, tokenizer_classes
from bert_jax.data.vocabularies.sentencepiece_models import SentencePieceTokenizer
from bert_jax.data.vocabularies.tokenizer import Tokenizer
from bert_jax.errors import UserError

KINDS = ("wordpiece", "bpe", "bert-bpe", "unigram", "sentencepiece")
LOWER_CASING = ("wordpiece", "unigram")
_MAX_ALPHABET = 1000  # characters of a trained WordPiece vocabulary, of which they are at most a quarter


def train(kind: str, texts: Iterable[str], vocab_size: int, lower_case: bool = True) -> Tokenizer:
    """Trains a vocabulary. The same text gives the same vocabulary, on any number of threads.

    Args:
      kind: "wordpiece" (as BERT's), "bpe" (byte-level, as RoBERTa's), "bert-bpe" (the same with BERT's special tokens,
        as DeBERTa's and ModernBERT's), "unigram" (as ALBERT's in transformers), or "sentencepiece" (the same for the
        sentencepiece package, which no other program reads).
      texts: read once.
      vocab_size: includes the special tokens. Little text may give fewer.
      lower_case: whether wordpiece and unigram lower-case text; other kinds do not.

    Raises:
      UserError: vocab_size is too small for the text's characters, or there is no text.
    """
    makers = {
        "wordpiece": _train_wordpiece,
        "bpe": _train_byte_level,
        "bert-bpe": _train_bert_byte_level,
        "unigram": _train_unigram,
        "sentencepiece": _train_sentencepiece,
    }
    return makers[kind](texts, vocab_size, lower_case)


def _train_wordpiece(texts, vocab_size, lower_case):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = collections.Counter()
    for text in texts:
        words.update(text.split())
    characters = collections.Counter()
    for word, count in words.items():
        for character in tokenizer.normalizer.normalize_str(word):
            characters[character] += count
    alphabet_limit = min(_MAX_ALPHABET, vocab_size // 4)
    ranked = sorted((-count, character) for character, count in characters.items() if not character.isspace())
    alphabet = sorted(character for _, character in ranked[:alphabet_limit])
    if not alphabet:
        _refuse_training(vocab_size, "the text holds no character to learn")
    # The trainer numbers continuing characters in the order of a hash map, and breaks ties by these numbers: listed as
    # special tokens, they have the same numbers every time.
    numbered = [*special, *(f"##{character}" for character in alphabet)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=numbered,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(words), trainer)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return hugging_face.wordpiece(sorted(vocab, key=vocab.__getitem__), lower_case, f"train:wordpiece:{vocab_size}")


def _repeated(words: collections.Counter) -> Iterator[str]:
    """Yields text with the same words in sorted order, each as often as counted."""
    at_once = 10_000
    for word in sorted(words):
        for start in range(0, words[word], at_once):
            yield " ".join([word] * min(at_once, words[word] - start))


def _train_byte_level(texts, vocab_size, lower_case):
    vocab, merges = _merges(texts, vocab_size, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return hugging_face.byte_level(vocab, merges, f"train:bpe:{vocab_size}")


def _train_bert_byte_level(texts, vocab_size, lower_case):
    vocab, merges = _merges(texts, vocab_size, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return hugging_face.byte_level(vocab, merges, f"train:bert-bpe:{vocab_size}")


def _merges(texts, vocab_size, special):
    """Trains byte-level BPE: returns (ids of the tokens, pairs of tokens that are joined)."""
    if vocab_size < 256 + len(special):
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
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _train_unigram(texts, vocab_size, lower_case):
    where = f"train:unigram:{vocab_size}"
    settings = {"do_lower_case": lower_case, "keep_accents": not lower_case}
    normalizer = tokenizer_classes.albert_normalizer(None, settings)
    proto = _train_model(map(normalizer.normalize_str, texts), vocab_size, pad="<pad>", unk="<unk>")
    return hugging_face.unigram(proto, lower_case, where)


def _train_sentencepiece(texts, vocab_size, lower_case):
    proto = _train_model(texts, vocab_size, pad="[PAD]", unk="[UNK]")
    return SentencePieceTokenizer(proto, f"train:sentencepiece:{vocab_size}", lower_case=False)


def _train_model(texts, vocab_size, pad, unk):
    """Trains a SentencePiece model that begins with five special tokens; returns the content of the .model file."""
    import sentencepiece

    proto = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=proto,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=0.9995,
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
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split(")", 1)[-1].split("] ")[-1]
        _refuse_training(vocab_size, " ".join(reason.split()) or "SentencePiece gave up")
    return proto.getvalue()


def _refuse_training(vocab_size, reason):
    raise UserError(f"--tokenizer: cannot train {vocab_size} tokens: {reason}; expected another size or more text")
