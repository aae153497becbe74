"""Makes directories of vocabularies in the families' layouts: published, trained, and written by hand.

The hand-written ones have the same bytes on every machine, so that the ids they give can be stored.
"""

import json
import pathlib
import shutil
from collections.abc import Iterator

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bert_jax.data.vocabularies import published, tokenizer_classes, training
from bert_jax.data.vocabularies.tokenizer_classes import AMINO_ACIDS

Named = tuple[str, pathlib.Path]

_WORDS = (
    "the", "cat", "sat", "on", "mat", "hello", "world", "and", "an", "a", "in", "ing", "ed", "er", "don", "they",
    "ha", "user", "example", "com", "12", "3", "19", "00", "\u4e2d\u6587", "\u00e9t", "\u00dcber", "The", "Hello", "CA",
)  # fmt: skip
_CHARACTERS = (
    "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789.,!?[]<>#_-'\"/`(){}|:;&=%$~*\u2014\u2019\u201c\u20ac"
    "\u4e2d\u6587\u5b57\u3042\u30a2\ud55c\u1112\u1161\u11ab\u0915\u093f\u00e9\u00fc\u00df\u03c3\u03c2\u0301\u0308\u0130"
)
_MERGES = (
    "h e", "l l", "he ll", "hell o", "\u0120 hello", "i n", "in g", "t h", "th e", "\u0120 the", "\u0120 a", "a t",
    "\u0120 c", "\u0120c at", "1 9", "0 0", "19 0", "\u0120 \u0120", "\u010a \u010a", "' t", "e r",
)  # fmt: skip
# The pre-tokenizer of Llama 3's vocabulary, which EuroBERT's is.
_LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def released(folder: pathlib.Path, shared: pathlib.Path) -> Iterator[Named]:
    """Yields the vocabularies under shared/vocab, as many as exist, in their families' layouts."""
    vocab = shared / "vocab"
    uncased, cased = (vocab / f"bert-base-{kind}" / "vocab.txt" for kind in ("uncased", "cased"))
    if uncased.is_file():
        yield directory(folder, "bert-base-uncased", "bert", [(uncased, "vocab.txt")])
        yield directory(folder, "distilbert, uncased", "distilbert", [(uncased, "vocab.txt")], do_lower_case=True)
        electra = {"tokenizer_class": "ElectraTokenizer"}
        yield directory(folder, "electra, uncased", "electra", [(uncased, "vocab.txt")], **electra)
    if cased.is_file():
        yield directory(folder, "bert-base-cased", "bert", [(cased, "vocab.txt")], do_lower_case=False)
        stripped = {"do_lower_case": False, "strip_accents": True}
        yield directory(folder, "bert-base-cased, accents stripped", "bert", [(cased, "vocab.txt")], **stripped)
    merges = vocab / "gpt2/merges.txt"
    if merges.is_file():
        roberta = [(vocab / "roberta-base/vocab.json", "vocab.json"), (merges, "merges.txt")]
        yield directory(folder, "roberta-base", "roberta", roberta)
        yield directory(folder, "roberta-base, prefix space", "roberta", roberta, add_prefix_space=True)
        yield directory(folder, "longformer", "longformer", roberta)
        gpt2 = models.BPE.read_file(str(vocab / "gpt2/vocab.json"), str(merges))
        yield deberta(folder, "deberta, GPT-2's merges", *gpt2)
        yield modernbert(folder, "modernbert, GPT-2's merges", *gpt2)
        yield eurobert(folder, "eurobert, GPT-2's merges", *gpt2)
    albert = [(vocab / "albert/spiece.model", "spiece.model")]
    if albert[0][0].is_file():
        yield directory(folder, "albert-base", "albert", albert)
        settings = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": False, "keep_accents": True}
        yield directory(folder, "albert-base, letters kept", "albert", albert, **settings)


def trained(folder: pathlib.Path, lines: list[str]) -> Iterator[Named]:
    """Yields small vocabularies trained on `lines` by this project, and by SentencePiece with its character maps."""
    import sentencepiece

    for kind, size in (("wordpiece", 150), ("bpe", 400), ("bert-bpe", 400), ("unigram", 300)):
        path = folder / f"trained_{kind}"
        training.train(kind, lines, size).save(path)
        (path / "config.json").write_text('{"model_type": "bert"}')
        yield f"trained {kind}", path
    layouts = {
        "fairseq": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1},
        "albert": {"pad_id": 0, "pad_piece": "<pad>", "unk_id": 1, "bos_id": 2, "bos_piece": "[CLS]", "eos_id": 3,
                   "eos_piece": "[SEP]", "control_symbols": ["[MASK]"], "user_defined_symbols": ["(", ")", "-"]},
        "deberta": {"pad_id": 0, "pad_piece": "[PAD]", "bos_id": 1, "bos_piece": "[CLS]", "eos_id": 2,
                    "eos_piece": "[SEP]", "unk_id": 3, "unk_piece": "[UNK]"},
    }  # fmt: skip
    families = {
        "fairseq": ("sentencepiece.bpe.model", "xlm-roberta", "camembert"),
        "albert": ("spiece.model", "albert"),
        "deberta": ("spm.model", "deberta-v2"),
    }
    for rule in ("nmt_nfkc", "identity"):
        for layout, (file, *model_types) in families.items():
            prefix = folder / f"{layout}_{rule}"
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_prefix=str(prefix), vocab_size=400, hard_vocab_limit=False,
                minloglevel=2, normalization_rule_name=rule, **layouts[layout],
            )  # fmt: skip
            for model_type in model_types:
                files = [(prefix.with_suffix(".model"), file)]
                yield directory(folder, f"{model_type} .model, {rule}", model_type, files)


def written(folder: pathlib.Path) -> Iterator[Named]:
    """Yields small hand-written vocabularies of every family."""
    (folder / "vocab.txt").write_text("\n".join(_wordpieces()) + "\n", "utf-8")
    uncased = [(folder / "vocab.txt", "vocab.txt")]
    yield directory(folder, "distilbert", "distilbert", uncased)
    yield directory(folder, "electra", "electra", uncased, tokenizer_class="ElectraTokenizer")
    yield directory(folder, "mbert", "bert", uncased, do_lower_case=False)
    bpe = _byte_level()
    yield deberta(folder, "deberta", *bpe)
    yield deberta(folder, "deberta, prefix space", *bpe, add_prefix_space=True)
    yield modernbert(folder, "modernbert", *bpe)
    yield eurobert(folder, "eurobert", *bpe)
    yield eurobert(folder, "eurobert, end of text too", *bpe, ends=True)
    fairseq = unigram(folder / "fairseq.model", ["<unk>?", "<s>", "</s>"])
    yield directory(folder, "xlm-r", "xlm-roberta", [(fairseq, "sentencepiece.bpe.model")])
    albert = ["<pad>", "<unk>?", "[CLS]", "[SEP]", "[MASK]", "(+", ")+", "-+", ".+"]
    pieces = [(unigram(folder / "albert.model", albert), "spiece.model")]
    yield directory(folder, "albert", "albert", pieces)
    yield directory(folder, "albert, cased", "albert", pieces, do_lower_case=False, keep_accents=True)
    v2 = [(unigram(folder / "deberta.model", ["[PAD]", "[CLS]", "[SEP]", "[UNK]?"]), "spm.model")]
    yield directory(folder, "deberta-v3", "deberta-v2", v2, do_lower_case=False, vocab_type="spm")
    split = {"do_lower_case": True, "split_by_punct": True, "add_prefix_space": False}
    yield directory(folder, "deberta-v2, punctuation split", "deberta-v2", v2, **split)
    around = ["<s>", "<pad>", "</s>", "<unk>", *_wordpieces()[1:2], *_wordpieces()[5:], "<mask>"]
    (folder / "mpnet.txt").write_text("\n".join(around) + "\n", "utf-8")
    yield directory(folder, "mpnet", "mpnet", [(folder / "mpnet.txt", "vocab.txt")])
    (folder / "esm.txt").write_text("\n".join(AMINO_ACIDS), "utf-8")
    yield directory(folder, "esm", "esm", [(folder / "esm.txt", "vocab.txt")])
    yield gemma(folder, "mmbert", "modernbert")
    yield gemma(folder, "embeddinggemma", "gemma3_text", tokenizer_class="GemmaTokenizer", add_eos_token=False)
    named = {"bert", "distilbert", "electra"}
    for model_type, name in published.CLASS_OF_MODEL_TYPE.items():  # families that have BERT's vocabulary too
        if name == "BertTokenizer" and model_type not in named:
            yield directory(folder, model_type, model_type, uncased)


def directory(folder: pathlib.Path, name: str, model_type: str, files=(), **settings) -> Named:
    """Makes a model's directory without weights: config.json, files (source, name), tokenizer_config.json if any."""
    path = folder / "".join(character if character.isalnum() else "_" for character in name)
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if settings:
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    for source, target in files:
        shutil.copyfile(source, path / target)
    return name, path


def deberta(folder, name, vocab, merges, **settings) -> Named:
    """Writes DeBERTa v1's layout: GPT-2's BPE with BERT's special tokens, [MASK] last."""
    name, path = directory(folder, name, "deberta", **(settings or {"do_lower_case": False, "vocab_type": "gpt2"}))
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokens = [*special, *sorted(vocab, key=vocab.get), "[MASK]"]
    ids = {token: i for i, token in enumerate(tokens)}
    (path / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (path / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return name, path


def modernbert(folder, name, vocab, merges) -> Named:
    """Writes ModernBERT's layout: byte-level BPE after NFC, runs of spaces, special tokens after the vocabulary."""
    tokenizer = hf.Tokenizer(models.BPE(vocab, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([hf.AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tokenizer.add_special_tokens(["<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    tokenizer.add_special_tokens([hf.AddedToken("[MASK]", lstrip=True, special=True)])
    tokenizer.add_tokens([hf.AddedToken(f"[unused{n}]", normalized=True) for n in range(3)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    roles = {f"{role.lower()}_token": f"[{role}]" for role in ("CLS", "SEP", "MASK", "PAD", "UNK")}
    inputs = ["input_ids", "attention_mask"]
    return _generic(folder, name, "modernbert", tokenizer, model_input_names=inputs, **roles)


def eurobert(folder, name, vocab, merges, ends=False) -> Named:
    """Writes EuroBERT's layout: Llama 3's pipeline; the end of text, appended with `ends`, is also the padding."""
    tokenizer = hf.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(hf.Regex(_LLAMA_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    begin, end, mask = "<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"
    tokenizer.add_special_tokens([begin, end, mask, "<|parallel_sep|>", "<|reserved_special_token_0|>"])
    first = f"{begin}:0 $A:0 {end}:0" if ends else f"{begin}:0 $A:0"
    second = f"{begin}:1 $B:1 {end}:1" if ends else f"{begin}:1 $B:1"
    ids = [(token, tokenizer.token_to_id(token)) for token in (begin, end)]
    template = processors.TemplateProcessing(single=first, pair=f"{first} {second}", special_tokens=ids)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    roles = {"bos_token": begin, "eos_token": end, "mask_token": mask, "pad_token": end}
    return _generic(folder, name, "eurobert", tokenizer, **roles)


def gemma(folder, name, model_type, **settings) -> Named:
    """Writes the layout of Gemma's vocabulary: BPE of characters, unknown ones as bytes, runs of white space added."""
    characters = dict.fromkeys(["\u2581", "\n", *_CHARACTERS])
    merges = [tuple(merge.replace("\u0120", "\u2581").split(" ")) for merge in _MERGES if "\u010a" not in merge]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *map("".join, merges), *characters]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizer_classes.gemma_pipeline(model)
    tokenizer.add_tokens([hf.AddedToken(token, normalized=False) for token in ("\n\n", "\u2581\u2581\u2581", "<b>")])
    tokenizer.add_special_tokens(special)
    ids = [(token, vocab[token]) for token in ("<bos>", "<eos>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B <eos>", special_tokens=ids
    )
    roles = {f"{token.strip('<>')}_token": token for token in special}
    return _generic(folder, name, model_type, tokenizer, **(roles | settings))


def unigram(path: pathlib.Path, special: list[str]) -> pathlib.Path:
    """Writes a SentencePiece model without a character map; `special` first: "?" ends the unknown, "+" user symbols."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    kind = model.SentencePiece
    for i, piece in enumerate(special):
        types = {"?": kind.UNKNOWN, "+": kind.USER_DEFINED}
        model.pieces.add(piece=piece.rstrip("?+"), score=0.0, type=types.get(piece[-1], kind.CONTROL))
        if piece.endswith("?"):
            model.trainer_spec.unk_id = i
    ordinary = ["\u2581", *(f"\u2581{word}" for word in _WORDS), *(word for word in _WORDS if len(word) > 1)]
    known = {piece.piece for piece in model.pieces}
    for i, piece in enumerate(piece for piece in [*ordinary, *_CHARACTERS] if piece not in known):
        model.pieces.add(piece=piece, score=-4.0 - i / 16)  # exact in float32
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.normalizer_spec.name = "identity"
    path.write_bytes(model.SerializeToString())
    return path


def _generic(folder, name, model_type, tokenizer, **settings):
    name, path = directory(folder, name, model_type, **({"tokenizer_class": "PreTrainedTokenizerFast"} | settings))
    tokenizer.save(str(path / "tokenizer.json"))
    return name, path


def _wordpieces():
    letters = dict.fromkeys(_CHARACTERS)
    return [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for word in _WORDS if word not in letters),
        *letters, "##ing", "##er", *(f"##{character}" for character in letters),
    ]  # fmt: skip


def _byte_level():
    merges = [tuple(merge.split(" ")) for merge in _MERGES]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    return {token: i for i, token in enumerate(tokens)}, merges
