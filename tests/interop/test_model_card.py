"""Tests model cards: their contents for a run's model, and that a directory's own card is kept."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import yaml

from bert_jax.interop import huggingface, model_card
from bert_jax.interop.model_card import Provenance

PROVENANCE = Provenance(
    1200, "google-bert/bert-base-uncased", (("wiki: the small one", "bcc8ce6a"),),
    {"mlm_perplexity": 5.25, "mlm_loss": 1.6582, "bad": float("nan")}, "documents of wiki",
)  # fmt: skip


def front_of(card):
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_languages_are_named_where_they_are_known(make):
    model = huggingface.read(make(language_model=True).path)
    for languages, line in (((), None), (("de",), "de"), (("de", "no"), ["de", "no"])):
        front = front_of(model_card.render(model, "a", Provenance(3, languages=languages)))
        assert front.get("language") == line


def test_what_a_card_says(make):
    model = huggingface.read(make(language_model=True).path)
    card = model_card.render(model, "my-bert", PROVENANCE)
    assert front_of(card) == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["bert_jax", "jax", "bert"],
        "base_model": "google-bert/bert-base-uncased",
        "training_texts": [{"name": "wiki: the small one", "fingerprint": "bcc8ce6a"}],
        "metrics": ["mlm_loss", "mlm_perplexity"],
        "model-index": [{"name": "my-bert", "results": [{
            "task": {"type": "fill-mask"},
            "dataset": {"name": "documents of wiki", "type": "text"},
            "metrics": [{"type": "mlm_loss", "value": 1.6582}, {"type": "mlm_perplexity", "value": 5.25}],
        }]}],
    }  # fmt: skip
    assert "# my-bert\n" in card and "for 1,200 steps" in card and "| mlm_perplexity | 5.2500 |" in card


def test_averages_name_their_checkpoints(make):
    model = huggingface.read(make().path)
    for average, words in (("mean:2", "the mean"), ("ema:0.9", "the exponential average (decay 0.9)")):
        card = model_card.render(model, "a", Provenance(30, averaged_steps=(20, 30), average=average))
        assert f"for 30 steps. Its parameters are {words} of the checkpoints of steps 20, 30." in card


def test_tasks_and_embedders_by_their_names_on_the_hub(make):
    model = huggingface.read(make(pooler=True, task="sequence_classification").path)
    card = model_card.render(model, "a", Provenance(3, "a-folder"))
    assert front_of(card)["pipeline_tag"] == "text-classification" and "base_model" not in front_of(card)
    assert "Labels: LABEL_0, LABEL_1." in card and "Started from a-folder." in card
    one = dataclasses.replace(model.model.spec.task, num_labels=1)
    spec = dataclasses.replace(model.model.spec, task=one)
    reranker = dataclasses.replace(
        model, model=dataclasses.replace(model.model, spec=spec), labels=("score",), settings={"activation": "Sigmoid"}
    )
    card = model_card.render(reranker, "a", Provenance(3))
    assert (front_of(card)["library_name"], front_of(card)["pipeline_tag"]) == ("sentence-transformers", "text-ranking")
    assert 'CrossEncoder("a").rank("A question?", ["A text.", "Another."])' in card
    assert 'bert_jax.Reranker.from_pretrained("a").rank("A question?"' in card
    bare = huggingface.read(make(name="bare").path)
    assert front_of(model_card.render(bare, "a", Provenance(3)))["pipeline_tag"] == "feature-extraction"
    embedder = dataclasses.replace(bare, settings={"pooling": ("mean",)})
    front = front_of(model_card.render(embedder, "a", Provenance(3)))
    assert (front["library_name"], front["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")


def test_late_interaction(make):
    bare = huggingface.read(make(name="late").path)
    card = model_card.render(dataclasses.replace(bare, settings={"late_interaction": {}}), "a", Provenance(3))
    front = front_of(card)
    assert (front["library_name"], front["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert "multi-vector-encoder" in front["tags"]
    assert 'MultiVectorEncoder("a")' in card and 'bert_jax.MultiVectorEmbedder.from_pretrained("a")' in card


@pytest.mark.parametrize(
    ("switches", "pooling", "there", "here"),
    [
        ({"language_model": True}, None, 'pipeline("fill-mask", model="me/it")("A [MASK] text.")', "FillMask"),
        ({"task": "sequence_classification", "pooler": True}, None, 'pipeline("text-classification"', "Classifier"),
        ({"task": "token_classification"}, None, 'pipeline("token-classification"', "TokenTagger"),
        ({"task": "question_answering"}, None, 'pipeline("question-answering"', "QuestionAnswerer"),
        ({}, None, 'AutoModel.from_pretrained("me/it")', "Embedder"),
        ({}, ("mean",), 'SentenceTransformer("me/it")', "Embedder"),
    ],
)
def test_how_a_card_says_to_load_the_model(make, tmp_path, monkeypatch, switches, pooling, there, here):
    made = make(**switches)
    model = huggingface.read(made.path)
    settings = {**model.settings, "pooling": pooling} if pooling else model.settings
    card = model_card.render(dataclasses.replace(model, settings=settings), "it", PROVENANCE, "me/it")
    elsewhere, ours = re.findall(r"```python\n(.*?)```", card.split("## How to load it")[1], re.DOTALL)
    assert there in elsewhere and f'bert_jax.{here}.from_pretrained("me/it")' in ours
    compile(elsewhere, "card", "exec")
    changed = dataclasses.replace(model, settings=settings)
    local = model_card.render(changed, "it", PROVENANCE)
    note = '"it" stands for the path of this folder, as it is where the code runs.'
    assert f"\n\n{note}\n\n```python\n" in local and "stands for" not in card
    assert local.replace(f"{note}\n\n", "").replace('"it")', '"me/it")') == card
    assert model_card.renamed(local, changed, "me/it") == card == model_card.renamed(card, changed, "me/it")
    made.path.rename(tmp_path / "me")
    monkeypatch.chdir(tmp_path)
    exec(ours.replace("me/it", "me"), {})


def test_a_directorys_own_card_is_kept(make, tmp_path):
    made = make()
    huggingface.write(huggingface.read(made.path), tmp_path / "none")
    assert not (tmp_path / "none/README.md").exists()
    (made.path / "README.md").write_text("# mine\n")
    huggingface.write(huggingface.read(made.path), tmp_path / "kept", card="# another\n")
    assert (tmp_path / "kept/README.md").read_text() == "# mine\n"
    alone = dataclasses.replace(huggingface.read(make(name="b").path))
    huggingface.write(alone, tmp_path / "new", card="# another\n")
    assert (tmp_path / "new/README.md").read_text() == "# another\n"


def test_a_model_that_no_run_made_gets_a_card_from_the_command(make, tmp_path):
    made, target = make(language_model=True), tmp_path / "out"
    command = [sys.executable, "-m", "bert_jax.convert", f"--model={made.path}", f"--output={target}"]
    subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    card = (target / "README.md").read_text()
    assert front_of(card)["pipeline_tag"] == "fill-mask" and front_of(card)["library_name"] == "transformers"
    assert f"Converted with bert_jax from {made.path.name}." in card and "Trained" not in card
    assert 'FillMask.from_pretrained("out")' in card


def test_a_generator_and_its_discriminator_have_the_metrics_of_their_own_heads(make):
    provenance = dataclasses.replace(PROVENANCE, metrics={"mlm_loss": 4.0, "rtd_loss": 0.5})
    model = huggingface.read(make(language_model=True).path)
    assert front_of(model_card.render(model, "a", provenance))["metrics"] == ["mlm_loss"]
    spec = dataclasses.replace(model.model.spec, language_model=False, replaced_tokens=True)
    discriminator = dataclasses.replace(model, model=dataclasses.replace(model.model, spec=spec))
    assert front_of(model_card.render(discriminator, "a", provenance))["metrics"] == ["rtd_loss"]


def test_a_card_that_lies_where_the_model_is_to_go_is_kept(make, tmp_path):
    made, target = make(), tmp_path / "mine"
    target.mkdir()
    (target / "README.md").write_text("# mine\n")
    huggingface.write(huggingface.read(made.path), target, card="# another\n")
    assert (target / "README.md").read_text() == "# mine\n" and (target / "config.json").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("mine")] == ["mine"]
