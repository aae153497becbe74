"""From text to filled masks with the commands that a user types."""

import itertools
import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest

import bert_jax
from bert_jax.data.preparation import pipeline
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from tests.commands import ROOT
from tests.inference.conftest import make_model

ANIMALS = {"cat": "purrs", "dog": "barks", "cow": "moos", "duck": "quacks", "owl": "hoots", "lion": "roars"}

RECIPE = """
from bert_jax.config import base


def get_config():
    config = base()
    config.model.update(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, max_positions=40)
    config.model.update(hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.1)
    config.data.update(corpus="{corpus}", sequence_length=24, batch_size=32)
    config.optimizer.update(learning_rate=5e-3, warmup_steps=20)
    config.train.update(num_steps=300, log_every=100, eval_every=300, checkpoint_every=300, progress=False)
    return config
"""


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A run on text in which each animal makes its own sound, long enough to learn it."""
    folder = tmp_path_factory.mktemp("animals")
    rng = random.Random(0)
    lines = []
    for _ in range(300):
        for animal in rng.choices(list(ANIMALS), k=rng.randint(3, 6)):
            lines.append(f"the {animal} {ANIMALS[animal]} .")
        lines.append("")
    (folder / "text.txt").write_text("\n".join(lines))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", ".", *itertools.chain(*ANIMALS.items())]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    settings = pipeline.Settings(str(folder / "text.txt"), str(folder / "vocab.txt"), sentences="line")
    pipeline.prepare(settings, folder / "corpus", workers=1, progress=False)
    (folder / "recipe.py").write_text(RECIPE.format(corpus=folder / "corpus"))
    command = [sys.executable, "-m", "bert_jax.pretrain", f"--config={folder}/recipe.py", f"--workdir={folder}/run"]
    # One device: eight forced ones on few cores take many times as long for a model this small.
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="session")
def fill_mask(workdir):
    return bert_jax.FillMask.from_pretrained(workdir)


def test_it_fills_what_it_was_taught(fill_mask):
    for animal, sound in ANIMALS.items():
        (mask,) = fill_mask(f"the {animal} [MASK] .", top_k=3)["masks"]
        assert mask[0]["token"] == sound
        assert mask[0]["score"] > 0.5
        assert [one["score"] for one in mask] == sorted((one["score"] for one in mask), reverse=True)
        assert fill_mask.tokenizer.token(mask[0]["id"]) == sound


def test_scores_are_probabilities_over_the_vocabulary(fill_mask):
    size = fill_mask.tokenizer.vocab_size
    (mask,) = fill_mask("the cat [MASK] .", top_k=size)["masks"]
    assert abs(sum(one["score"] for one in mask) - 1) < 1e-5
    assert sorted(one["id"] for one in mask) == list(range(size))


def test_several_masks_and_several_texts_keep_their_places(fill_mask):
    texts = ["the cat [MASK] .", "the [MASK] barks . the owl [MASK] .", "[MASK] " * 20, "the duck [MASK] ."]
    answers = fill_mask(texts)
    assert [len(answer["masks"]) for answer in answers] == [1, 2, 20, 1]
    assert answers[0]["masks"][0][0]["token"] == "purrs"
    assert [mask[0]["token"] for mask in answers[1]["masks"]] == ["dog", "hoots"]
    # A batch and its members one by one agree (P6).
    for text, answer in zip(texts, answers, strict=True):
        alone = fill_mask(text)
        for mask, other in zip(answer["masks"], alone["masks"], strict=True):
            np.testing.assert_allclose([m["score"] for m in mask], [m["score"] for m in other], rtol=1e-5)
    assert fill_mask([]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text 1: empty"),
        ("  \n", "text 1: empty"),
        ("the cat purrs .", r"text 1: no \[MASK\] in 'the cat purrs .'"),
        ("[MASK] " + "cat " * 60, "text 1: 63 tokens with the special ones, but the model reads at most 40"),
    ],
)
def test_texts_that_cannot_be_answered(fill_mask, text, message):
    with pytest.raises(UserError, match=message):
        fill_mask(text)


def test_top_k_out_of_range_and_a_folder_without_a_run(fill_mask, tmp_path):
    for top_k in (0, "3", True, 2.0, 10**9):
        with pytest.raises(UserError, match=f"^top_k: found {top_k!r}; expected 1 to "):
            fill_mask("the [MASK]", top_k=top_k)
    with pytest.raises(UserError, match="not the workdir of a run"):
        bert_jax.FillMask.from_pretrained(tmp_path)


def test_load_gives_model_parameters_and_tokenizer(workdir):
    model, tokenizer = bert_jax.load(workdir)
    assert model.config["vocab_size"] == tokenizer.vocab_size
    assert model.params["encoder"]["embeddings"]["word"]["embedding"].shape == (tokenizer.vocab_size, 64)


def predict(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bert_jax.predict", *map(str, arguments)], capture_output=True, text=True
    )


def test_predict_reads_and_writes_jsonl_in_order(workdir, tmp_path):
    texts = [f"the {animal} [MASK] ." for animal in ANIMALS] * 3
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    output = tmp_path / "answers.jsonl"
    done = predict("fill-mask", f"--model={workdir}", f"--input={tmp_path}/texts.jsonl", f"--output={output}")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(answers) == len(texts)
    for text, answer in zip(texts, answers, strict=True):
        assert answer["masks"][0][0]["token"] == ANIMALS[text.split()[1]]
        assert set(answer["masks"][0][0]) == {"token", "id", "score"}


COLD = """
import atexit, sys
from bert_jax import cli
SLOW = {"orbax", "transformers", "tensorflow", "torch", "grain", "tensorboardX", "scipy", "pandas", "matplotlib"}
atexit.register(lambda: print(*sorted(SLOW & {name.split(".")[0] for name in sys.modules})))
cli.main(sys.argv[1:])
"""


def test_a_cold_start_loads_and_compiles_what_it_needs(tokenizer, tmp_path):
    """The first answer waits for no package of training, one program of the model, and no draw of parameters."""
    huggingface.write(make_model(tokenizer), tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", COLD, "predict", "fill-mask", f"--model={tmp_path / 'model'}", "--text=ab [MASK]."],
        capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_LOG_COMPILES": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "ab [MASK]." and done.stdout.splitlines()[2:] == [""], done.stdout
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", done.stderr)
    assert compiled.count("_compute") == 1 and len(compiled) <= 3, compiled
    assert not re.findall(r"(?:Compiling|tracing) jit\(init\)|Finished tracing init\b", done.stderr)
