"""Runs the commands of a page, made small, in a folder that has the files which the pages name."""

import contextlib
import csv
import json
import os
import pathlib
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from bert_jax.interop import huggingface
from bert_jax.model import Task
from tests.commands import LONGEST_WAIT
from tests.docs.blocks import ROOT, blocks
from tests.inference import conftest as tiny
from tests.inference import test_multi_vector as multi_vector
from tests.interop import stand_in_hub

_MODEL = {
    "model.hidden_size": 32, "model.num_layers": 2, "model.num_heads": 2, "model.intermediate_size": 48,
    "model.vocab_size": 0,
}  # fmt: skip
_PRETRAIN = {
    "data.phases": "()", "data.sequence_length": 32, "data.batch_size": 8, "data.max_predictions": 0, "data.workers": 0,
    "data.prefetch": 2, "optimizer.warmup_steps": 1, "train.num_steps": 4, "train.log_every": 2, "train.eval_every": 4,
    "train.eval_batches": 1, "train.eval_batch_size": 8, "train.checkpoint_every": 2, "train.keep_every": 2,
}  # fmt: skip
_FINETUNE = {
    "data.sequence_length": 24, "data.batch_size": 4, "train.num_steps": 4, "train.log_every": 2,
}  # fmt: skip
_ANSWERING = {"task.max_query_length": 8, "task.doc_stride": 8}
_HINDI = ("यह किताब नई नहीं है", "लड़का स्कूल जाता है और पढ़ता है", "आज मौसम अच्छा है", "हम कल बाज़ार से फल लाएँगे")
_QUICKSTART = {key: _PRETRAIN[key] for key in _PRETRAIN if key.startswith("train.")}
_programs = {}  # where compiled programs are shared, once `make` has said


def environment() -> dict[str, str]:
    """Returns the environment of a user who has installed the checkout and has one CPU device."""
    values = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return values | quick | _programs | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def make(folder: pathlib.Path) -> pathlib.Path:
    """Fills a folder with what the pages take for granted: texts, labelled data, models and a run."""
    _programs["JAX_COMPILATION_CACHE_DIR"] = str(folder.parent / "docs_programs")
    paragraphs = [
        " ".join(paragraph.split())
        for topic in sorted(pydoc_data.topics.topics)
        for paragraph in pydoc_data.topics.topics[topic].split("\n\n")
        if len(paragraph) > 200
    ]
    for i, name in enumerate(("books", "wiki", "papers")):
        (folder / name).mkdir()
        for part in range(2):
            some = paragraphs[200 * i + 100 * part :][:100]
            (folder / name / f"{part}.txt").write_text("\n\n".join(some) + "\n", "utf-8")
    (folder / "hindi").mkdir()
    (folder / "hindi" / "0.txt").write_text("".join(f"{sentence} ।\n\n" for sentence in _HINDI * 20), "utf-8")
    _make_labelled(folder)
    _make_proteins(folder)
    tokenizer = tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test")
    huggingface.write(tiny.make_model(tokenizer), folder / "MODEL")
    huggingface.write(tiny.make_model(tokenizer, settings={"sparse": ("max", "relu")}), folder / "SPARSE")
    huggingface.write(multi_vector.make(**multi_vector.MARKERS), folder / "LATE")
    head = Task("sequence_classification", 1)
    huggingface.write(tiny.make_model(tokenizer, head, ("score",), problem="regression"), folder / "RERANKER")
    for name in ("experiments", "docs"):  # as in a checkout
        (folder / name).symlink_to(ROOT / name)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tiny.VOCABULARY), "utf-8")
    for name, task, labels, more in (
        ("sst2", Task("sequence_classification", 2), ("negative", "positive"), {"problem": "single_label"}),
        ("conll2003", Task("token_classification", 3), ("O", "B-PER", "I-PER"), {"scheme": "BIO"}),
        ("squad1", Task("question_answering", 2), ("start", "end"), {}),
    ):
        (folder / "runs").mkdir(exist_ok=True)
        huggingface.write(tiny.make_model(tokenizer, task, labels, **more), folder / "runs" / name)
    _run(["prepare", "--input=books/*.txt", "--output=corpora/books", "--tokenizer=train:wordpiece:400"], folder)
    _run(["pretrain", "--config=bert_base", "--config.data.corpus=corpora/books", "--workdir=runs/books"], folder)
    return folder


def copy(base: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the folder that `make` has filled, with its links to the checkout."""
    shutil.copytree(base, folder, symlinks=True)


def run_page(page: str, base: pathlib.Path, folder: pathlib.Path) -> None:
    """Runs the commands of a page in order, then its Python blocks as one program."""
    copy(base, folder)
    marked = [block for block in blocks(page) if not block.run_on]
    commands = [words for block in marked if block.language == "bash" for words in block.commands]
    remove_what_is_made(commands, folder)
    for block in marked:
        if block.file:
            (folder / block.file).write_text(block.text + "\n", "utf-8")
    for words in commands:
        if words[0] == "bert-jax":
            _run(words[1:], folder)
        elif words[0] == "python":
            call([sys.executable, *words[1:]], folder)
        elif words == ["make", "quickstart"]:
            _run(["quickstart"], folder)
    programs = [block.text for block in marked if block.language == "python" and not block.file]
    if programs:
        if "runs/quickstart/run" in "".join(programs) and not (folder / "runs/quickstart").exists():
            _run(["quickstart"], folder)
        (folder / "page.py").write_text("\n\n".join(programs), "utf-8")
        call([sys.executable, "page.py"], folder)


def remove_what_is_made(commands: list[list[str]], folder: pathlib.Path) -> None:
    """Removes what the commands make themselves, which is not there before, and makes the folders that it goes into."""
    for words in commands:
        for made in re.findall(r"^--(?:workdir|output)=(\w\S+)$", "\n".join(words), re.MULTILINE):
            shutil.rmtree(folder / made, ignore_errors=True)
            (folder / made).parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def shown_files(found):
    """A folder with the files that blocks show."""
    with tempfile.TemporaryDirectory() as folder:
        for block in found:
            if block.file:
                (pathlib.Path(folder) / block.file).write_text(block.text + "\n", "utf-8")
        yield folder


def small(command: str, arguments: list[str]) -> list[str]:
    """Returns the arguments with sizes that seconds are enough for."""
    recipe = next((a.partition("=")[2] for a in arguments if a.startswith("--config=")), "")
    values = {}
    if command == "pretrain":
        values = _PRETRAIN if recipe == "continue_pretraining" else _MODEL | _PRETRAIN
    elif command == "finetune":
        values = _FINETUNE | (_ANSWERING if "squad" in recipe else {})
        values |= {"task.query_length": 10} if "colbert" in recipe else {}
        values |= {"task.chunk_length": 12} if "--config.task.long=chunks" in arguments else {}
    elif command == "show-batch":
        values = {"model.vocab_size": 0}
    elif command == "quickstart":
        values = _QUICKSTART
    elif command == "plan":
        values = _MODEL | {"model.hidden_size": 128, "model.intermediate_size": 256, "model.vocab_size": 512}
        if "--largest_microbatch" in arguments:  # few rows fit, beside their logits: the search ends after a few steps
            values |= {"model.vocab_size": 700_000, "data.sequence_length": 128, "data.max_predictions": 128}
            values["data.phases"] = "()"
    elif command == "launch" and "--status" not in arguments:
        kept = [a for a in arguments if not a.startswith(("--scale=", "--seeds="))]
        return [*kept, "--scale=smoke", "--seeds=1"]
    elif command == "prepare":
        return [re.sub(r"^(--tokenizer=train:[\w-]+):\d+$", r"\1:400", argument) for argument in arguments]
    kept = [a for a in arguments if a.partition("=")[0].removeprefix("--config.") not in values]
    for pattern, fewer in ((r"@\d+$", "@2"), (r"mean:\d+$", "mean:2"), (r"(decay_steps=)\d+$", r"\g<1>2")):
        kept = [re.sub(pattern, fewer, argument) for argument in kept]
    if command == "finetune":
        kept = ["--config.seeds=2" if a.startswith("--config.seeds=") else a for a in kept]
    return [*kept, *(f"--config.{key}={value}" for key, value in values.items())]


def _run(words, folder):
    uploads = any(word.startswith("--push_to_hub") for word in words)
    with _hub() if uploads else contextlib.nullcontext({}) as variables:
        call([sys.executable, "-m", "bert_jax", *words[:1], *small(words[0], words[1:])], folder, variables)


@contextlib.contextmanager
def _hub():
    """Runs a stand-in for the Hugging Face hub; yields the variables with which commands find it."""
    with stand_in_hub.serve() as hub:
        yield {"HF_ENDPOINT": hub.address, "HF_TOKEN": stand_in_hub.TOKEN, "HF_HUB_DISABLE_XET": "1"}


def call(command: list[str], folder: pathlib.Path, variables: Mapping[str, str] | None = None) -> None:
    """Runs a command in a folder, with more variables in its environment, and asserts that it succeeds."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment() | dict(variables or {}),
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(command[1:])}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _make_pairs(folder):
    """Writes what the page on embedders names: questions and answers, judged and graded pairs, a retrieval task."""
    words = ("ab", "cd", "ef", "be", "ca", "da", "ac", "bd")
    pairs = [(f"{one} {two}?", f"{two} {one} {two}.") for one in words for two in words if one < two]
    records = [{"question": question, "answer": answer} for question, answer in pairs]
    judged = [{"query": question, "document": other[1], "label": int(i == j)}
              for i, (question, _) in enumerate(pairs[:8]) for j, other in enumerate(pairs[:8])]  # fmt: skip
    (folder / "judged.jsonl").write_text("".join(json.dumps(record) + "\n" for record in judged), "utf-8")
    for name in ("answers.jsonl", "titles.jsonl"):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    for name in ("stsb_train.csv", "stsb_dev.csv"):
        with open(folder / name, "w", newline="") as file:
            graded = [(*pair, i % 6) for i, pair in enumerate(pairs)]
            csv.writer(file).writerows([("sentence1", "sentence2", "score"), *graded])
    (folder / "my_search" / "qrels").mkdir(parents=True)
    for name, texts in zip(("queries", "corpus"), zip(*pairs, strict=True), strict=True):
        lines = [json.dumps({"_id": f"{name}{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (folder / "my_search" / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    qrels = [f"queries{i}\tcorpus{i}\t1\n" for i in range(len(pairs))]
    (folder / "my_search" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(qrels), "utf-8")


def _make_proteins(folder):
    """Writes what the page on proteins names: FASTA, a table of whole proteins, columns of residues, a list."""
    proteins = ["".join("LAGVSERTIDPKQNFYMHWC"[(7 * i + j * j) % 20] for j in range(30 + i)) for i in range(40)]
    (folder / "proteins").mkdir()
    (folder / "proteins" / "0.fasta").write_text(
        "".join(f">{i}\n{text}*\n" for i, text in enumerate(proteins)), "utf-8"
    )
    (folder / "proteins.txt").write_text("".join(f"{text}\n" for text in proteins[:5]), "utf-8")
    for part in ("train", "dev"):
        with open(folder / f"location_{part}.csv", "w", newline="") as file:
            rows = [(text[:15], ("nucleus", "membrane")[i % 2]) for i, text in enumerate(proteins)]
            csv.writer(file).writerows([("protein", "location"), *rows])
        lines = ("".join(f"{residue}\t{'HEC'[i % 3]}\n" for i, residue in enumerate(text[:15])) for text in proteins)
        (folder / f"structure_{part}.conll").write_text("\n".join(lines), "utf-8")


def _make_labelled(folder):
    """Writes the labelled files that the pages name: CSV, GLUE's TSV, CoNLL columns, SQuAD JSON, JSONL."""
    texts = ["ab cd ef.", "be ca da.", "ac bd ab, ca.", "fa gb he?"] * 3
    labelled = [(text, i % 2) for i, text in enumerate(texts)]
    for name in ("train.csv", "dev.csv"):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([("review", "stars"), *((text, ("one", "two")[i]) for text, i in labelled)])
    for part in ("train", "dev"):
        for task, head in (("SST-2", "sentence\tlabel"), ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String")):
            (folder / task).mkdir(exist_ok=True)
            rows = [f"{text}\t{i}" if task == "SST-2" else f"{i}\t1\t2\t{text}\tab cd." for text, i in labelled]
            (folder / task / f"{part}.tsv").write_text("\n".join([head, *rows]) + "\n", "utf-8")
    sentence = "Ab NN I-NP I-PER\ncd VB I-VP O\nef NN I-NP I-LOC\n\n"
    answered = {"context": "ab cd ef be ca da", "qas": []}
    for i in range(8):
        answers = [{"text": "cd ef", "answer_start": 3}]
        answered["qas"].append({"id": str(i), "question": "fa gb", "answers": answers})
    squad = {"version": "1.1", "data": [{"title": "t", "paragraphs": [answered]}]}
    for name in ("eng.train", "eng.testa"):
        (folder / name).write_text("-DOCSTART- -X- O O\n\n" + 6 * sentence, "utf-8")
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (folder / name).write_text(json.dumps(squad), "utf-8")
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    _make_pairs(folder)
    for name, row in (
        ("texts.jsonl", {"text": "ab cd."}),
        ("questions.jsonl", {"question": "fa gb", "context": "ab cd ef be"}),
        ("pairs.jsonl", {"good": "ab cd.", "bad": "cd ab."}),
    ):
        (folder / name).write_text(4 * (json.dumps(row) + "\n"), "utf-8")
