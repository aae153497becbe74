"""Measures what training makes of a small pre-trained model as an embedder, a retriever and a reranker.

    python -m experiments.retrievers --model=WORKDIR --data=DIR --workdir=DIR [--parts wordnet squad stsb batch]
        [--workers=2]

--model is a pre-training run; --data holds `wordnet/` (train, valid and test.tsv.gz: pos, words, definition, examples),
`squad/` (train-v1.1-part.json, dev-v1.1.json) and `stsb/` (stsb-en-train.csv, -dev and -test: two sentences, a score).
The parts:

    wordnet  a reverse dictionary: from a definition of the test split to its words, among those of all splits
    squad    from a question to its paragraph, among the paragraphs of dev: sentences with the rest of their paragraph
             (of WikiText-2 too, in data/wikitext-2/train.txt.gz), then pairs; the same where the first stage knows the
             paragraphs that will be searched, but no question of them, and pairs beside such sentences; and on top of
             that mined negatives and rerankers, by late interaction and a cross-encoder; --model must read rows of 192
             tokens
    stsb     graded pairs (CoSENT), the same with Matryoshka widths, and the sentences alone (SimCSE)
    batch    the reverse dictionary in batches of several sizes, at equal text

Beside trained models stand BM25, TF-IDF and the model as it was before. A rate is chosen by one seed on examples that
are set apart (the valid split, a tenth of SQuAD's training articles, STS-B's dev); other seeds train at that rate, and
are scored on the test split once. In squad and batch, which take hours, the seed that chooses is one of them. Training
is `bert_jax.finetune`, negatives are those of `bert_jax.mine`. Every result is a line of WORKDIR/results.jsonl, and one
that is there is not made again; a killed run goes on where it was.
experiments/retrievers_report.py writes the tables.
"""

import argparse
import csv
import dataclasses
import gzip
import json
import pathlib
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments import lexical
from experiments.tuned_runs import SEEDS, Runner, write_records

PARTS = ("wordnet", "squad", "stsb", "batch")
FEWER = (1e-3, 3e-3), SEEDS[0]  # rates, and the seed that trains at each, of parts that take hours
WEAK_RATE = 1e-3  # the first stage of squad, which one seed trains
# Its arms, chosen among as rates are: epochs, the most anchors of a paragraph, how many paragraphs keep their anchor.
WEAK = {
    "weak pairs": (1, 3, 0.0),
    "weak pairs, four epochs": (4, 3, 0.0),
    "weak pairs, half kept": (1, 3, 0.5),
    "weak pairs, half kept, more anchors": (1, 8, 0.5),
}
KNOWN = "texts known"  # appended to arms whose first stage has the searched paragraphs too
BATCHES = (32, 128, 512, 2048)
WIDTHS = (128, 64, 32, 16)
DEPTH = 100  # documents of a ranking, as measures need it
RERANKED = 20  # documents of a ranking that a reranker orders
SENTENCE = 64  # tokens of the longest row with a sentence
PARAGRAPH = 192  # tokens of the longest row with a paragraph


@dataclasses.dataclass(frozen=True)
class Task:
    """Describes a retrieval task.

    Attributes:
      documents, queries: their texts.
      relevance: for each query, the numbers of the documents that answer it.
    """

    documents: Sequence[str]
    queries: Sequence[str]
    relevance: Sequence[Mapping[int, float]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--workers", type=int, default=1, help="runs of an arm that train at the same time")
    flags = parser.parse_args()
    flags.workdir.mkdir(parents=True, exist_ok=True)
    runner = Runner(flags.model, flags.workdir, flags.workers)
    for part in flags.parts:
        {"wordnet": wordnet, "squad": squad, "stsb": stsb, "batch": batch}[part](runner, flags.data)


def wordnet(runner: Runner, data: pathlib.Path) -> None:
    """Trains and scores the reverse dictionary."""
    task, flags = _dictionary(runner, data)
    _lexical(runner, "wordnet", task)
    runner.result(lambda: {"test": retrieve(runner.model, task)}, part="wordnet", arm="untrained", seed=SEEDS[0])
    config = [*flags, "--config.data.batch_size=128"]
    runner.tuned("wordnet", "pairs", config, "ndcg@10", lambda folder: retrieve(folder, task))


def batch(runner: Runner, data: pathlib.Path) -> None:
    """Trains the reverse dictionary for an epoch in batches of several sizes, cached 64 rows at a time above 128."""
    task, flags = _dictionary(runner, data)
    for size in BATCHES:
        config = [*flags, f"--config.data.batch_size={size}", "--config.train.num_epochs=1"]
        if size > 128:
            config.append("--config.loss.gradcache_rows=64")
        arm = f"{size} anchors"
        runner.tuned("batch", arm, config, "ndcg@10", lambda folder: retrieve(folder, task), *FEWER)


def squad(runner: Runner, data: pathlib.Path) -> None:
    """Trains retrievers and a reranker of paragraphs, and scores them."""
    task = _paragraphs(runner, data)
    _lexical(runner, "squad", task)
    runner.result(lambda: {"test": retrieve(runner.model, task)}, part="squad", arm="untrained", seed=SEEDS[0])
    train, tune = runner.workdir / "squad_train.jsonl", runner.workdir / "squad_tune.jsonl"
    flags = [
        f"--config.task.held_out={tune}", f"--config.data.sequence_length={PARAGRAPH}",
        "--config.train.num_epochs=5", "--config.train.eval_every=100000",
    ]  # fmt: skip

    def first_stage(arm, settings, searched=()):
        """Trains the first stage, unless it is; returns its result."""
        epochs, anchors, kept = settings
        sentences = _weak_pairs(runner, data, anchors, kept, searched)
        weak = ["--config=embedding/pairs", f"--config.task.train={sentences}", *flags, "--config.data.batch_size=64",
                f"--config.train.num_epochs={epochs}"]  # fmt: skip

        def make():
            tune = runner.train("squad", arm, weak, WEAK_RATE, SEEDS[0])
            return tune | {"test": retrieve(runner.folder("squad", arm, WEAK_RATE, SEEDS[0]), task)}

        return runner.result(make, part="squad", arm=arm, rate=WEAK_RATE, seed=SEEDS[0])

    stages = {first_stage(arm, settings)["tune"]["ndcg@10"]: arm for arm, settings in WEAK.items()}
    chosen = stages[max(stages)]
    first_stage(f"{chosen}, {KNOWN}", WEAK[chosen], task.documents)

    def pairs(arm, known, texts, *more):
        """Trains on pairs from the first stage that knows the searched texts, or from the other."""
        stage = runner.folder("squad", chosen + known, WEAK_RATE, SEEDS[0])
        config = ["--config=embedding/pairs", f"--config.task.train={texts}", *flags, "--config.data.batch_size=64",
                  f"--config.init_from={stage}", *more]  # fmt: skip
        runner.tuned("squad", arm + known, config, "ndcg@10", lambda folder: retrieve(folder, task), *FEWER)

    sentences = _weak_pairs(runner, data, *WEAK[chosen][1:], task.documents)
    mixture = f"questions={train},sentences={sentences}"
    pairs("pairs beside sentences", f", {KNOWN}", mixture, "--config.data.weights=1,1", "--config.train.num_epochs=1")
    retriever = runner.best("squad", f"pairs beside sentences, {KNOWN}")
    start = f"--config.init_from={retriever}"
    files = {}
    for split, path, number in (("train", train, 3), ("tune", tune, 15)):
        files[split] = runner.workdir / f"squad_{split}_mined.jsonl"
        if not files[split].exists():
            command = [sys.executable, "-m", "bert_jax.mine", f"--model={retriever}", f"--negatives={number}",
                       f"--input={path}", f"--output={files[split]}", "--depth=50", "--margin=-1"]  # fmt: skip
            subprocess.run(command, check=True)
    first = runner.workdir / "squad_hard.jsonl"  # the hardest negative of each question
    lines = (json.loads(line) for line in files["train"].read_text("utf-8").splitlines())
    write_records(first, (line | {"negatives": line["negatives"][:1]} for line in lines))
    negatives = [f"--config.task.train={first}", "--config.task.negatives=negatives"]
    hard = ["--config=embedding/pairs", *negatives, *flags, start, "--config.data.batch_size=32",
            "--config.train.num_epochs=2"]  # fmt: skip
    runner.tuned("squad", "hard negatives", hard, "ndcg@10", lambda folder: retrieve(folder, task), *FEWER)
    late = ["--config=embedding/colbert", *negatives, *flags, start, "--config.data.batch_size=32",
            "--config.task.embedding_size=64", "--config.train.num_epochs=2"]  # fmt: skip
    runner.tuned(
        "squad", "late interaction on top", late, "ndcg@10", lambda folder: rerank(folder, retriever, task), *FEWER
    )
    lists = [f"--config.task.train={files['train']}", "--config.task.negatives=negatives"]
    cross = ["--config=reranker/pairs", "--config.task.query=anchor", "--config.loss.name=listwise", *lists, *flags,
             start, f"--config.task.held_out={files['tune']}", "--config.data.batch_size=8",
             "--config.train.num_epochs=2"]  # fmt: skip
    runner.tuned(
        "squad", "cross-encoder on top", cross, "ndcg@10", lambda folder: rerank(folder, retriever, task, 5), *FEWER
    )
    for known in (f", {KNOWN}", ""):
        pairs("pairs", known, train)


def stsb(runner: Runner, data: pathlib.Path) -> None:
    """Trains on graded pairs and on sentences alone, and scores Spearman's correlation of STS-B's test pairs."""
    paths = {}
    for split in ("train", "dev", "test"):
        rows = list(csv.reader((data / "stsb" / f"stsb-en-{split}.csv").read_text("utf-8").splitlines()))
        paths[split] = runner.workdir / f"stsb_{split}.jsonl"
        records = ({"sentence1": a, "sentence2": b, "label": float(score)} for a, b, score in rows)
        write_records(paths[split], records)
    pairs = [json.loads(line) for line in paths["test"].read_text("utf-8").splitlines()]
    runner.result(lambda: {"test": similarity(runner.model, pairs)}, part="stsb", arm="untrained", seed=SEEDS[0])
    shared = [f"--config.task.held_out=sts:{paths['dev']}", f"--config.data.sequence_length={SENTENCE}",
              "--config.train.eval_every=100000"]  # fmt: skip
    graded = ["--config=embedding/sts", f"--config.task.train={paths['train']}", *shared]
    widths = f"--config.loss.matryoshka={','.join(map(str, WIDTHS))}"
    alone = runner.workdir / "stsb_sentences.jsonl"
    lines = [json.loads(line) for line in paths["train"].read_text("utf-8").splitlines()]
    sentences = dict.fromkeys(line[name] for line in lines for name in ("sentence1", "sentence2"))
    write_records(alone, ({"text": sentence} for sentence in sentences))
    simcse = ["--config=embedding/simcse", f"--config.task.train={alone}", "--config.task.pooling=mean", *shared,
              "--config.model.hidden_dropout=0.1", "--config.model.attention_dropout=0.1"]  # fmt: skip
    arms = {"CoSENT": graded, "CoSENT, Matryoshka": [*graded, widths], "SimCSE": simcse}
    for arm, config in arms.items():
        metric = f"spearman_{WIDTHS[0]}" if "Matryoshka" in arm else "spearman"
        runner.tuned("stsb", arm, config, metric, lambda folder: similarity(folder, pairs))


def retrieve(model, task: Task) -> dict[str, float]:
    """Returns the measures of a model's rankings."""
    from bert_jax.data.tasks import ranking

    return ranking.score(_nearest(model, task), task.relevance)


def rerank(model, retriever, task: Task, every: int = 1) -> dict[str, float]:
    """Returns the measures of a retriever's rankings whose first documents a reranker has ordered.

    With `every` above 1 only each query of so many is scored, and "retriever/..." are the measures of the retriever
    alone for these.
    """
    import bert_jax
    from bert_jax.data.tasks import ranking
    from bert_jax.inference.opening import open_predictor

    task = Task(task.documents, task.queries[::every], task.relevance[::every])
    ranked = _nearest(retriever, task)
    before = ranking.score(ranked, task.relevance) if every > 1 else {}
    reranker = open_predictor(bert_jax.Reranker, str(model))
    first = ranked[:, :RERANKED]
    pairs = [(query, task.documents[i]) for query, row in zip(task.queries, first, strict=True) for i in row]
    scores = np.reshape([answer["score"] for answer in reranker.stream(pairs)], first.shape)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked[:, :RERANKED] = np.take_along_axis(first, order, axis=1)
    return ranking.score(ranked, task.relevance) | {f"retriever/{name}": value for name, value in before.items()}


def similarity(model, pairs) -> dict[str, float]:
    """Returns Spearman's correlation of cosines and scores, of whole vectors and of vectors cut to each width."""
    from scipy import stats

    import bert_jax

    embedder = bert_jax.Embedder(str(model))
    first, second = (np.stack(list(embedder([pair[name] for pair in pairs]))) for name in ("sentence1", "sentence2"))
    scores = [pair["label"] for pair in pairs]

    def correlation(width):
        left, right = first[:, :width], second[:, :width]
        cosines = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
        return float(stats.spearmanr(cosines, scores).statistic)

    return {f"spearman_{width}": correlation(width) for width in WIDTHS}


def _nearest(model, task):
    """Returns the documents nearest to each query, int64 [queries, DEPTH]."""
    import bert_jax
    from bert_jax.data.tasks import ranking

    embedder = bert_jax.Embedder(str(model), normalize=True)
    queries, documents = (np.stack(list(embedder(texts))) for texts in (task.queries, task.documents))
    return ranking.nearest(queries, documents, DEPTH)


def _lexical(runner, part, task):
    """Scores BM25 and TF-IDF."""
    from bert_jax.data.tasks import ranking

    for arm, weigh in lexical.WEIGHTS.items():

        def make(weigh=weigh):
            return {"test": ranking.score(lexical.nearest(task.queries, task.documents, DEPTH, weigh), task.relevance)}

        runner.result(make, part=part, arm=arm, seed=SEEDS[0])


def _dictionary(runner, data):
    """Returns the task of the test definitions, and flags of training on the train split."""
    rows = {split: _synsets(data / "wordnet" / f"{split}.tsv.gz") for split in ("train", "valid", "test")}
    numbers: dict[str, int] = {}
    for words, _ in (row for split in rows.values() for row in split):
        numbers.setdefault(words, len(numbers))
    train_definitions = {definition for _, definition in rows["train"]}
    test = [(words, definition) for words, definition in rows["test"] if definition not in train_definitions]
    task = Task(list(numbers), [definition for _, definition in test], [{numbers[words]: 1.0} for words, _ in test])
    for split in ("train", "valid"):
        records = ({"anchor": definition, "positive": words} for words, definition in rows[split])
        write_records(runner.workdir / f"wordnet_{split}.jsonl", records)
    print(f"wordnet: {len(rows['train'])} pairs, {len(task.queries)} queries, {len(task.documents)} documents")
    return task, [
        "--config=embedding/pairs", f"--config.task.train={runner.workdir}/wordnet_train.jsonl",
        f"--config.task.held_out={runner.workdir}/wordnet_valid.jsonl", "--config.data.sequence_length=64",
        "--config.train.num_epochs=2", "--config.train.eval_every=100000",
    ]  # fmt: skip


def _synsets(path) -> list[tuple[str, str]]:
    """Returns words and definition of each synset."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [(words, definition) for _, words, definition, *_ in csv.reader(file, "excel-tab", quoting=3)][1:]


def _paragraphs(runner, data):
    """Returns the task of dev's questions; writes the pairs of training, a tenth of the articles apart."""
    paths = {split: data / "squad" / f"{split}.json" for split in ("train-v1.1-part", "dev-v1.1")}
    train, dev = (json.loads(path.read_text("utf-8"))["data"] for path in paths.values())
    apart = max(1, len(train) // 10)
    for name, articles in (("tune", train[:apart]), ("train", train[apart:])):
        records = ({"anchor": question, "positive": paragraph} for paragraph, question in _questions(articles))
        write_records(runner.workdir / f"squad_{name}.jsonl", records)
    pairs = list(_questions(dev))
    numbers: dict[str, int] = {}
    for paragraph, _ in pairs:
        numbers.setdefault(paragraph, len(numbers))
    print(f"squad: {len(pairs)} queries, {len(numbers)} documents, {apart} of {len(train)} articles apart")
    return Task(list(numbers), [question for _, question in pairs], [{numbers[text]: 1.0} for text, _ in pairs])


def _weak_pairs(runner, data, anchors, kept, searched=()):
    """Writes pairs without labels and returns their file: a sentence, and its paragraph without it.

    That is the inverse cloze task (Lee et al. 2019, section 4). The paragraphs are those of WikiText-2's training text
    and of SQuAD's training articles that choose nothing. `anchors` is the most sentences of a paragraph, and `kept` the
    share of pairs whose paragraph keeps the sentence, which teaches to find what shares words (0.1 in the paper).
    With `searched`, the paragraphs that the report searches, these and those that the choosing split searches are among
    them, without a question: whoever searches texts of their own has them before a question comes.
    """
    path = runner.workdir / f"squad_weak_{anchors}_{kept:g}{'_searched' if searched else ''}.jsonl"
    with gzip.open(data / "wikitext-2" / "train.txt.gz", "rt", encoding="utf-8") as file:
        paragraphs = [line.strip() for line in file if line.strip() and not line.startswith(" =")]
    for split in ("train", "tune")[: 1 + bool(searched)]:
        lines = (runner.workdir / f"squad_{split}.jsonl").read_text("utf-8").splitlines()
        paragraphs += dict.fromkeys(json.loads(line)["positive"] for line in lines)
    paragraphs += searched
    chance = random.Random(0)

    def records():
        for paragraph in paragraphs:
            sentences = re.split(r"(?<=[.!?]) +", paragraph)
            long_enough = [i for i, sentence in enumerate(sentences) if len(sentence.split()) >= 5]
            if len(sentences) < 3:
                continue
            for i in chance.sample(long_enough, min(anchors, len(long_enough))):
                rest = sentences if kept and chance.random() < kept else sentences[:i] + sentences[i + 1 :]
                yield {"anchor": sentences[i], "positive": " ".join(rest)}

    write_records(path, records())
    return path


def _questions(articles) -> Iterator[tuple[str, str]]:
    """Yields paragraph and question."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield paragraph["context"].strip(), question["question"].strip()


if __name__ == "__main__":
    main()
