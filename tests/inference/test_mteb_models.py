"""Embedders, rerankers and searchers by mteb's protocol, and in mteb beside sentence-transformers (make test-mteb)."""

import types

import numpy as np
import pytest

import bert_jax
from bert_jax.data.tasks.late_interaction import Reading
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from bert_jax.model import Task
from bert_jax.model.projection import Projection
from tests.inference.conftest import make_model, texts

PROMPTS = {"query": "ab: ", "document": "cd: ", "STS": "ef: ", "Own-query": "gh: ", "Retrieval-document": "ij: "}


KINDS = {"sparse": bert_jax.SparseEmbedder, "late interaction": bert_jax.MultiVectorEmbedder}


def batches(given, size=4):
    return [{"text": given[i : i + size]} for i in range(0, len(given), size)]


def asked(name="Any", kind="Any"):
    return {"task_metadata": types.SimpleNamespace(name=name, type=kind), "hf_split": "test", "hf_subset": "default"}


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(tokenizer, settings={"prompts": PROMPTS, "pooling": ("mean",)})


@pytest.fixture(scope="module")
def reranking_model(tokenizer):
    return make_model(tokenizer, Task("sequence_classification", 1), ("score",), problem="regression")


@pytest.mark.parametrize(
    ("name", "kind", "prompt_type", "prompt"),
    [
        ("Any", "Any", None, None), ("Any", "Any", "query", "ab: "), ("Any", "Any", "document", "cd: "),
        ("Any", "STS", None, "ef: "), ("Own", "STS", "query", "gh: "), ("Own", "STS", "document", "ef: "),
        ("Any", "Retrieval", "document", "ij: "), ("Any", "Retrieval", "query", "ab: "),
    ],
)  # fmt: skip
def test_texts_have_the_prompt_of_their_task(model, name, kind, prompt_type, prompt):
    embedder, given = bert_jax.Embedder(model), [*texts(9, seed=1), ""]
    vectors = bert_jax.MtebEncoder(embedder).encode(batches(given), prompt_type=prompt_type, batch_size=2,
                                                    **asked(name, kind))  # fmt: skip
    expected = np.stack(list(embedder.stream([(text,) for text in given], allow_empty=True, prompt=prompt)))
    np.testing.assert_array_equal(vectors, expected)
    assert bert_jax.MtebEncoder(embedder).encode([], **asked()).shape == (0, embedder.size)


def test_pairs_have_the_scores_of_the_reranker(reranking_model):
    queries, documents = texts(6, seed=2, most=6), texts(6, seed=3, most=6)
    reranker = bert_jax.Reranker(reranking_model)
    scores = bert_jax.MtebReranker(reranker).predict(batches(queries), batches(documents, 3), **asked())
    expected = [reranker.scores(query, [document])[0] for query, document in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def searching_model(tokenizer, kind, **settings):
    if kind == "sparse":
        settings["sparse"] = ("max", "relu")
    if kind == "late interaction":
        kernel = np.random.default_rng(5).standard_normal((32, 6)).astype(np.float32)
        settings |= {
            "late_interaction": Reading(query_length=12, document_length=16, expansion_length=12).to_json(),
            "late_layers": (Projection("dense", {"kernel": kernel}), Projection("normalize")),
        }
    return make_model(tokenizer, language_model=kind == "sparse", settings=settings)


@pytest.mark.parametrize("kind", list(KINDS))
def test_documents_have_the_scores_of_the_embedder(tokenizer, kind):
    model = searching_model(tokenizer, kind, prompts=PROMPTS)
    documents, queries = texts(7, seed=6, most=6), texts(3, seed=7, most=5)
    corpus = [{"id": f"d{i}", "text": text, "title": "ha" if i == 2 else ""} for i, text in enumerate(documents)]
    asks = [{"id": f"q{i}", "text": text} for i, text in enumerate(queries)]
    asks[1]["instruction"] = "ba ka"
    embedder = KINDS[kind](model)
    known = make_known(embedder, "ab: ", [queries[0], f"{queries[1]} ba ka", queries[2]])
    found = make_known(embedder, "ij: ", [f"ha {text}" if i == 2 else text for i, text in enumerate(documents)])
    expected = embedder.similarity(known, found)
    searcher = bert_jax.MtebSearcher(model)
    options = {**asked("Any", "Retrieval"), "encode_kwargs": {"batch_size": 2}, "num_proc": None}
    searcher.index(corpus, **options)
    answers = searcher.search(asks, top_k=4, **options)
    own = {"q0": ["d6", "d1", "d1"], "q1": [], "q2": [f"d{i}" for i in range(7)]}
    ordered = searcher.search(asks, top_k=3, top_ranked=own, **options)
    assert list(answers) == list(ordered) == ["q0", "q1", "q2"]
    for row, query in enumerate(answers):
        best = np.argsort(-expected[row], kind="stable")[:4]
        assert list(answers[query]) == [f"d{i}" for i in best]
        np.testing.assert_allclose(list(answers[query].values()), expected[row][best], rtol=1e-5)
        own_places = sorted({int(name[1:]) for name in own[query]})
        best = sorted(own_places, key=lambda i, row=row: -expected[row][i])[:3]
        assert list(ordered[query]) == [f"d{i}" for i in best]
        np.testing.assert_allclose(list(ordered[query].values()), expected[row][best], rtol=1e-5)
    with pytest.raises(UserError, match="query q9: found list; expected a text"):
        searcher.search([{"id": "q9", "text": ["ab", "cd"]}], top_k=1, **options)


def make_known(embedder, prompt, given):
    """Returns the vectors of texts behind a prompt, "ab: " of queries, as the embedder itself makes them."""
    if isinstance(embedder, bert_jax.SparseEmbedder):
        return embedder.encode(given, prompt=prompt)
    return (embedder.encode_query if prompt == "ab: " else embedder.encode_document)(given, prompt=prompt)


def test_a_model_without_vectors_to_search_by_is_refused(reranking_model):
    with pytest.raises(UserError, match="sparse vectors are made of the scores of a masked-language-model head"):
        bert_jax.MtebSearcher(reranking_model)


@pytest.mark.mteb
@pytest.mark.parametrize("kind", list(KINDS))
def test_searches_of_mteb_give_the_scores_of_sentence_transformers(tokenizer, tmp_path, kind):
    import mteb
    import sentence_transformers
    from mteb import mocks
    from mteb.models.models_protocols import EncoderProtocol, SearchProtocol

    huggingface.write(searching_model(tokenizer, kind), tmp_path / "model")
    library = sentence_transformers.SparseEncoder if kind == "sparse" else sentence_transformers.MultiVectorEncoder
    searcher = bert_jax.MtebSearcher(tmp_path / "model")
    assert isinstance(searcher, SearchProtocol) and not isinstance(searcher, EncoderProtocol)
    assert searcher.mteb_model_meta.model_type == [kind.replace(" ", "-")]
    tasks = [mocks.MockRetrievalTask(), mocks.MockRerankingTask(), mocks.MockInstructionRetrieval()]

    def scores(evaluated):
        results = mteb.evaluate(evaluated, tasks, cache=None, show_progress_bar=False).task_results
        return {result.task_name: result.scores for result in results}

    ours, theirs = scores(searcher), scores(library(str(tmp_path / "model"), device="cpu"))
    assert len(ours) == 3
    for task, splits in theirs.items():
        for split, rows in splits.items():
            for one, other in zip(ours[task][split], rows, strict=True):
                assert one["main_score"] == pytest.approx(other["main_score"], abs=1e-6)
                assert one["map_at_3"] == pytest.approx(other["map_at_3"], abs=1e-6)


@pytest.mark.mteb
def test_tasks_of_mteb_give_the_scores_of_sentence_transformers(model, reranking_model, tmp_path):
    import datasets
    import mteb
    import sentence_transformers
    import torch
    from mteb import mocks
    from mteb.models.abs_encoder import get_prompt_name
    from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol

    class Graded(mocks.MockSTSTask):
        def load_data(self, num_proc=None, **kwargs):
            scores = np.random.default_rng(0).random(30).tolist()
            columns = {"sentence1": texts(30, seed=4, most=6), "sentence2": texts(30, seed=5, most=6), "score": scores}
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(columns)})
            self.data_loaded = True

    huggingface.write(model, tmp_path / "model")
    library = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    encoder, reranker = bert_jax.MtebEncoder(tmp_path / "model"), bert_jax.MtebReranker(reranking_model)
    assert isinstance(encoder, EncoderProtocol) and isinstance(reranker, CrossEncoderProtocol)
    assert not isinstance(reranker, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.similarity_fn_name.value) == ("bert_jax/model", 32, "cosine")
    assert reranker.mteb_model_meta.model_type == ["cross-encoder"]

    def scores(evaluated, tasks):
        results = mteb.evaluate(evaluated, tasks, cache=None, show_progress_bar=False)
        return {result.task_name: result.get_score() for result in results.task_results}

    tasks = [
        Graded(), mocks.MockPairClassificationTask(), mocks.LegacyMockClusteringFastTask(), mocks.MockRetrievalTask(),
        mocks.MockRerankingTask(), mocks.MockClassificationTask(), mocks.MockSummarizationTask(),
    ]  # fmt: skip
    ours = scores(encoder, tasks)
    assert ours == pytest.approx(scores(library, tasks), abs=1e-4) and len(ours) == 7
    assert len(scores(reranker, [mocks.MockRerankingTask()])) == 1
    vectors = torch.from_numpy(encoder.encode(batches(texts(3)), **asked()))
    similar = encoder.similarity(vectors, vectors)
    torch.testing.assert_close(similar, library.similarity(vectors, vectors))
    torch.testing.assert_close(encoder.similarity_pairwise(vectors, vectors), torch.diagonal(similar))
    for name in ("Any", "Own"):
        for kind in ("STS", "Retrieval"):
            metadata = types.SimpleNamespace(name=name, type=kind)
            for prompt_type in (None, mteb.types.PromptType.query, mteb.types.PromptType.document):
                chosen = get_prompt_name(PROMPTS, metadata, prompt_type)
                given = encoder.encode(batches(["ab cd"]), prompt_type=prompt_type, **asked(name, kind))
                expected = bert_jax.Embedder(model).encode(["ab cd"], prompt=PROMPTS[chosen] if chosen else None)
                np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)
