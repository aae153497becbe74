"""Compares tokenizers with AutoTokenizer: ids and segments of a page of awkward Unicode."""

import pathlib
from collections.abc import Iterator

from bert_jax.data import rows
from bert_jax.data.vocabularies import loading
from experiments.parity import vocabularies as vocabularies_lib
from experiments.parity.report import Row

# Combining marks, scripts without spaces, emoji with joiners, control characters, right-to-left, what normal forms
# change, very long words, and the texts of special tokens.
PAGE = [
    "", " ", "\t\n", "a", " leading and trailing ", "two  spaces\u00a0and\u3000others",
    "don't stop, they've 3.14 (1,000)!", "``quoted'' \u201cquoted\u201d \u2018it\u2019s\u2019 \u2014 \u2026",
    "http://example.com/a_b?c=d&e=f#g user@example.com",
    "CamelCase snake_case ##ing \u2581under \u0120gpt \u010a @@ $%^*~`|\\",
    "e\u0301 q\u0307\u0323 a\u0323\u0307 \u0301x n\u0303o", "Vie\u0323\u0302t Nam \u1ec7",
    "\u0915\u094d\u0937\u093f \u0e01\u0e33 \u0f40\u0f72", "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "\u4e2d\u6587\u5b57mixed\u4e2d\u3042\u30a2\ud55c\uad6d\uc5b4 \U00020000\U0002a6d6",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    "\u2764\ufe0f\u200d\U0001f525 #\ufe0f\u20e3", "a\x00b\x01c\x07d\x1be\x7ff\x80g\x85h\x9f",
    "zero\u200bwidth\u200cjoin\u200der\ufeff soft\u00adhyphen\u2060", "line\u2028and\u2029paragraph\x0b\x0c\x1c\x1d",
    "\u05e9\u05dc\u05d5\u05b9\u05dd \u0645\u0631\u062d\u0628\u064b\u0627 \u202eabc\u202c \u200fx\u200e",
    "\u0130stanbul I\u0131 \u00df\u1e9e \u03a3\u03c3\u03c2 \u0391\u03a3. \u01c5 \ufb03",
    "\uff21\uff42 \u00b2\u00bd\u2460 \u212b\u2126 \U0001d4d0 \ufffd \ud7ff \ue000 \U0010fffd",
    "x" * 10_000, "\u4e2d" * 10_000, "-" * 10_000, "a\u0301" * 5_000, "ab " * 3_000, "\U0001f469\u200d" * 2_000,
    "the [MASK] sat [SEP] on [CLS] the[PAD]mat [UNK]", "the <mask> sat</s> on <s> the<pad>mat <unk>  <mask>",
    "MKTLLAGVSERTID", "mktl lagv", "M K\tT\nL", "MXBUZOK.-", "MJTL*JJK", "M1K 23LA", "<cls>MK<eos>",
    "<null_1>M<unk>K<pad>", "M<mask>K <mask><mask>l", "xMx \u00e9L\ufb01K A\u0301A", "M\x1cK\x85L\u3000A\u200bG",
    "[mask] [ MASK ] < mask > <MASK> \uff3bMASK\uff3d \uff1cmask\uff1e", "[MASK][MASK]<mask><mask></s></s><s>NOTUSED",
]  # fmt: skip


def compare(directory: pathlib.Path, name: str = "") -> Row:
    """Counts the texts, pairs and pairs cut to length that AutoTokenizer encodes differently."""
    import transformers

    theirs, ours = transformers.AutoTokenizer.from_pretrained(directory), loading.load(directory)
    others = [*PAGE[3:], *PAGE[:3]]
    ids, other_ids = ours.encode(PAGE, special=True), ours.encode(others, special=True)
    pairs = list(zip(ids, other_ids, strict=True))
    # For a very long text, transformers keeps everything that it cuts off in parts, and takes minutes.
    short = [i for i, (a, b) in enumerate(zip(PAGE, others, strict=True)) if len(a) + len(b) < 1000]
    cut = theirs(
        [PAGE[i] for i in short], [others[i] for i in short],
        truncation="longest_first", max_length=20, return_token_type_ids=True,
    )  # fmt: skip
    figures = {
        "texts": _differing([rows.join(ours, row) for row in ids], theirs(PAGE, return_token_type_ids=True)),
        "pairs": _differing(
            [rows.join(ours, *pair) for pair in pairs], theirs(PAGE, others, return_token_type_ids=True)
        ),
        # The tokenizers that transformers has in Python leave one token more to the other text where it is odd.
        "pairs cut to 20": theirs.is_fast and _differing([_cut(ours, *pairs[i], 20) for i in short], cut),
        "vocabulary": abs(ours.vocab_size - len(theirs)),
    }
    failed = tuple(key for key, figure in figures.items() if figure)
    return Row(name or str(directory), figures, failed)


def vocabularies(folder: pathlib.Path, shared: pathlib.Path) -> Iterator[vocabularies_lib.Named]:
    """Writes directories of published, trained and hand-written vocabularies and yields (name, directory)."""
    parts = (
        lambda part: vocabularies_lib.released(part, shared),
        lambda part: vocabularies_lib.trained(part, [f"{text[:200]} {i}" for i, text in enumerate(PAGE * 20)]),
        vocabularies_lib.written,
    )
    for i, make in enumerate(parts):
        part = folder / f"vocabularies_{i}"
        part.mkdir()
        yield from make(part)


def _cut(tokenizer, first, second, length):
    room = length - rows.num_special(tokenizer, pair=True)
    kept, other_kept = rows.truncate_pair(len(first), len(second), room)
    return rows.join(tokenizer, first[:kept], second[:other_kept])


def _differing(ours, theirs):
    expected = zip(theirs["input_ids"], theirs["token_type_ids"], strict=True)
    return sum(mine != tuple(other) for mine, other in zip(ours, expected, strict=True))
