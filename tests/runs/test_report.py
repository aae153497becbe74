"""A run's report is one file that needs no network, holds its curves and metrics, and never ends the run."""

import html.parser
import json
import re

import pytest

from bert_jax import config as config_lib
from bert_jax.runs import report


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects what a page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "line", "polyline", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def workdir(tmp_path):
    config = config_lib.base()
    config.model.hidden_size = 96
    rows = [{"step": s, "loss": 9 - s / 1000, "learning_rate": 1e-4, "mfu": None} for s in range(1, 2001)]
    rows[-1] |= {"eval/mlm_loss": 6.5, "eval/unigram_loss": 7.0}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2001, "lo')
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    identity = {"path": "corpus", "fingerprint": "f" * 64}
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 1, "corpora": [identity]}))
    return tmp_path, config


def test_a_report_is_whole_and_alone(workdir):
    folder, config = workdir
    samples = [{"text": "a [MASK] <b>", "masked": "cat", "predicted": "cat 0.5"}]
    assert report.Reports(folder, config, None, 2000, "1 x cpu").write(True, samples) == ""
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and page.fetched == [] and "http" not in text and "<script" not in text
    assert len(text) < 60_000, "long curves are thinned"
    words = " ".join(page.words)
    for expected in ("step 2,000 of 2,000", "model.hidden_size", "96", "768", "a [MASK] <b>", "eval/unigram_loss",
                     "fingerprint ffffffffffff", "1 x cpu", "defaults"):  # fmt: skip
        assert expected in words
    recipe = config.copy_and_resolve_references()
    assert report.Reports(folder, config, recipe, 2000, "").write(True) == ""
    assert "Settings that differ from the recipe none" in " ".join(" ".join(Page(
        (folder / "report.html").read_text()).words).split())  # fmt: skip


def test_labels_of_pictures_fit_a_narrow_screen(workdir):
    """There a label has 20 units of a picture's 640; a label that is cut off reads as another number."""
    rows = [
        {"step": step, "loss": 9.876 - step / 1e5, "learning_rate": 0.001234 / step, "grad_norm": 1e-7 * step,
         "tokens_per_second": 19_876.0 + 1_234_567.0 * step}
        for step in range(1, 9)
    ]  # fmt: skip
    _, config = workdir
    text = report.render("run", config, None, {"format_version": 1}, rows, 8, "")
    labels = re.findall(r'<text x="([\d.]+)"[^>]*?(end|middle|fill)[^>]*>([^<]*)<', text)
    assert {anchor for _, anchor, _ in labels} == {"end", "middle", "fill"}
    for place, anchor, words in labels:
        width = 20 * 0.64 * len(words)  # a digit in a wide sans-serif
        start = float(place) - width * {"end": 1, "middle": 0.5, "fill": 0}[anchor]
        assert start >= 0 and start + width <= 640, words


def test_what_fails_is_a_warning(workdir):
    folder, config = workdir
    (folder / "run.json").unlink()
    assert report.Reports(folder, config, None, 2000, "").write(True).startswith(f"warning: {folder / 'report.html'}: ")


def test_reports_that_take_long_are_left_out_until_the_last(workdir, monkeypatch):
    folder, config = workdir
    written, now = [], [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])

    def write(*arguments):
        written.append(now[0])
        now[0] += 1

    monkeypatch.setattr(report, "write", write)
    reports = report.Reports(folder, config, None, 2000, "")
    for seconds in (10, 20, 30, 200):
        now[0] = seconds
        reports.write(False)
    now[0] = 210
    reports.write(True)
    assert written == [10, 200, 210]


def test_a_report_without_rows(tmp_path):
    config = config_lib.base()
    assert Page(report.render("run", config, None, {}, [], 10, "")).open == []


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ({"text": "a", "gold": "x", "label": "y", "score": 0.5678, "scores": {"x": 0.4}},
         {"text": "a", "gold": "x", "label": "y", "score": "0.568"}),
        ({"text": "a", "text_pair": "b", "gold": 2.5, "score": 2.25},
         {"text": "a", "text_pair": "b", "gold": "2.500", "score": "2.250"}),
        ({"text": "a", "gold": ["x", "y"], "labels": [], "scores": {}},
         {"text": "a", "gold": "x; y", "labels": ""}),
        ({"words": ["In", "Kiel", "."], "gold": ["O", "B-LOC", "O"], "tags": ["O", "O", "O"]},
         {"text": "In Kiel .", "gold": "Kiel B-LOC", "predicted": ""}),
        ({"id": "q1", "question": "Who?", "gold": ["Ada"], "answer": "Ada", "start": 0},
         {"id": "q1", "question": "Who?", "gold": "Ada", "answer": "Ada", "start": "0"}),
    ],
)  # fmt: skip
def test_predictions_of_every_kind_of_task_are_shown_as_texts(tmp_path, record, shown):
    (tmp_path / "summary.json").write_text(json.dumps({"predictions": {"held_out": {"file": "a.jsonl"}}}))
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    assert report._predictions(tmp_path) == [shown]


def test_a_run_without_samples_says_why(workdir):
    folder, config = workdir
    config.train.eval_every = 0
    report.Reports(folder, config, None, 2000, "1 x cpu").write(True)
    assert "none: the run evaluates nothing" in (folder / "report.html").read_text()
