"""Vectors that `predict embed` writes: weights of tokens by name or as one array, and formats that do not fit a model.

Dense vectors in all formats and precisions are in test_tables.py, test_records.py and test_quantization.py.
"""

import json

import numpy as np
import pyarrow.parquet
import pytest
from scipy import sparse

import bert_jax
from bert_jax.interop import huggingface
from tests.commands import run_lines
from tests.inference import conftest as tiny

TEXTS = ["ab cd ef", "be", "da ab cd , be ca da fa"]


@pytest.mark.more
def test_sparse_vectors(tmp_path):
    tokenizer = tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test")
    settings = {"sparse": ("max", "relu"), "max_terms": 7}
    huggingface.write(tiny.make_model(tokenizer, settings=settings, language_model=True), tmp_path / "sparse")
    huggingface.write(tiny.make_model(tokenizer), tmp_path / "dense")
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    model, embed = f"--model={tmp_path}/sparse", ["embed", f"--model={tmp_path}/sparse", f"--input={texts}"]
    outputs = {kind: [*embed, f"--output={tmp_path}/out.{kind}"] for kind in ("jsonl", "tsv", "parquet", "npz", "npy")}
    lines = outputs | {
        "shown": ["embed", model, "--text=ab"],
        "bits": ["embed", model, "--text=ab", "--precision=int8"],
        "normalize": ["embed", model, "--text=ab", "--normalize"],
        "states": ["embed", model, "--text=ab", "--pooling=mean"],
        "dense": ["embed", f"--model={tmp_path}/dense", f"--input={texts}", f"--output={tmp_path}/dense.npz"],
        "labels": ["classify", model, f"--input={texts}", f"--output={tmp_path}/labels.npz"],
    }
    done = run_lines("predict", lines, "module.run()")
    codes, outs, said = ({name: parts[i] for name, parts in done.items()} for i in range(3))
    assert {name for name, code in codes.items() if code == 0} == {*outputs, "shown", "states"} - {"npy"}, said

    embedder = bert_jax.SparseEmbedder(tmp_path / "sparse")
    vectors = embedder.encode(TEXTS)
    expected = [dict(row) for row in embedder.decode(vectors)]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    column = pyarrow.parquet.read_table(tmp_path / "out.parquet")["embedding"].to_pylist()
    assert [row["id"] for row in rows] == [0, 1, 2]
    for row, pairs, weights in zip(rows, column, expected, strict=True):
        assert 0 < len(weights) <= 7 and list(row["embedding"]) == list(weights)  # the largest first
        assert row["embedding"] == pytest.approx(weights) and dict(pairs) == pytest.approx(weights)
    header, *cells = (tmp_path / "out.tsv").read_text().splitlines()
    assert header == "id\ttext\tembedding" and len(cells) == 3
    np.testing.assert_allclose(sparse.load_npz(tmp_path / "out.npz").toarray(), vectors.toarray(), rtol=1e-6)
    assert json.loads(outs["shown"])["embedding"] == pytest.approx(dict(embedder.decode(embedder.encode("ab"))[0]))
    assert len(json.loads(outs["states"])["embedding"]) == embedder.model.model.spec.hidden_size
    for name, message in (("npy", "are sparse; expected .npz or a table"), ("bits", "are sparse; expected float32"),
                          ("normalize", "not for --model="), ("dense", ".npz is for sparse vectors; expected .npy"),
                          ("labels", "only embed writes .npz")):  # fmt: skip
        assert codes[name] == 2 and message in said[name], (name, said[name])
