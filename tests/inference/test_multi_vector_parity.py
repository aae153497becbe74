"""Compares late interaction with sentence-transformers' MultiVectorEncoder and PyLate's files (make test-parity)."""

import dataclasses
import json

import numpy as np
import pytest

import bert_jax
from bert_jax.inference.multi_vector import MultiVectorReranker
from bert_jax.interop import huggingface
from tests.inference import conftest
from tests.inference.conftest import texts

pytestmark = pytest.mark.parity

EXPANSIONS = {
    "fixed": {"strategy": "fixed", "attend": False, "length": 12},
    "attended": {"strategy": "fixed", "attend": True, "length": 12},
    "least": {"strategy": "min", "attend": False, "length": 8},
    "none": None,
}


def native(path, base, expansion, size=12, skiplist=(".", ","), **options):
    """Saves a MultiVectorEncoder with a random map to vectors of `size` numbers."""
    import sentence_transformers
    import torch
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(1)
    lengths = {"query_length": 16, "document_length": 20} if expansion is None or expansion["strategy"] == "min" else {
        "document_length": 20}  # fmt: skip
    encoder = Transformer(str(base), query_expansion=expansion, **lengths)
    dense = Dense(32, size, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    mask = MultiVectorMask(skiplist_words=list(skiplist), **options)
    modules = [encoder, dense, mask, Normalize(module_input_name="token_embeddings")]
    sentence_transformers.MultiVectorEncoder(modules=modules, device="cpu").save(str(path))
    return path


def pylate(path, base, **changes):
    """Writes the files that PyLate 1.6 saves of a model with markers of its own; see its models/colbert.py."""
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    model = transformers.AutoModel.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "1_Dense").mkdir()
    save_file({"linear.weight": torch.randn(12, 32)}, path / "1_Dense" / "model.safetensors")
    dense = {"in_features": 32, "out_features": 12, "bias": False, "use_residual": False,
             "activation_function": "torch.nn.modules.linear.Identity"}  # fmt: skip
    config = {
        "__version__": {"sentence_transformers": "5.3.0"}, "model_type": "ColBERT", "prompts": {},
        "default_prompt_name": None, "similarity_fn_name": "MaxSim", "query_prefix": "[Q] ", "document_prefix": "[D] ",
        "query_length": 14, "document_length": 18, "attend_to_expansion_tokens": False, "do_query_expansion": True,
        "skiplist_words": [".", "?", "!"],
    }  # fmt: skip
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
               {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"}]  # fmt: skip
    for name, content in (
        ("1_Dense/config.json", dense), ("config_sentence_transformers.json", config | changes),
        ("modules.json", modules), ("sentence_bert_config.json", {"max_seq_length": 17, "do_lower_case": False}),
    ):  # fmt: skip
        (path / name).write_text(json.dumps(content))
    return path


def assert_agrees(path, folder, anew=True):
    """The same vectors and scores from a directory, and from what is written of it, here and there."""
    import sentence_transformers

    queries, documents = [*texts(12, most=8), "ab"], [*texts(12, seed=3, most=20), "ab. cd, . ?"]
    theirs = sentence_transformers.MultiVectorEncoder(str(path), device="cpu")
    expected = theirs.encode_query(queries), theirs.encode_document(documents)
    similarity = theirs.similarity(*expected).numpy()
    ours = bert_jax.MultiVectorEmbedder(path)
    huggingface.write(huggingface.read(path), folder / "written")
    names = ["written", "anew"] if anew else ["written"]
    if anew:
        huggingface.write(dataclasses.replace(huggingface.read(path), origin=None), folder / "anew")
    for embedder in (ours, *(bert_jax.MultiVectorEmbedder(folder / name) for name in names)):
        made = embedder.encode_query(queries), embedder.encode_document(documents)
        for arrays, tensors in zip(made, expected, strict=True):
            for array, tensor in zip(arrays, tensors, strict=True):
                assert array.shape == tuple(tensor.shape)
                np.testing.assert_allclose(array, tensor.numpy(), atol=1e-5)
        np.testing.assert_allclose(embedder.similarity(*made), similarity, rtol=1e-5, atol=1e-5)
    for name in names:
        again = sentence_transformers.MultiVectorEncoder(str(folder / name), device="cpu")
        for one, other in zip(expected[0] + expected[1], again.encode_query(queries) + again.encode_document(documents),
                              strict=True):  # fmt: skip
            np.testing.assert_array_equal(one.numpy(), other.numpy())
    scores = MultiVectorReranker(path).scores(queries[0], documents)
    np.testing.assert_allclose(scores, similarity[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("expansion", EXPANSIONS)
def test_a_multi_vector_encoder(save, tmp_path, expansion):
    path = native(tmp_path / "model", save("BertModel"), EXPANSIONS[expansion])
    assert_agrees(path, tmp_path, anew=expansion != "least")


def test_a_skiplist_for_queries_too(save, tmp_path):
    path = native(tmp_path / "model", save("BertModel"), None, skiplist_tasks=["query", "document"])
    assert_agrees(path, tmp_path, anew=False)


def test_another_family(save, tmp_path):
    path = native(tmp_path / "model", save("RobertaModel"), EXPANSIONS["fixed"], skiplist=["."])
    assert_agrees(path, tmp_path)


def test_a_family_with_windows(tmp_path):
    """ModernBERT, some of whose [MASK] tokens are farther from the text than a window reaches."""
    import torch
    import transformers

    path = tmp_path / "encoder"
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(conftest.VOCABULARY) + "\n")
    transformers.BertTokenizer(str(path / "vocab.txt"), model_max_length=64).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=len(conftest.VOCABULARY), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, local_attention=8, pad_token_id=0, cls_token_id=2,
        sep_token_id=3, bos_token_id=2, eos_token_id=3, initializer_range=0.3,
    )  # fmt: skip
    transformers.ModernBertModel(config).eval().save_pretrained(path)
    expansion = {"strategy": "fixed", "attend": False, "length": 24}
    assert_agrees(native(tmp_path / "model", path, expansion), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{}, {"attend_to_expansion_tokens": True}, {"do_query_expansion": False}, {"skiplist_words": []},
     {"prompts": {"query": "gh ", "document": "ij "}}],
)  # fmt: skip
def test_files_of_pylate(save, tmp_path, changes):
    (tmp_path / "model").mkdir()
    assert_agrees(pylate(tmp_path / "model", save("BertModel"), **changes), tmp_path)


@pytest.mark.parametrize("metadata", [None, {"query_maxlen": 9, "doc_maxlen": 15, "mask_punctuation": False}])
def test_stanfords_checkpoints(save, tmp_path, metadata):
    """They are read as sentence-transformers reads them, and written in PyLate's layout."""
    import sentence_transformers
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    path = save("BertModel", vocab_size=len(conftest.VOCABULARY) + 2, architectures=["HF_ColBERT"])
    torch.manual_seed(3)
    arrays = {f"bert.{name}": array for name, array in load_file(path / "model.safetensors").items()}
    save_file(arrays | {"linear.weight": torch.randn(12, 32)}, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("\n".join([*conftest.VOCABULARY, "[unused0]", "[unused1]"]) + "\n")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt"), model_max_length=conftest.LONGEST).save_pretrained(path)
    if metadata is not None:
        (path / "artifact.metadata").write_text(json.dumps(metadata))
    queries, documents = texts(6, most=8), [*texts(6, seed=3, most=20), "ab. cd, . ?"]
    huggingface.write(huggingface.read(path), tmp_path / "written")
    for folder in (path, tmp_path / "written"):
        ours = bert_jax.MultiVectorEmbedder(folder)
        theirs = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")
        vectors = [*ours.encode_query(queries), *ours.encode_document(documents)]
        expected = [*theirs.encode_query(queries), *theirs.encode_document(documents)]
        for array, tensor in zip(vectors, expected, strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), atol=1e-5)
