"""Writes golden_multi_vector.npz: vectors and scores that sentence-transformers gives for a directory of ours.

    python -m tests.inference.make_golden_multi_vector

It needs torch and sentence-transformers 6, which the tests that read the file do not.
"""

import pathlib
import tempfile

import numpy as np

from bert_jax.interop import huggingface
from tests.inference.test_multi_vector import DOCUMENTS, GOLDEN, QUERIES, make


def main():
    import sentence_transformers

    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in GOLDEN.items():
            path = pathlib.Path(folder) / name
            huggingface.write(make(**changes), path)
            theirs = sentence_transformers.MultiVectorEncoder(str(path), device="cpu")
            queries, documents = theirs.encode_query(QUERIES), theirs.encode_document(DOCUMENTS)
            arrays[f"{name}/scores"] = theirs.similarity(queries, documents).numpy()
            for kind, tensors in (("query", queries), ("document", documents)):
                arrays |= {f"{name}/{kind}{i}": tensor.numpy() for i, tensor in enumerate(tensors)}
    np.savez_compressed(pathlib.Path(__file__).with_name("golden_multi_vector.npz"), **arrays)


if __name__ == "__main__":
    main()
