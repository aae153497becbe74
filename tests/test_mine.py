"""The command that mines: what it prints and writes, and its mistakes in one line."""

import json
import shlex

import pytest

import bert_jax
from bert_jax.data.vocabularies import hugging_face
from bert_jax.interop import huggingface
from tests.commands import run_lines
from tests.inference.conftest import VOCABULARY, make_model, texts
from tests.retrieval.conftest import make_reranker

MISTAKES = {
    "column": "pairs.jsonl line 1",
    "output": "out.csv: expected a file in .jsonl, which may be .gz",
    "same": "pairs.jsonl: is --input itself; expected another file",
    "no reranker": "reranking needs a model fine-tuned for sequence classification",
    "folder": "absent/out.jsonl: no such folder",
    "depth": "--depth=2: leaves 2 ranks after --skip=0; expected at least 3",
    "margin": "--margin=1.5: expected a share from 0 to below 1",
    "no corpus": "absent.jsonl: no such file",
    "empty corpus": "none.txt: empty; expected one text a line or more",
    "no input": "--input=absent.csv: no such file",
    "foreign index": "index: holds thesis.doc and no index",
}


def test_the_command_and_its_mistakes(tmp_path):
    tokenizer = hugging_face.wordpiece(VOCABULARY, True, "test")
    huggingface.write(make_model(tokenizer), tmp_path / "model")
    huggingface.write(make_reranker(tokenizer), tmp_path / "reranker")
    both = zip(texts(12, seed=1, most=6), texts(12, seed=2, most=6), strict=True)
    rows = [{"question": question, "answer": answer, "id": i} for i, (question, answer) in enumerate(both)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.doc").touch()

    def line(*more, output="out.jsonl", read=pairs):
        columns = ["--anchor=question", "--positive=answer"]
        return [f"--model={tmp_path}/model", f"--input={read}", f"--output={tmp_path}/{output}", *columns, *more]

    lines = {
        "mined": line("--margin=-1", "--negatives=2", "--sampling=random", "--query_prompt=ab: "),
        "reranked": line("--margin=-1", "--negatives=2", f"--rerank={tmp_path}/reranker", output="reranked.jsonl"),
        "column": line("--positive=reply"),
        "no reranker": line(f"--rerank={tmp_path}/model"),
        "output": line(output="out.csv"),
        "same": line(output="pairs.jsonl"),
        "folder": line(output="absent/out.jsonl"),
        "depth": line("--depth=2"),
        "margin": line("--margin=1.5"),
        "no corpus": line(f"--corpus={tmp_path}/absent.jsonl"),
        "empty corpus": line(f"--corpus={tmp_path}/none.txt"),
        "no input": line(read="absent.csv"),
        "foreign index": line(f"--index={tmp_path}/index"),
    }
    done = run_lines("mine", lines)
    code, out, _ = done.pop("mined")
    assert code == 0 and "12 records with 24 negatives" in out
    (after,) = [part for part in out.splitlines() if part.startswith("next: ")]
    assert shlex.split(after.removeprefix("next: "))[-9:] == [
        "--config=embedding/pairs", "--workdir=runs/out", f"--config.init_from={tmp_path}/model",
        f"--config.task.train={tmp_path}/out.jsonl", "--config.task.anchor=question", "--config.task.positive=answer",
        "--config.task.negatives=negatives", "--config.task.anchor_prompt=ab: ",
        "--config.data.batch_size=6",
    ]  # fmt: skip
    written = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == list(range(12))
    code, _, said = done.pop("reranked")
    assert code == 0, said
    first = json.loads((tmp_path / "reranked.jsonl").read_text().splitlines()[0])
    scores = bert_jax.Reranker(tmp_path / "reranker").scores(first["question"], first["negatives"])
    assert first["negative_scores"] == pytest.approx(scores.tolist(), rel=1e-4, abs=1e-5)
    answers = {row["answer"] for row in rows}
    assert all({*row["negatives"]} < answers - {row["answer"]} and len(row["negatives"]) == 2 for row in written)
    assert done.keys() == MISTAKES.keys()
    for name, (code, _, said) in done.items():
        errors_said = [part for part in said.splitlines() if part.startswith("error: ")]
        assert code == 2 and len(errors_said) == 1 and MISTAKES[name] in errors_said[0], (name, said)
