"""Vocabularies of Hugging Face directories without transformers: fairseq's ids, settings that win, bad files."""

import json

import pytest
import sentencepiece

from bert_jax.data.vocabularies import hugging_face, loading
from bert_jax.data.vocabularies.tokenizer import Frame
from bert_jax.errors import UserError
from tests.data.awkward import VOCABULARY, bpe_files

PROSE = ["The cat sat on the mat, and the dog looked at the cat.", "Nobody knew why the cat had chosen that mat."] * 20


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Returns the file of a SentencePiece model with fairseq's control symbols, and its pieces in order."""
    prefix = tmp_path_factory.mktemp("pieces") / "m"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE), model_prefix=str(prefix), vocab_size=50, hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    return prefix.with_suffix(".model"), [processor.id_to_piece(i) for i in range(processor.vocab_size())]


@pytest.fixture
def directory(tmp_path):
    def made(model_type, **settings):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path

    return made


def published(directory, path, model_type):
    """Returns a directory of a model type with the SentencePiece model of `path`."""
    folder = directory(model_type)
    (folder / "sentencepiece.bpe.model").write_bytes(path.read_bytes())
    return folder


def tokens_of(tokenizer):
    return [tokenizer.token(i) for i in range(tokenizer.vocab_size)]


def assert_ids_behind_the_models(tokenizer, path, offset):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    text = "The dog sat on the cat."
    assert tokenizer.encode([text])[0] == [i + offset for i in processor.encode(text)]


def test_xlm_roberta_ids_are_behind_the_models(directory, pieces):
    path, names = pieces
    tokenizer = loading.load(published(directory, path, "xlm-roberta"))
    assert tokens_of(tokenizer) == ["<s>", "<pad>", "</s>", "<unk>", *names[3:], "<mask>"]
    assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert_ids_behind_the_models(tokenizer, path, 1)
    assert tokenizer.frame == Frame.usual(0, 2, 2)


def test_gte_has_the_vocabulary_that_its_settings_name(directory, pieces):
    """BERT's in English, XLM-R's in the multilingual models."""
    path, names = pieces
    expected = tokens_of(loading.load(published(directory, path, "xlm-roberta")))
    folder = directory("new", tokenizer_class="XLMRobertaTokenizerFast")
    tokenizer = loading.load(folder)
    assert tokens_of(tokenizer) == expected and tokenizer.frame == Frame.usual(0, 2, 2)
    assert_ids_behind_the_models(tokenizer, path, 1)
    (folder / "sentencepiece.bpe.model").unlink()
    folder = directory("new", tokenizer_class="BertTokenizer", do_lower_case=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    tokenizer = loading.load(folder)
    assert tokens_of(tokenizer) == VOCABULARY and tokenizer.encode(["Hello"]) == [[VOCABULARY.index("hello")]]


def test_camembert_has_special_tokens_of_its_own(directory, pieces):
    path, names = pieces
    tokenizer = loading.load(published(directory, path, "camembert"))
    first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    assert tokens_of(tokenizer) == [*first, *names[1:], "<mask>"]
    assert tokenizer.cls_id == 5 and tokenizer.sep_id == 6
    assert_ids_behind_the_models(tokenizer, path, 4)
    assert tokenizer.encode(["the <mask> sat"], special=True)[0].count(tokenizer.mask_id) == 1


@pytest.mark.parametrize("model_type", ["xlm-roberta", "camembert"])
def test_special_pieces_in_text_are_text(directory, pieces, model_type, tmp_path):
    tokenizer = loading.load(published(directory, pieces[0], model_type))
    special = set(tokenizer.special_ids) - {tokenizer.unk_id}
    texts = [f"cat {tokenizer.token(i)}dog" for i in special]
    assert not special & set(tokenizer.encode_flat(texts)[0].tolist())
    assert all(special & set(row) for row in tokenizer.encode(texts, special=True))
    tokenizer.save(tmp_path / "saved")
    again = loading.load(tmp_path / "saved")
    assert again.encode(texts) == tokenizer.encode(texts) and again.digest() == tokenizer.digest()
    assert again.roles() == tokenizer.roles()


def test_mpnet_has_fairseqs_frame_around_wordpieces(directory):
    folder = directory("mpnet")
    words = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", *VOCABULARY[5:], "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    tokenizer = loading.load(folder)
    assert tokenizer.frame == Frame.usual(0, 2, 2) and (tokenizer.pad_id, tokenizer.unk_id) == (1, 4)
    assert tokenizer.encode(["Hello \u732b <unk>"])[0][:2] == [words.index("hello"), 4]
    # The mask takes the space before it along.
    mask = words.index("<mask>")
    assert tokenizer.encode(["hello  <mask> world"], special=True)[0] == [
        words.index("hello"),
        mask,
        words.index("world"),
    ]


def test_esm_cs_tokens_are_amino_acids(directory, tmp_path):
    """As EsmcTokenizer of transformers, which needs no file, says in its documentation."""
    tokenizer = loading.load(directory("esmc", tokenizer_class="EsmcTokenizer"))
    ids = [5, 23, 13, 9, 18, 6, 21, 12, 15, 4, 20, 17, 14, 16, 10, 8, 11, 7, 22, 19]
    assert tokenizer.encode(["ACDEFGHIKLMNPQRSTVWY", "ac A"]) == [ids, [3, 3, 3, 5]]
    assert tokenizer.frame == Frame.usual(0, 2, 1) and tokenizer.vocab_size == 33
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (1, 3, 32)
    assert tokenizer.encode(["A|<mask>"], special=True) == [[5, 31, 32]]
    tokenizer.save(tmp_path / "saved")
    again = loading.load(tmp_path / "saved")
    assert again.encode(["AC|D"], special=True) == [[5, 23, 31, 13]] and again.roles() == tokenizer.roles()


def test_settings_win_over_the_file(directory):
    folder = directory("bert", tokenizer_class="BertTokenizer", do_lower_case=False)
    hugging_face.wordpiece(VOCABULARY, True, "test").save(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert loading.load(folder).encode(["X"]) == [[VOCABULARY.index("x")]]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    assert loading.load(folder).encode(["X"]) == [[VOCABULARY.index("X")]]
    (folder / "tokenizer_config.json").unlink()  # a BERT, so lower case unless something says otherwise
    assert loading.load(folder).encode(["X"]) == [[VOCABULARY.index("x")]]


def test_added_tokens_of_every_file(directory):
    folder = directory("bert", additional_special_tokens=["[E1]"])
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({"worldly": len(VOCABULARY)}))
    tokenizer = loading.load(folder)
    new = len(VOCABULARY)
    assert tokenizer.encode(["hello worldly"])[0][-1] == new
    assert tokenizer.encode(["hello[E1]"], special=True)[0][-1] == new + 1
    assert new + 1 in tokenizer.special_ids and new not in tokenizer.special_ids
    assert tokenizer.vocab_size == new + 2
    content = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    decoder = {str(new): {"content": "[NEW]", **content}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert loading.load(folder).encode(["a[NEW]"], special=True)[0] == [VOCABULARY.index("a"), new]


def test_roberta_with_a_space_before_the_first_word(directory):
    folder = directory("roberta", add_prefix_space=True)
    bpe_files(folder)
    tokenizer = loading.load(folder)
    assert tokenizer.encode(["hello"]) == tokenizer.encode([" hello"])
    assert tokenizer.encode_flat(["hello the", ""])[0].tolist() == tokenizer.encode(["hello the"])[0]


def test_names_of_special_tokens_are_those_of_the_settings(directory):
    folder = directory("bert", cls_token="hello", sep_token="world")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    tokenizer = loading.load(folder)
    assert tokenizer.token(tokenizer.cls_id) == "hello" and tokenizer.token(tokenizer.sep_id) == "world"


def test_bad_directories_are_reported_in_one_line(directory, pieces):
    def message(folder):
        with pytest.raises(UserError) as raised:
            loading.load(folder)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    folder = directory("bert", tokenizer_class="BertJapaneseTokenizer")
    assert "tokenizer_class BertJapaneseTokenizer is not supported; expected one of BertTokenizer" in message(folder)
    assert "tokenizer_class BertGenerationTokenizer is not supported" in message(directory("bert-generation"))
    assert "tokenizer_class RoFormerTokenizer is not supported" in message(directory("roformer"))
    assert "vocab.txt: no such file" in message(directory("bert"))
    assert "vocab.json: no such file" in message(directory("roberta"))
    assert "sentencepiece.bpe.model: no such file" in message(directory("xlm-roberta"))
    (folder / "sentencepiece.bpe.model").write_bytes(b"nonsense")
    assert "not a SentencePiece model" in message(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json: not JSON" in message(folder)
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    assert "its vocabulary is not that of a XLMRobertaTokenizer" in message(folder)
    (folder / "tokenizer_config.json").write_text("[]")
    assert "tokenizer_config.json: found list" in message(folder)
