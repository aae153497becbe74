"""The published all-MiniLM-L6-v2 scores as MTEB lists it, where its directory and the STS benchmark are at hand."""

import csv
import os
import pathlib

import pytest
from scipy import stats

import bert_jax

ROOT = pathlib.Path(__file__).parents[2]
DATA = pathlib.Path(os.environ.get("BERT_JAX_TEST_DATA", ROOT.parent / "shared" / "data"))
MODEL = os.environ.get("BERT_JAX_TEST_MINILM", "")

pytestmark = pytest.mark.parity


def test_minilm_on_the_sts_benchmark():
    path = DATA / "stsb" / "stsb-en-test.csv"
    if not path.is_file():
        pytest.skip(f"outside data: {path} is missing; BERT_JAX_TEST_DATA names the folder of the shared data")
    if not MODEL:
        pytest.skip("outside data: BERT_JAX_TEST_MINILM is not set; it names a directory of all-MiniLM-L6-v2")
    rows = list(csv.reader(path.read_text("utf-8").splitlines()))
    embedder = bert_jax.Embedder(MODEL)
    similarities = embedder.similarity([row[0] for row in rows], [row[1] for row in rows], pairwise=True)
    correlation = stats.spearmanr(similarities, [float(row[2]) for row in rows]).statistic
    assert round(100 * correlation, 2) == 82.03
