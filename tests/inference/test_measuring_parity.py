"""Compares scores of vectors with sentence-transformers' evaluators and scikit-learn (make test-parity)."""

import json

import numpy as np
import pytest

import bert_jax
from bert_jax.data.tasks import clustering, metrics
from tests.inference.conftest import texts

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def models(save, tmp_path_factory):
    """Returns the same mean-pooling model there and here."""
    import sentence_transformers
    from sentence_transformers import models

    path = tmp_path_factory.mktemp("library") / "model"
    modules = [models.Transformer(str(save("BertModel"))), models.Pooling(32)]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(path))
    return sentence_transformers.SentenceTransformer(str(path), device="cpu"), bert_jax.Embedder(path)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def near_pairs(count):
    """Returns texts, others of which the first half share most words with them, and whether they do."""
    first, rng = texts(count, seed=1, most=12), np.random.default_rng(0)
    other = texts(count, seed=2, most=12)
    same = rng.random(count) < 0.4
    return first, [f"{a} {b.split()[0]}" if s else b for a, b, s in zip(first, other, same, strict=True)], same


def test_pairs(models, tmp_path):
    from sentence_transformers.sentence_transformer import evaluation

    first, second, same = near_pairs(80)
    library = evaluation.BinaryClassificationEvaluator(
        first, second, same.astype(int).tolist(), write_csv=False, similarity_fn_names=["cosine"]
    )(models[0])
    rows = [{"sentence1": a, "sentence2": b, "label": int(s)} for a, b, s in zip(first, second, same, strict=True)]
    ours = bert_jax.measure(models[1], f"pairs:{write(tmp_path / 'pairs.jsonl', rows)}")
    assert ours["average_precision"] == pytest.approx(library["cosine_ap"], abs=1e-4)
    assert ours["max_f1"] == pytest.approx(library["cosine_f1"], abs=1e-6) and ours["f1"] <= ours["max_f1"]


def test_graded_pairs(models, tmp_path):
    from sentence_transformers.sentence_transformer import evaluation

    first, second, same = near_pairs(60)
    scores = (same + np.random.default_rng(1).random(60)).round(3).tolist()
    library = evaluation.EmbeddingSimilarityEvaluator(
        first, second, scores, write_csv=False, similarity_fn_names=["cosine"]
    )(models[0])
    rows = [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in zip(first, second, scores, strict=True)]
    ours = bert_jax.measure(models[1], f"sts:{write(tmp_path / 'graded.jsonl', rows)}")
    assert ours["spearman"] == pytest.approx(library["spearman_cosine"], abs=1e-4)
    assert ours["pearson"] == pytest.approx(library["pearson_cosine"], abs=1e-4)


def test_rankings_of_given_documents(models, tmp_path):
    from sentence_transformers.sentence_transformer import evaluation

    queries, near, _ = near_pairs(15)
    others = texts(200, seed=3, most=12)
    rows = [
        {"query": query, "positive": [near[i], others[i]], "negative": others[20 + 12 * i :][:12]}
        for i, query in enumerate(queries)
    ]
    library = evaluation.RerankingEvaluator(rows, at_k=10, write_csv=False)(models[0])
    ours = bert_jax.measure(models[1], f"rerank:{write(tmp_path / 'ranked.jsonl', rows)}")
    for name in ("map", "mrr@10", "ndcg@10"):
        assert ours[name] == pytest.approx(library[name], abs=1e-4)


def test_retrieval(models, tmp_path):
    from sentence_transformers.sentence_transformer import evaluation

    queries, near, _ = near_pairs(20)
    corpus = {f"d{i}": text for i, text in enumerate(dict.fromkeys([*near, *texts(100, seed=4, most=12)]))}
    ids = {text: key for key, text in corpus.items()}
    asked = {f"q{i}": text for i, text in enumerate(queries)}
    relevant = {f"q{i}": {ids[near[i]], f"d{40 + i}"} for i in range(20)}
    library = evaluation.InformationRetrievalEvaluator(
        asked, corpus, relevant, ndcg_at_k=[10], mrr_at_k=[10], map_at_k=[100], precision_recall_at_k=[1, 10, 100],
        accuracy_at_k=[1], write_csv=False,
    )(models[0])  # fmt: skip
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "corpus.jsonl", [{"_id": key, "text": text} for key, text in corpus.items()])
    write(tmp_path / "queries.jsonl", [{"_id": key, "text": text} for key, text in asked.items()])
    lines = [f"{query}\t{document}\t1\n" for query, documents in relevant.items() for document in sorted(documents)]
    (tmp_path / "qrels" / "test.tsv").write_text("".join(lines))
    for name, value in bert_jax.measure(models[1], f"ir:{tmp_path}").items():
        assert value == pytest.approx(library[f"cosine_{name}"], abs=1e-4), name


def test_metrics_of_scikit_learn():
    from sklearn import cluster
    from sklearn import metrics as library

    rng = np.random.default_rng(2)
    for _ in range(20):
        classes, clusters = rng.integers(0, 4, 50), rng.integers(0, rng.integers(1, 7), 50)
        assert metrics.v_measure(classes, clusters) == pytest.approx(library.v_measure_score(classes, clusters))
        relevant, scores = rng.random(50) < 0.3, rng.integers(0, 9, 50) / 3.0
        relevant[0] = True
        assert metrics.average_precision(relevant, scores) == pytest.approx(
            library.average_precision_score(relevant, scores)
        )
    vectors = rng.standard_normal((6, 10))[rng.integers(0, 6, 400)] + 0.5 * rng.standard_normal((400, 10))
    ours = clustering.k_means(vectors, 6)
    inertia = sum(np.square(vectors[ours == i] - vectors[ours == i].mean(0)).sum() for i in range(6))
    assert inertia <= 1.001 * cluster.KMeans(6, n_init=4, random_state=0).fit(vectors).inertia_
