"""Metrics of any model: on a corpus with fixed masks, and on minimal pairs."""

import dataclasses
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax.data import loader, mixture
from bert_jax.data.corpus import Corpus
from bert_jax.data.vocabularies import hugging_face
from bert_jax.errors import UserError
from bert_jax.runs import models
from bert_jax.training import evaluation, minimal_pairs
from tests.commands import LONGEST_WAIT
from tests.training.conftest import WORDS, make_corpus

SHORT = {"sequence_length": 32, "batch_size": 8}


@pytest.fixture(scope="module")
def model(finished):
    return models.open_model(finished)


@pytest.fixture(scope="module")
def sharp(model):
    """A model that minds what stands around a mask."""
    return dataclasses.replace(model, params=jax.tree.map(lambda leaf: 4 * leaf, model.params))


@pytest.mark.more
def test_the_metrics_of_a_run_are_those_of_its_model(model, finished, corpus):
    metrics = evaluation.evaluate(model, str(corpus), batches=2, format="segment_pair", **SHORT)
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics.pop("rows") == 16 and metrics.pop("mlm_count") > 0
    assert set(metrics) == {key.removeprefix("eval/") for key in last if key.startswith("eval/")}
    for name, value in metrics.items():
        assert value == pytest.approx(last[f"eval/{name}"], rel=1e-6), name


def test_all_rows_whatever_the_batch(model, corpus):
    """Rows without pairs, besides them pairs for the head; each row once, in batches of 8 and of 24."""
    metrics, again = (evaluation.evaluate(model, str(corpus), **SHORT | {"batch_size": size}) for size in (8, 24))
    assert metrics.keys() == again.keys() and "nsp_accuracy" in metrics
    for name, value in metrics.items():
        assert again[name] == pytest.approx(value, rel=1e-5), name
    opened = Corpus.open(corpus)
    config = config_lib.base()
    config.data.update(corpus=str(corpus), format="full_sentences", **SHORT)
    config.objective.next_sentence = False
    config.train.eval_batches = 1000
    labels = np.concatenate([evaluation.labels(batch) for batch in loader.eval_batches(config, 0)])
    assert metrics["mlm_count"] == len(labels)
    expected = evaluation.unigram_losses(np.asarray(opened.unigram_counts))[labels].mean()
    assert metrics["unigram_loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["mlm_perplexity"] == pytest.approx(math.exp(metrics["mlm_loss"]))
    other = evaluation.evaluate(model, str(corpus), seed=1, **SHORT)
    assert other["mlm_loss"] != metrics["mlm_loss"]


def test_corpora_that_the_model_cannot_be_evaluated_on(model, finished, tmp_path):
    empty = make_corpus(tmp_path / "empty", documents=20, eval_share=0.0)
    with pytest.raises(UserError, match=f"--corpus={empty}: no document in its eval split"):
        evaluation.evaluate(model, str(empty), **SHORT)
    with pytest.raises(UserError, match="64 is over config.model.max_positions=32"):
        evaluation.evaluate(model, str(empty), sequence_length=64)
    tokens = [model.tokenizer.token(i) for i in range(model.tokenizer.vocab_size)]
    (empty / "tokenizer" / "tokenizer.json").unlink()
    (empty / "tokenizer" / "vocab.txt").write_text("\n".join([*tokens[:-2], tokens[-1], tokens[-2]]) + "\n")
    with pytest.raises(UserError, match=f"vocabulary is not that of {finished}; prepare .* --tokenizer={finished}"):
        evaluation.evaluate(model, str(empty), **SHORT)


def test_a_mixture_weighs_the_words_of_its_corpora(config, corpus, tmp_path):
    other = make_corpus(tmp_path / "other", seed=1, documents=30)
    opened = [Corpus.open(corpus), Corpus.open(other)]
    first, second = (np.asarray(one.unigram_counts, np.float64) for one in opened)
    total = first.sum() + second.sum()
    np.testing.assert_allclose(mixture.unigram_counts(config.data, opened), first + second, rtol=1e-12)  # by size
    config.data.weights = (3.0, 1.0)
    expected = total * (0.75 * first / first.sum() + 0.25 * second / second.sum())
    np.testing.assert_allclose(mixture.unigram_counts(config.data, opened), expected, rtol=1e-12)
    np.testing.assert_array_equal(mixture.unigram_counts(config.data, opened[:1]), first)


PAIRS = [
    {"good": f"{WORDS[3]} {WORDS[40]} {WORDS[8]} .", "bad": f"{WORDS[8]} .", "field": "length"},
    {"good": WORDS[20], "bad": WORDS[20].upper(), "field": "case"},  # the same tokens
    {"good": f"{WORDS[20]} . {WORDS[44]}", "bad": f"{WORDS[20]} . . {WORDS[44]}", "field": "length"},
]


def _slow(model, text, hidden=lambda token, starts: [token]):
    """Definition: one row a token, unpadded, the whole vocabulary at every position."""
    ids, starts = (part[0] for part in model.tokenizer.encode_with_words([text]))
    rows = np.array([[model.tokenizer.cls_id, *ids, model.tokenizer.sep_id]] * len(ids), np.int32)
    for token in range(len(ids)):
        rows[token, [1 + other for other in hidden(token, starts)]] = model.tokenizer.mask_id
    batch = {"input_ids": rows, "attention_mask": np.ones_like(rows), "token_type_ids": np.zeros_like(rows)}
    log_probabilities = jax.nn.log_softmax(jax.jit(model.model.apply)(model.params, batch)["mlm_logits"])
    return sum(float(log_probabilities[token, 1 + token, ids[token]]) for token in range(len(ids)))


def test_pseudo_log_likelihood_against_its_definition(sharp):
    texts = [PAIRS[0]["good"], PAIRS[1]["good"], PAIRS[0]["bad"]]
    scores = minimal_pairs.pseudo_log_likelihoods(sharp, texts)
    assert scores == pytest.approx([_slow(sharp, text) for text in texts], rel=1e-5)
    np.testing.assert_array_equal(scores, minimal_pairs.pseudo_log_likelihoods(sharp, texts, within_word=True))


def test_the_rest_of_a_word_is_hidden_too(sharp):
    """With a vocabulary of letters, each word is several tokens; the ones behind the token in the word are masked."""
    size, special = sharp.tokenizer.vocab_size, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"klmrtaions.", *(f"##{letter}" for letter in "klmrtaions")]
    tokens = [*special, *letters, *(f"x{i}" for i in range(size - len(letters) - len(special)))]
    model = dataclasses.replace(sharp, tokenizer=hugging_face.wordpiece(tokens, True, "test"))

    def rest(token, starts):
        after = [i for i in range(token + 1, len(starts)) if starts[i]]
        return range(token, min(after, default=len(starts)))

    text = "kan l mis ."
    (score,) = minimal_pairs.pseudo_log_likelihoods(model, [text], within_word=True)
    assert score == pytest.approx(_slow(model, text, rest), rel=1e-5)
    assert score != pytest.approx(_slow(model, text), rel=1e-5)


def test_accuracy_of_pairs(model):
    scored = minimal_pairs.evaluate(model, PAIRS)
    assert [{key: pair[key] for key in PAIRS[0]} for pair in scored] == PAIRS
    assert scored[1]["correct"] == 0.5 and scored[1]["good_score"] == scored[1]["bad_score"]
    for pair in (scored[0], scored[2]):
        assert pair["correct"] == float(pair["good_score"] > pair["bad_score"])
    accuracies = minimal_pairs.accuracies(scored, "field")
    assert list(accuracies) == ["all", "length", "case"]
    assert accuracies["case"] == {"accuracy": 0.5, "pairs": 1, "ties": 1}
    assert accuracies["all"]["accuracy"] == sum(pair["correct"] for pair in scored) / 3
    assert minimal_pairs.pseudo_log_likelihoods(model, []).shape == (0,)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"good": "a"', "pairs.jsonl:3: not JSON"),
        ('{"good": "a"}', "pairs.jsonl:3: found .*; expected an object with the strings `good` and `bad`"),
        ('["a", "b"]', "pairs.jsonl:3: a JSON list"),
        ('{"good": "a", "bad": 3, "field": 1}', "pairs.jsonl:3: found"),
        ('{"good": "a", "bad": "b"}', "pairs.jsonl:3: found .* and with `field`"),
        ('{"good": "a", "bad": " ", "field": 1}', "pairs.jsonl:3: `bad` is empty"),
        ('{"good": "a", "bad": "\\ud800", "field": 1}', "pairs.jsonl:3: `bad` holds half a surrogate pair"),
        (b"\xff", "pairs.jsonl:3: not UTF-8 at byte 0 of the line"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIRS[0]).encode() + b"\r\n\n" + line + b"\n")
    with pytest.raises(UserError, match=message) as caught:
        minimal_pairs.read(path, "field")
    assert "\n" not in str(caught.value)


def test_a_step_is_of_a_workdir(tmp_path):
    with pytest.raises(UserError, match="no run's workdir, which a step"):
        models.open_model(tmp_path, "best")


def test_texts_that_the_model_cannot_read(model, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"good": "kan " * 31, "bad": "kan"}) + "\n")
    with pytest.raises(UserError, match="pairs.jsonl:1 `good`: 31 tokens; expected 1 to 30, which the model reads"):
        pairs = minimal_pairs.read(path)
        minimal_pairs.evaluate(model, list(pairs.values()), names=list(pairs))
    with pytest.raises(UserError, match="pair 1 `bad`: 0 tokens"):
        minimal_pairs.evaluate(model, [{"good": "kan", "bad": "\u200b"}])


def run(*arguments, folder, stdin="", command="evaluate"):
    return subprocess.run(
        [sys.executable, "-m", f"bert_jax.{command}", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        cwd=folder,
    )


@pytest.mark.more
def test_the_command(finished, corpus, model, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    root = str(config_lib.recipe_path("quickstart").parents[1])
    output = tmp_path / "figures.json"
    short = ["--sequence_length=32", "--batch_size=8", "--batches=2", "--format=segment_pair"]
    done = run(f"--model={finished}", f"--corpus={corpus}", f"--output={output}", *short, folder=root)
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert figures["mlm_loss"] == pytest.approx(last["eval/mlm_loss"], rel=1e-5)
    assert f"loss, nats a token {figures['mlm_loss']:27.4f}" in done.stdout
    assert figures["mask_rate"] == 0.15 and figures["corpus"] == str(corpus)

    scored = tmp_path / "scored.jsonl"
    done = run(f"--model={finished}", f"--pairs={pairs}", "--group=field", f"--output={scored}", folder=root)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in scored.read_text().splitlines()]
    expected = minimal_pairs.evaluate(model, PAIRS)
    assert [line["good"] for line in lines] == [pair["good"] for pair in PAIRS]
    for line, pair in zip(lines, expected, strict=True):
        assert line["good_score"] == pytest.approx(pair["good_score"], rel=1e-5)
    assert "case                                0.5000         1         1" in done.stdout

    # "-" is standard output, which has the records alone, and standard input.
    done = run(f"--model={finished}", f"--corpus={corpus}", "--output=-", *short, folder=root)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [figures]
    command = [f"--model={finished}", "--pairs=-", "--group=field", "--output=-"]
    done = run(*command, folder=root, stdin=pairs.read_text())
    assert done.returncode == 0, done.stderr
    assert done.stdout == scored.read_text()
    done = run(*command, folder=root, stdin='{"good": "kan"}\n')
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: ") and "standard input" in done.stderr


def test_the_findings_of_a_run_on_standard_output(finished):
    root = str(config_lib.recipe_path("quickstart").parents[1])
    done = run(str(finished), "--output=-", folder=root, command="doctor")
    assert done.returncode == 0, done.stderr
    assert all({"name", "severity", "message"} <= finding.keys() for finding in json.loads(done.stdout))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model=m"], "--corpus, --pairs, --held_out: found several or none"),
        (["--corpus=c"], "--model: missing"),
        (["--model=m", "--pairs=/no/pairs.jsonl"], "--pairs=/no/pairs.jsonl: cannot be read"),
        (["--model=m", "--corpus=c", "--output=/no/such/file"], "--output=/no/such/file: no such folder"),
    ],
)
def test_mistakes_on_the_command_line(arguments, expected):
    done = run(*arguments, folder=str(config_lib.recipe_path("quickstart").parents[1]))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and expected in line


@pytest.mark.parity
def test_a_hugging_face_model_in_torch(tmp_path, corpus):
    """Loss, accuracy and next-sentence accuracy of the same masked rows, and pseudo-log-likelihoods."""
    import torch
    import transformers

    torch.manual_seed(0)
    vocabulary = Corpus.open(corpus).tokenizer
    theirs = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=vocabulary.vocab_size + 3,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=40,
            max_position_embeddings=32,
            initializer_range=0.3,
        )  # fmt: skip
    ).eval()
    theirs.save_pretrained(tmp_path)
    vocabulary.save(tmp_path)
    model = models.open_model(tmp_path)
    metrics = evaluation.evaluate(model, str(corpus), format="segment_pair", **SHORT)

    config = config_lib.base()
    config.data.update(corpus=str(corpus), format="segment_pair", **SHORT)
    config.train.eval_batches = 1000
    loss, correct, count, pairs_right, pairs = 0.0, 0, 0, 0, 0
    for batch in loader.eval_batches(config, 0):
        tensors = {key: torch.from_numpy(batch[key]).long() for key in batch if key != "masked_weights"}
        with torch.no_grad():
            outputs = theirs(
                input_ids=tensors["input_ids"],
                attention_mask=tensors["attention_mask"],
                token_type_ids=tensors["token_type_ids"],
            )
        for row in range(len(batch["input_ids"])):
            weights = batch["masked_weights"][row] > 0
            logits = outputs.prediction_logits[row, tensors["masked_positions"][row][weights]]
            labels = tensors["masked_labels"][row][weights]
            loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
        real = tensors["next_sentence_label"] >= 0
        pairs += int(real.sum())
        answers = outputs.seq_relationship_logits.argmax(-1)
        pairs_right += int((answers == tensors["next_sentence_label"])[real].sum())
    assert metrics["mlm_count"] == count
    assert metrics["mlm_loss"] == pytest.approx(loss / count, rel=1e-5)
    assert metrics["mlm_accuracy"] == pytest.approx(correct / count)
    assert metrics["nsp_accuracy"] == pytest.approx(pairs_right / pairs)

    texts = [PAIRS[0]["good"], PAIRS[2]["good"]]
    scores = []
    for text in texts:
        ids = vocabulary.encode([text])[0]
        rows = torch.tensor([[vocabulary.cls_id, *ids, vocabulary.sep_id]] * len(ids))
        at = torch.arange(len(ids))
        rows[at, at + 1] = vocabulary.mask_id
        with torch.no_grad():
            log_probabilities = theirs(input_ids=rows).prediction_logits.log_softmax(-1)
        scores.append(float(log_probabilities[at, at + 1, torch.tensor(ids)].sum()))
    assert minimal_pairs.pseudo_log_likelihoods(model, texts) == pytest.approx(scores, rel=1e-5)
