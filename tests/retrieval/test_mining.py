"""Hard negatives against a plain search through all documents in float64, and what a kill and another call leave."""

import gzip
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import bert_jax
from bert_jax.config import finetuning as finetuning_config
from bert_jax.data import tasks
from bert_jax.errors import UserError
from bert_jax.interop import huggingface
from bert_jax.retrieval import mining
from tests.commands import LONGEST_WAIT, ROOT, wait_until
from tests.inference.conftest import make_model, texts
from tests.retrieval.conftest import DOCUMENTS, cosines, write_lines

ANCHORS = texts(24, seed=3, most=6)
# Anchor 0 has three positives, 1 and 2 share their answers, the text of anchor 4 is a document, the last positive is
# in no corpus, and the first document occurs twice.
ROWS = [
    {"id": i, "anchor": ANCHORS[0 if i < 3 else i], "positive": DOCUMENTS[i], "topic": {3: "t", 5: "t"}.get(i, "")}
    for i in range(24)
]
ROWS[-1]["positive"] = "cd ef ab"
CORPUS = [(f"d{i}", text) for i, text in enumerate([*DOCUMENTS, DOCUMENTS[0], ANCHORS[4]])]


@pytest.fixture
def pairs(tmp_path):
    return mining.read_pairs(str(write_lines(tmp_path / "pairs.jsonl", ROWS)), "anchor", "positive", "topic")


def mined(embedder, pairs, path, corpus=CORPUS, **rule):
    tally = mining.mine(embedder, pairs, corpus, path, mining.Rule(**rule))
    assert not path.with_name(f"{path.name}.mining").exists()
    return [json.loads(line) for line in path.read_text().splitlines()], tally


def expected(embedder, corpus, count=3, skip=0, depth=100, margin=0.05, max_score=None, min_score=None):
    """Returns (negatives, their scores, the positive's score) of each record, by comparing everything."""
    documents = list(dict.fromkeys(text for _, text in corpus))
    texts_of = {"anchor": list(dict.fromkeys(ANCHORS)), "document": [*documents, ROWS[-1]["positive"]]}
    scores = cosines(embedder.encode(texts_of["anchor"]), embedder.encode(texts_of["document"]))
    results = []
    for row in ROWS:
        own = [other["positive"] for other in ROWS if other["anchor"] == row["anchor"]]
        topics = {other["topic"] for other in ROWS if other["anchor"] == row["anchor"]} - {""}
        known = {*own, row["anchor"], *(other["positive"] for other in ROWS if other["topic"] in topics)}
        line = scores[texts_of["anchor"].index(row["anchor"])]
        order = [i for i in np.argsort(-line[:-1], kind="stable") if documents[i] not in known][skip:depth]
        lowest = min(line[texts_of["document"].index(text)] for text in own)
        top = min(
            lowest - (margin or 0) * abs(lowest) if margin is not None else 9, 9 if max_score is None else max_score
        )
        taken = [i for i in order if line[i] <= top and (min_score is None or line[i] >= min_score)][:count]
        positive = line[texts_of["document"].index(row["positive"])]
        results.append(([documents[i] for i in taken], [line[i] for i in taken], positive))
    return results


@pytest.mark.parametrize(
    "rule",
    [{}, {"count": 2, "skip": 4, "depth": 11, "margin": None}, {"skip": 5, "margin": 0.2}, {"margin": 0.3, "depth": 45},
     {"margin": None, "max_score": 0.6, "min_score": 0.2, "count": 5}, {"margin": 0.0}],
    ids=str,
)  # fmt: skip
def test_negatives_are_those_of_float64(embedder, pairs, tmp_path, rule, monkeypatch):
    monkeypatch.setattr(mining, "RECORDS", 10)
    lines, tally = mined(embedder, pairs, tmp_path / "mined.jsonl", **rule)
    results = expected(embedder, CORPUS, **rule)
    assert [line["negatives"] for line in lines] == [negatives for negatives, _, _ in results]
    for line, row, (_, scores, positive) in zip(lines, ROWS, results, strict=True):
        np.testing.assert_allclose(line["negative_scores"], scores, atol=1e-5)
        assert line["positive_score"] == pytest.approx(positive, abs=1e-5)
        assert {name: line[name] for name in row} == row
    sizes = [len(negatives) for negatives, _, _ in results]
    assert (tally.records, tally.negatives, tally.without) == (24, sum(sizes), sizes.count(0))
    assert tally.short == sum(size < rule.get("count", 3) for size in sizes)


def test_without_a_corpus_the_positives_are_the_documents(embedder, pairs, tmp_path):
    lines, _ = mined(embedder, pairs, tmp_path / "mined.jsonl", None, margin=None)
    documents = [(str(i), text) for i, text in enumerate(dict.fromkeys(row["positive"] for row in ROWS))]
    assert [line["negatives"] for line in lines] == [row for row, _, _ in expected(embedder, documents, margin=None)]


def test_random_negatives_are_a_function_of_the_seed(embedder, pairs, tmp_path):
    rule = {"margin": None, "count": 4, "depth": 12, "sampling": "random"}
    first, _ = mined(embedder, pairs, tmp_path / "a.jsonl", **rule)
    again, _ = mined(embedder, pairs, tmp_path / "b.jsonl", **rule)
    other, _ = mined(embedder, pairs, tmp_path / "c.jsonl", **rule, seed=1)
    window = expected(embedder, CORPUS, margin=None, count=12, depth=12)
    assert first == again != other
    for line, (negatives, _, _) in zip(first, window, strict=True):
        chosen = [negatives.index(text) for text in line["negatives"]]
        assert len(chosen) == 4 and chosen == sorted(chosen)


def test_fine_tuning_reads_what_is_mined(embedder, tokenizer, pairs, tmp_path):
    lines, _ = mined(embedder, pairs, tmp_path / "mined.jsonl", margin=None)
    config = finetuning_config.base()
    config.task.name, config.data.batch_size = "embedding", 4
    config.task.train, config.task.relevance_id = str(tmp_path / "mined.jsonl"), "topic"
    config.task.negatives = ("negatives",)
    config.data.sequence_length, config.task.held_out_share = 24, 0.2
    data = tasks.load(config, tokenizer)
    assert data.train.batch(np.arange(4), 24)["other_input_ids"].shape == (4, 4, 24)
    assert len(lines) == 24


def test_answers_that_differ_in_case_and_white_space_are_no_negatives(embedder, tmp_path):
    answer = ROWS[7]["positive"]
    near = [answer.upper(), f" {answer}", answer.replace(" ", "  "), f"{answer}\t"]
    corpus = [*CORPUS, *((f"near{i}", text) for i, text in enumerate(near))]
    pairs = mining.read_pairs(str(write_lines(tmp_path / "pairs.jsonl", ROWS)), "anchor", "positive", "topic")
    lines, _ = mined(embedder, pairs, tmp_path / "mined.jsonl", corpus, margin=None, count=40, depth=40)
    assert len(lines[7]["negatives"]) == 40 and not {answer, *near} & set(lines[7]["negatives"])
    assert any(set(near) & set(line["negatives"]) for line in lines)


def test_what_a_reranker_scored_is_trained_on_by_the_command_that_is_printed(embedder, tokenizer, reranker, tmp_path):
    pairs = mining.read_pairs(str(write_lines(tmp_path / "pairs.jsonl", ROWS)), "anchor", "positive", "topic")
    path = tmp_path / "mined.jsonl"
    mining.mine(embedder, pairs, CORPUS, path, mining.Rule(margin=None), reranker=reranker)
    assert isinstance(json.loads(path.read_text().splitlines()[0])["score"], list)
    config = finetuning_config.base()
    config.task.name, config.data.batch_size, config.loss.name = "embedding", 4, "info_nce"
    config.task.train, config.task.negatives = str(path), ("negatives",)
    config.data.sequence_length, config.task.held_out_share = 24, 0.2
    assert tasks.load(config, tokenizer).metric == "ndcg@10"


def test_columns_and_compressed_output(embedder, tmp_path):
    rows = [{"q": row["anchor"], "a": row["positive"], "negatives": "mine"} for row in ROWS]
    pairs = mining.read_pairs(str(write_lines(tmp_path / "pairs.jsonl", rows)), "q", "a")
    mining.mine(embedder, pairs, CORPUS, tmp_path / "mined.jsonl.gz", mining.Rule())
    with gzip.open(tmp_path / "mined.jsonl.gz", "rt") as file:
        first = json.loads(next(file))
    assert first["input_negatives"] == "mine" and first["q"] == ANCHORS[0] and isinstance(first["negatives"], list)


def test_a_shared_index_stays_and_is_used(embedder, pairs, tmp_path, monkeypatch):
    plain, _ = mined(embedder, pairs, tmp_path / "plain.jsonl")
    kept, _ = mined_with_index(embedder, pairs, tmp_path)
    assert kept == plain and (tmp_path / "index" / "vectors.npy").exists()
    counts, stream = [], embedder.stream
    monkeypatch.setattr(
        embedder, "stream", lambda given, *rest, **more: counts.append(len(given)) or stream(given, *rest, **more)
    )
    again, _ = mined_with_index(embedder, pairs, tmp_path)
    assert again == plain and sum(counts) == 1 + 22  # the positive that is no document, and the anchors


def mined_with_index(embedder, pairs, folder):
    tally = mining.mine(embedder, pairs, CORPUS, folder / "kept.jsonl", mining.Rule(), index=str(folder / "index"))
    return [json.loads(line) for line in (folder / "kept.jsonl").read_text().splitlines()], tally


def test_mistakes(embedder, tokenizer, pairs, tmp_path):
    for rule, message in (
        ({"count": 0}, "--negatives=0: expected at least 1"),
        ({"max_score": -2.0}, "--depth=100: no record has a negative in ranks 1 to 100"),
    ):
        with pytest.raises(UserError, match=message):
            mining.mine(embedder, pairs, CORPUS, tmp_path / "out.jsonl", mining.Rule(**rule))
        assert not (tmp_path / "out.jsonl").exists()
    other = bert_jax.Embedder(make_model(tokenizer, seed=1))
    (tmp_path / "out.jsonl.mining" / "failed").unlink()  # as if it had been killed
    with pytest.raises(UserError, match="out.jsonl.mining .of a call that was ended.: holds vectors of the model test.*"
                       "; remove .*out.jsonl.mining to begin anew"):  # fmt: skip
        mining.mine(other, pairs, CORPUS, tmp_path / "out.jsonl", mining.Rule())
    with pytest.raises(UserError, match="no record has a negative .*, or other bounds .--max_score and --min_score.$"):
        mining.mine(embedder, pairs, CORPUS, tmp_path / "out.jsonl", mining.Rule(max_score=-2.0, min_score=-3.0))
    assert mined(other, pairs, tmp_path / "out.jsonl")[1].negatives  # a mistake refuses nothing that comes after it
    (tmp_path / "mine.jsonl.mining").mkdir()
    (tmp_path / "mine.jsonl.mining" / "notes.txt").write_text("kept")
    with pytest.raises(UserError, match="mine.jsonl.mining holds notes.txt, which no call of mine has written"):
        mining.mine(embedder, pairs, CORPUS, tmp_path / "mine.jsonl", mining.Rule())
    assert (tmp_path / "mine.jsonl.mining" / "notes.txt").exists()
    with pytest.raises(UserError, match="--corpus: empty"):
        mining.mine(embedder, pairs, [("0", " ")], tmp_path / "empty.jsonl", mining.Rule())
    for rows, arguments, message in (
        ([{"anchor": "a"}], (), "pairs.jsonl line 1.*positive.* .--positive=NAME names it.$"),
        ([{"anchor": "a", "positive": " "}], (), "pairs.jsonl line 1: 'positive' is empty; expected text"),
        ([{"anchor": "a", "positive": 3}], (), "pairs.jsonl line 1: 'positive' holds"),
        ([{"anchor": "a", "positive": "b"}], ("anchor", "positive", "topic"), "topic"),
        ([{"anchor": "a", "positive": "b"}], ("anchor", "anchor"), "expected a column each"),
        ([], (), "pairs.jsonl: found no record .--input."),
    ):
        path = str(write_lines(tmp_path / "pairs.jsonl", rows))
        with pytest.raises(UserError, match=message):
            mining.read_pairs(path, *(arguments or ("anchor", "positive")))
    with pytest.raises(UserError, match="--input=.*absent.jsonl: no such file"):
        mining.read_pairs(str(tmp_path / "absent.jsonl"), "anchor", "positive")


# Waits for its end once the first part is on the disk.
DRIVER = """
import pathlib, sys, time
from bert_jax import command, files, mine
from bert_jax.retrieval import index, mining

index.BLOCK, mining.RECORDS = 16, 10
made = mining._made
def made_and_wait(path, *rest):
    if path.name == "000001.jsonl":
        (path.parent / "waiting").touch()
        time.sleep(10_000)
    return made(path, *rest)
if sys.argv.pop(1) == "killed":
    mining._made = made_and_wait
command.run(mine.main)
"""


def test_a_call_that_ended_early_keeps_its_finished_parts(embedder, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "RECORDS", 10)
    whole, _ = mined(embedder, pairs, tmp_path / "whole.jsonl")
    computed, lines = [], mining._Miner.lines

    def failing(miner, chosen):
        if len(computed) == 1:
            raise KeyboardInterrupt
        computed.append(chosen)
        return lines(miner, chosen)

    monkeypatch.setattr(mining._Miner, "lines", failing)
    with pytest.raises(KeyboardInterrupt):
        mined(embedder, pairs, tmp_path / "mined.jsonl")
    monkeypatch.setattr(mining._Miner, "lines", lambda miner, chosen: computed.append(chosen) or lines(miner, chosen))
    computed.clear()
    assert mined(embedder, pairs, tmp_path / "mined.jsonl")[0] == whole
    assert computed == [range(10, 20), range(20, 24)]
    monkeypatch.setattr(mining, "_join", None)  # a call that ends before its last step, and another rule for the next
    with pytest.raises(TypeError):
        mined(embedder, pairs, tmp_path / "mined.jsonl", count=1)
    monkeypatch.undo()
    assert mined(embedder, pairs, tmp_path / "mined.jsonl", count=2)[0] == [
        line | {name: line[name][:2] for name in ("negatives", "negative_scores")} for line in whole
    ]


@pytest.mark.full
def test_a_killed_call_goes_on_to_the_same_bits(embedder, pairs, tmp_path):
    huggingface.write(embedder.model, tmp_path / "model")
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": key, "text": text} for key, text in CORPUS])
    line = [f"--model={tmp_path / 'model'}", f"--input={tmp_path / 'pairs.jsonl'}", f"--corpus={corpus}",
            "--relevance_id=topic", "--dtype=float32"]  # fmt: skip

    def call(how, output):
        words = [sys.executable, "-c", DRIVER, how, *line, f"--output={output}"]
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process = call("killed", tmp_path / "mined.jsonl")
    parts = tmp_path / "mined.jsonl.mining" / "parts"
    wait_until((parts / "waiting").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (parts / "000000.jsonl").exists() and not (tmp_path / "mined.jsonl").exists()
    for name in ("mined.jsonl", "whole.jsonl"):
        process = call("left", tmp_path / name)
        printed, said = process.communicate(timeout=LONGEST_WAIT)
        assert process.returncode == 0, said
        assert "24 records with" in printed
    assert (tmp_path / "mined.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "mined.jsonl.mining").exists()


# Prints the most memory that the process ever held, in MiB.
MEASURED = """
import atexit, resource, sys
from bert_jax import command
atexit.register(lambda: print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True))
if sys.argv.pop(1) == "mine":
    from bert_jax import mine
    command.run(mine.main)
else:
    from bert_jax import predict
    predict.run()
"""


@pytest.mark.full
@pytest.mark.parametrize("name", ["search", "mine"])
def test_memory_hardly_grows_with_the_corpus(embedder, pairs, tmp_path, name):
    """Five times the documents cost the memory of their ids (search) or texts (mine), and of no vector."""
    huggingface.write(embedder.model, tmp_path / "model")
    peaks = []
    for count in (20_000, 100_000):
        corpus = tmp_path / f"{count}.jsonl"
        write_lines(corpus, [{"id": str(i), "text": f"{i % 100} ab {i // 100} cd"} for i in range(count)])
        line = {
            "search": ["search", f"--queries={tmp_path / 'pairs.jsonl'}", "--query_column=anchor", "--top_k=50"],
            "mine": [f"--input={tmp_path / 'pairs.jsonl'}", "--margin=-1", "--depth=50"],
        }[name]
        words = [f"--model={tmp_path / 'model'}", f"--corpus={corpus}", f"--output={tmp_path / f'{count}.out.jsonl'}"]
        process = subprocess.run([sys.executable, "-c", MEASURED, name, *line, *words], cwd=ROOT, capture_output=True,
                                 text=True, timeout=LONGEST_WAIT)  # fmt: skip
        assert process.returncode == 0, process.stderr
        peaks.append(float(process.stdout.split("peak ")[1]))
    assert peaks[1] - peaks[0] < {"search": 60, "mine": 90}[name], peaks
