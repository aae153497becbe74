"""Answers beside those of transformers' pipelines and of sentence-transformers, with random models that these save."""

import json

import numpy as np
import pytest

import bert_jax
from tests.inference.conftest import texts

pytestmark = pytest.mark.parity

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def labels(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def pipeline(task, path):
    import transformers

    return transformers.pipeline(task, model=str(path), tokenizer=str(path), device="cpu")


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "RobertaForMaskedLM"])
def test_fill_mask(save, architecture):
    path = save(architecture)
    theirs, ours = pipeline("fill-mask", path), bert_jax.FillMask.from_pretrained(path)
    mask = theirs.tokenizer.mask_token
    asked = [f"ab {mask} cd .", f"{mask} éf.", f"ab   cd {mask} ef {mask}"]
    for text, answer in zip(asked, ours(asked, top_k=4), strict=True):
        expected = theirs(text, top_k=4)
        expected = expected if isinstance(expected[0], list) else [expected]
        for tokens, masks in zip(answer["masks"], expected, strict=True):
            assert [one["id"] for one in tokens] == [one["token"] for one in masks]
            np.testing.assert_allclose([one["score"] for one in tokens], [one["score"] for one in masks], rtol=1e-5)


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "RobertaForSequenceClassification"])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_classify(save, architecture, problem):
    names = ["score"] if problem == "regression" else ["bad", "good", "so so"]
    path = save(architecture, problem_type=problem, **labels(names))
    theirs, ours = pipeline("text-classification", path), bert_jax.Classifier.from_pretrained(path)
    asked = texts(12, most=4)
    for text, pair, alone, both in zip(asked, asked[::-1], ours(asked), ours(asked, asked[::-1]), strict=True):
        for answer, expected in (
            (alone, theirs(text, top_k=None)),
            (both, theirs({"text": text, "text_pair": pair}, top_k=None)),
        ):
            expected = {one["label"]: one["score"] for one in expected}
            # A regression's score is a logit, which may lie near nought: float32 is exact to the size of what it sums.
            assert answer["scores"] == pytest.approx(expected, rel=1e-5, abs=5e-6 if problem == "regression" else 0)
            if problem == "single_label_classification":
                assert answer["label"] == max(expected, key=expected.get)
                assert answer["score"] == pytest.approx(max(expected.values()), rel=1e-5)


@pytest.mark.parametrize("architecture", ["BertForTokenClassification"])
def test_tag(save, architecture):
    path = save(architecture, **labels(TAGS))
    theirs, ours = pipeline("token-classification", path), bert_jax.TokenTagger.from_pretrained(path)
    asked = texts(20, most=10)
    count = 0
    for text, answer in zip(asked, ours(asked), strict=True):
        expected = theirs(text, aggregation_strategy="first")
        spans = [(one["label"], one["start"], one["end"]) for one in answer["entities"]]
        assert spans == [(one["entity_group"], one["start"], one["end"]) for one in expected]
        scores = [one["score"] for one in answer["entities"]]
        np.testing.assert_allclose(scores, [one["score"] for one in expected], rtol=1e-5)
        count += len(spans)
    assert count > 20


@pytest.mark.parametrize("architecture", ["BertForQuestionAnswering", "RobertaForQuestionAnswering"])
def test_answer(save, architecture):
    """The best span by torch's logits, found by looking at all of them."""
    import torch
    import transformers

    path = save(architecture)
    model = getattr(transformers, architecture).from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    ours = bert_jax.QuestionAnswerer.from_pretrained(path, max_answer_length=5)
    questions, contexts = texts(8, seed=1, most=2), texts(8, seed=2, most=6)
    for question, context, answer in zip(questions, contexts, ours(questions, contexts), strict=True):
        encoded = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
        places = encoded.pop("offset_mapping")[0].tolist()
        with torch.inference_mode():
            outputs = model(**encoded)
        starts, ends = outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()
        inside = [i for i, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        spans = [
            (starts[i] + ends[j], context[places[i][0] : places[j][1]].strip())
            for i in inside
            for j in inside
            if i <= j < i + 5
        ]
        assert answer["answer"] == context[answer["start"] : answer["end"]]
        assert answer["answer"] == max(span for span in spans if span[1])[1]
        assert 0 < answer["score"] <= 1


@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", ("mean", "max"), "weightedmean", "mean_sqrt_len_tokens", "lasttoken"]
)
def test_embed_as_sentence_transformers(save, pooling, tmp_path):
    import sentence_transformers
    from sentence_transformers.sentence_transformer import modules as parts

    encoder = parts.Transformer(str(save("BertModel")), max_seq_length=24)
    modules = [encoder, parts.Pooling(32, pooling)]
    if pooling != "max":
        modules.append(parts.Normalize())
    prompts = {"query": "ab cd: ", "passage": "ef "}
    theirs = sentence_transformers.SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    theirs.save(str(tmp_path))
    ours = bert_jax.Embedder.from_pretrained(tmp_path)
    asked = texts(30)  # many longer than 24 tokens
    for options in ({}, {"prompt_name": "query"}, {"prompt": "gh "}):
        expected = theirs.encode(asked, **options)
        ours_vectors = ours.encode(asked, **options)
        assert ours_vectors.dtype == np.float32 and ours_vectors.shape == expected.shape
        assert np.linalg.norm(ours_vectors - expected) <= 1e-5 * np.linalg.norm(expected)
    assert json.loads((tmp_path / "modules.json").read_text())  # the directory is theirs


def test_embed_a_plain_encoder(save):
    """Returns the vectors computed by hand from transformers' hidden states."""
    import torch
    import transformers

    path = save("BertModel")
    model = transformers.BertModel.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    asked = texts(6, most=8)
    layers = []
    for text in asked:
        with torch.inference_mode():
            outputs = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        layers.append([layer[0].numpy() for layer in outputs.hidden_states])
    expected = {
        "second_to_last": [one[-2].mean(0) for one in layers],
        "last_2": [np.mean(one[-2:], axis=0).mean(0) for one in layers],
        "last_2_concat": [np.concatenate(one[-2:], axis=-1).mean(0) for one in layers],
        None: [one[-1].mean(0) for one in layers],
    }
    for pooling, vectors in expected.items():
        ours_vectors = bert_jax.Embedder.from_pretrained(path, pooling=pooling).encode(asked)
        np.testing.assert_allclose(ours_vectors, np.stack(vectors), rtol=1e-4, atol=1e-5)
