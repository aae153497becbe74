"""Text that tokenizers get wrong, small vocabularies for it, and where the shared data lies."""

import json
import os
import pathlib
import random

import pytest

_FRAGMENTS = [
    *"abcXYZ '019.,!?[]<>#_-", "don't", "hello", "world", "##ing", "ing", " ", " ", "  ", "\t", "\n", "\r", "\u00a0",
    "\u0301", "e\u0301", "\u00e9", "\u0308", "\u4e2d", "\u6587", "\ud55c\uad6d\uc5b4", "\u0915\u094d\u0937\u093f",
    "\U0001f469\u200d\U0001f4bb", "\u200b", "\x00", "\x07", "\x1c", "\x85", "\u2028", "\u3000", "\u00ad", "\ufeff",
    "\ufffd", "\u05e9\u05dc\u05d5\u05dd", "\u202e", "\u03a3", "\u0391\u03a3", "\u0130", "\u00df", "\ufb01", "\uff21",
    "\u00b2", "\u00bd", "[MASK]", "<mask>", "</s>", "[UNK]", "``", "''",
]  # fmt: skip
PROSE = [
    "The cat sat on the mat, and the dog looked at the cat.",
    "Nobody knew why the cat had chosen that mat; the dog least of all.",
    "In the morning the mat was gone. The cat and the dog were not surprised.",
] * 20


def random_texts(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(_FRAGMENTS, k=rng.randint(0, 40))) for _ in range(count)]


TEXTS = [
    "", " ", "  ", "a", " a", "a ", "a b", "a  b", "  a\tb\u00a0c", "don't they've I'm we'll", "3.14 and 1,000",
    "x" * 101, "\ufeffhello", "the [MASK] sat", "the <mask> sat</s>", "hello [SEP] world [PAD]",
    *random_texts(60, seed=0),
]  # fmt: skip

# Texts alone and in pairs.
PAIRS = [
    *((text,) for text in TEXTS[:40]), ("don't", "the [MASK] sat"), ("a", " "), ("", "b"),
    (
        "\u212b \ufb01ne caf\u00e9 \u00bd 1,900.00 ``x''",
        "\u1112\u1161\u11ab  <|mask|> [MASK] <mask>\n\nThe CAT (12345)",
    ),
]  # fmt: skip

VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "mask", "the", "sat", "don", "ing", "##ing", "fi",
    *"abcdefghijklmnopqrstuvwxyzABCXYZ0123456789.,!?[]<>#_-'/`\u4e2d\u6587\u00e9\u00df\u03c3\u03c2\u0301\u0308",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyzXYZ0123456789\u00e9\u03c3\u00df\u0301"),
]  # fmt: skip


def bpe_files(folder):
    """Writes vocab.json and merges.txt of a small byte-level BPE vocabulary in RoBERTa's layout."""
    from tokenizers import pre_tokenizers

    merges = ["h e", "l l", "he ll", "hell o", "\u0120 hello", "i n", "in g", "t h", "th e", "\u0120 the", "\u0120 a"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [merge.replace(" ", "") for merge in merges] + ["<mask>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    pathlib.Path(folder, "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    pathlib.Path(folder, "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")


def shared(path):
    """Returns a file of the data that is kept outside the project; skips the test where it is missing."""
    root = pathlib.Path(__file__).resolve().parents[2]
    data = pathlib.Path(os.environ.get("BERT_JAX_TEST_DATA", root.parent / "shared" / "data"))
    if not (data / path).exists():
        pytest.skip(f"outside data: {data / path} is missing; BERT_JAX_TEST_DATA names the folder of the shared data")
    return data / path
