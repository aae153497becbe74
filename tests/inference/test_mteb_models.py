"""Embedders and rerankers by mteb's protocol, and in mteb beside sentence-transformers (make test-mteb)."""

import types

import numpy as np
import pytest

import bert_jax
from bert_jax.interop import huggingface
from bert_jax.model import Task
from tests.inference.conftest import make_model, texts

PROMPTS = {"query": "ab: ", "document": "cd: ", "STS": "ef: ", "Own-query": "gh: ", "Retrieval-document": "ij: "}


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
                assert encoder._prompt(metadata, prompt_type) == (PROMPTS[chosen] if chosen else None)
