"""The map over shards under Apache Beam's direct runner: the same bytes as the local pool's (make test-beam)."""

import pathlib
import signal
import subprocess
import sys

import pytest

from bert_jax import storage
from bert_jax.data.preparation import beam, pipeline
from bert_jax.errors import UserError
from tests.commands import LONGEST_WAIT, wait_until
from tests.data.preparation.test_pipeline import contents, make_text, small_shards, vocab  # noqa: F401

pytestmark = pytest.mark.beam
ROOT = pathlib.Path(__file__).parents[3]
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def prepare(settings, output, runner=None, options=(), strict=False):
    cluster = beam.Cluster(runner, options) if runner else None
    workers = None if runner else 1
    return pipeline.prepare(settings, output, workers, strict, progress=False, cluster=cluster)


def command(*flags):
    command = [sys.executable, "-m", "bert_jax.prepare", *map(str, flags)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("options", [(), PROCESSES], ids=["threads", "processes"])
def test_the_corpus_is_the_same_bytes(tmp_path, vocab, monkeypatch, options):  # noqa: F811
    small_shards(monkeypatch, 12)
    monkeypatch.setenv("BERT_JAX_CACHE", str(tmp_path / "cache"))
    text = make_text(150)
    (tmp_path / "a.txt").write_text(f"{text}\n\n{text[:2000]}")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    settings = pipeline.Settings(
        input=f"{tmp_path}/?.txt", tokenizer="train:wordpiece:300", eval_share=0.2, drop_duplicates=True
    )
    manifest = prepare(settings, tmp_path / "pool")
    assert manifest["skipped"]["count"] == 1 and manifest["duplicate_documents"] > 0
    assert prepare(settings, tmp_path / "beam", "DirectRunner", options) == manifest
    assert prepare(settings, f"file://{tmp_path}/remote", "DirectRunner", options) == manifest
    expected = contents(tmp_path / "pool")
    assert len(expected) > 20
    assert contents(tmp_path / "beam") == contents(tmp_path / "remote") == expected


def test_a_workers_error_is_one_line_and_the_work_can_continue(tmp_path, vocab, monkeypatch):  # noqa: F811
    small_shards(monkeypatch, 6)
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(make_text(20, seed=i))
    (tmp_path / "4.txt").write_bytes(b"ends badly \xff")
    settings = pipeline.Settings(input=f"{tmp_path}/?.txt", tokenizer=str(vocab))
    for output in (tmp_path / "out", f"file://{tmp_path}/remote"):
        with pytest.raises(UserError, match=r"4\.txt: not UTF-8 at byte 11 .*without --strict") as error:
            prepare(settings, output, "DirectRunner", PROCESSES, strict=True)
        assert "\n" not in str(error.value)
    assert len(list((tmp_path / "out" / "parts").glob("0000?"))) >= 1
    prepare(settings, tmp_path / "pool")
    assert prepare(settings, tmp_path / "out", "DirectRunner")
    assert contents(tmp_path / "out") == contents(tmp_path / "pool")


def test_killed_and_started_again(tmp_path, vocab):  # noqa: F811
    text = make_text(1500)
    for i in range(12):
        (tmp_path / f"{i:02d}.txt").write_text("\n\n".join([text, text, text]))
    flags = (f"--input={tmp_path}/[0-9]*.txt", f"--tokenizer={vocab}")
    beamed = (*flags, f"--output={tmp_path}/out", "--runner=DirectRunner")
    started = command(*beamed)
    wait_until(lambda: any(tmp_path.glob("out/parts/[0-9]*[0-9]/facts.json")), started)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not (tmp_path / "out" / "manifest.json").exists()
    before = {path: path.stat().st_ino for path in tmp_path.glob("out/parts/[0-9]*[0-9]/facts.json")}
    whole, again = command(*flags, f"--output={tmp_path}/whole", "--workers=1"), command(*beamed)
    assert whole.wait(LONGEST_WAIT) == 0
    output, errors = again.communicate(timeout=LONGEST_WAIT)
    assert again.returncode == 0, errors
    assert before and contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runner=NoRunner"], "--runner=NoRunner: Unexpected pipeline runner: NoRunner"),
        (["--runner=DirectRunner", "--", "--projct=x"], "--projct=x: no option of Apache Beam"),
        (["--runner=DirectRunner", "--", "--direct_num_workers=x"], "argument --direct_num_workers: invalid int"),
        (["--runner=DirectRunner", "--workers=2"], "--workers=2: not with --runner"),
        (["--", "--project=x"], "--project=x: unexpected argument after --"),
        (["extra"], "extra: unexpected argument"),
    ],
)
def test_mistakes_are_one_line(tmp_path, vocab, flags, message):  # noqa: F811
    (tmp_path / "a.txt").write_text("Some text.\n")
    given = (f"--input={tmp_path}/a.txt", f"--output={tmp_path}/out", f"--tokenizer={vocab}", *flags)
    started = command(*given)
    _, errors = started.communicate(timeout=LONGEST_WAIT)
    assert started.returncode == 2
    assert errors.strip().splitlines()[-1].startswith("error: ") and message in errors.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_workers_that_do_not_see_the_files_say_so(tmp_path, vocab):  # noqa: F811
    (tmp_path / "a.txt").write_text(make_text(3))
    settings = pipeline.Settings(input=str(tmp_path / "a.txt"), tokenizer=str(vocab))
    shards = dict(enumerate(pipeline.sources.plan(settings.input, settings.reading).shards))
    with pytest.raises(UserError, match="--output: no .*/parts on a worker"):
        list(beam.Cluster("DirectRunner").write_all(shards, f"{tmp_path}/parts", str(vocab), settings, False))
    (tmp_path / "parts").mkdir()
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"--input: no .*/a\.txt on a worker"):
        list(beam.Cluster("DirectRunner").write_all(shards, f"{tmp_path}/parts", str(vocab), settings, False))
    assert not storage.exists(f"{tmp_path}/parts/error")
