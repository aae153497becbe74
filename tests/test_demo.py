"""Drives the demo's page in a real headless browser: every tab answers as the Python classes do."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys

import pytest

import bert_jax
from bert_jax.interop import huggingface
from bert_jax.model import Task
from tests.commands import LONGEST_WAIT
from tests.inference import conftest as tiny

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TASKS = {
    "plain": (None, (), {}),
    "classifier": (Task("sequence_classification", 2), ("negative", "positive"), {"problem": "single_label"}),
    "regression": (Task("sequence_classification", 1), ("score",), {"problem": "regression"}),
    "tagger": (Task("token_classification", 3), ("O", "B-PER", "I-PER"), {"scheme": "BIO"}),
    "answerer": (Task("question_answering", 2), ("start", "end"), {}),
}


def start(*options):
    words = [sys.executable, "-m", "bert_jax.demo", *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_without_gradio_it_says_what_to_install(tmp_path):
    if importlib.util.find_spec("gradio"):
        pytest.skip("this machine: gradio is installed")
    process = start("--model=anything")
    _, errors = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 2
    assert errors == "error: gradio: not installed; expected it for the page: pip install 'bert_jax[demo]'\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test")
    for name, (task, labels, more) in TASKS.items():
        huggingface.write(tiny.make_model(tokenizer, *([task, labels] if task else []), **more), folder / name)
    return folder


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("this machine: no Chromium")
    with sync_api.sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
        running = playwright.chromium.launch(executable_path=path, args=quiet)
        yield running
        running.close()


@contextlib.contextmanager
def shown(model, browser):
    """Serves a model's page, and opens it; yields it, and asserts that it loaded nothing from elsewhere."""
    process = start(f"--model={model}", "--port=0")
    try:
        line = process.stdout.readline()
        assert line.startswith(f"{model}: http://127.0.0.1:"), process.stderr.read()
        requests = []
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(1000 * LONGEST_WAIT)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(line.split()[1])
        yield page
        page.close()
        assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in requests), requests
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST_WAIT) in (130, -signal.SIGINT)
    finally:
        process.kill()
        process.communicate()


def press(page, tab, button):
    page.get_by_role("tab", name=tab).click()
    page.get_by_role("button", name=button, exact=True).click()


@pytest.mark.demo
def test_masks_sentences_and_attention(models, browser):
    model = models / "plain"
    with shown(model, browser) as page:
        text = page.get_by_label("Text with [MASK]").input_value()
        press(page, "Fill masks", "Fill")
        (expected,) = bert_jax.FillMask(model)(text)["masks"]
        for prediction in expected:
            page.get_by_role("row", name=f"{prediction['score']:.4f}".rstrip("0")).first.wait_for()
        page.get_by_label("Text with [MASK]").fill("no mask")
        page.get_by_role("button", name="Fill", exact=True).click()
        page.get_by_text("no [MASK] in 'no mask'; expected at least one").wait_for()
        press(page, "Nearest sentences", "Search")
        query = page.get_by_label("Text", exact=True).locator("visible=true").input_value()
        lines = page.get_by_label("Sentences, one a line").input_value().splitlines()
        hits = bert_jax.Embedder(model).search(query, lines, top_k=len(lines))
        for hit in hits:
            page.get_by_role("row", name=hit["text"]).first.wait_for()
        press(page, "Attention", "Show")
        page.locator("table.attention td").first.wait_for()
        tokens, weights = bert_jax.Inspector(model).attention("The cat sat on the mat.")
        cells = page.locator("table.attention td")
        assert cells.count() == len(tokens) ** 2
        assert cells.nth(1).get_attribute("title").endswith(f": {weights[0].mean(0)[0, 1]:.3f}")
        save(page, "attention")


@pytest.mark.demo
def test_classes_and_values(models, browser):
    with shown(models / "classifier", browser) as page:
        press(page, "Classify", "Classify")
        answer = bert_jax.Classifier(models / "classifier")("A fine film.")
        page.get_by_text(f"{round(100 * answer['score'])}%").first.wait_for()
        page.get_by_text(answer["label"]).first.wait_for()
        save(page, "classify")
    with shown(models / "regression", browser) as page:
        press(page, "Classify", "Classify")
        expected = bert_jax.Classifier(models / "regression")("A fine film.")["score"]
        page.wait_for_function("document.querySelector('input[aria-label=\"Value\"]').value % 1 != 0")
        assert float(page.get_by_label("Value", exact=True).input_value()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.demo
def test_tags_and_answers(models, browser):
    with shown(models / "tagger", browser) as page:
        press(page, "Tag", "Tag")
        page.get_by_text("Lovelace").first.wait_for()
        save(page, "tag")
    with shown(models / "answerer", browser) as page:
        press(page, "Answer", "Answer")
        answer = bert_jax.QuestionAnswerer(models / "answerer")("Where did Ada live?", "Ada Lovelace lived in London.")
        box = page.get_by_label("Answer", exact=True).locator("visible=true")
        page.wait_for_function("box => box.value != ''", arg=box.element_handle())
        assert box.input_value() == f"{answer['answer'] or 'no answer'} ({answer['score']:.3f})"
        save(page, "answer")


def save(page, name):
    """Keeps a screenshot where BERT_JAX_TEST_SCREENSHOTS names a folder, to be looked at."""
    if folder := os.environ.get("BERT_JAX_TEST_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
