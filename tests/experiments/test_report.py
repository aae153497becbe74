"""Reports of folders that were written by hand: no sentence is stronger than its interval."""

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys

import pytest

from bert_jax.errors import UserError
from experiments import report
from experiments.reporting import comparisons, results
from tests.experiments import made_folders
from tests.experiments.made_folders import ACCURACY, LOSS

BETTER = {"static": [5.10, 5.30, 5.20], "dynamic": [5.00, 5.21, 5.09]}


def read(workdir):
    return report.write(workdir, workdir / "report").read_text("utf-8")


def in_words(text):
    return text.split("## In words")[1].split("How to read this")[0]


def row(text, *begins):
    return next(line for line in text.splitlines() if line.startswith(f"| {' | '.join(begins)} |"))


def test_first_line_question_table_and_pictures(tmp_path):
    made_folders.write(tmp_path, BETTER, notes=["Masks of the static arm come again."])
    text = read(tmp_path)
    assert text.startswith("**These runs are scaled down (cpu scale): their values cannot be compared with published")
    assert "Does it matter whether an instance is masked anew each time it is seen?" in text
    assert "- Masks of the static arm come again." in text
    assert "Each finished run: 40 steps, 20,480 tokens (padding included), 1.25 epochs" in text
    assert f"Git commit `{made_folders.COMMIT}`, without local changes: all 6 jobs." in text
    assert "Not complete" not in text
    # Differences -0.10, -0.09, -0.11: mean -0.1, deviation 0.01, reach 4.302653 * 0.01 / sqrt(3) = 0.02484.
    assert (
        row(text, "", "dynamic") == "|  | dynamic | 3 | 5.1000 | 0.1054 | static | 3 | -0.1000 | -0.1248 to -0.0752 |"
    )
    assert row(text, "static", "78.3", "84.3", "92.5") and row(text, "dynamic", "78.7", "84.0", "92.9")
    assert "medians of 5 seeds" in text
    for name in ("curve-loss.png", "curve-eval-mlm_loss.png", "measures.png"):
        assert f"]({name})" in text
        content = (tmp_path / "report" / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">2I", content[16:24])[0] > 500
    assert not (tmp_path / "report" / "curve-mlm_loss.png").exists(), "it is the training loss"


def test_made_by_is_what_a_shell_runs(tmp_path):
    data = tmp_path / "my data $1"
    words = ["--experiment=masking", f"--text={data}/a b.txt", f"--set_task=sst2:task.train={data}/sst/train.tsv"]
    words += [f"--set_task=sst2:task.held_out={tmp_path}/other/train.tsv"]
    words += ["--workdir", str(tmp_path / "runs"), "--set_task=sst2:task.columns=('sentence','label')"]
    command = shlex.join(["python", "-m", "experiments.launch", *words])
    made_folders.write(tmp_path / "runs", BETTER, command=command)
    block = read(tmp_path / "runs").split("\nMade by\n")[1].split("\n## ")[0]
    assert str(tmp_path) not in block
    script = "python() { printf '%s\\n' \"$@\"; }\n" + block
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert run.returncode == 127 or "the folder of" in run.stderr, "the shell asks for the folders"
    # A folder ends where its name would have to be quoted.
    folders = dict(re.findall(r"(FOLDER\d)=.*'the folder of (.*)'", block))
    assert list(folders.values()) == ["my data $1/a b.txt and my data $1/sst/train.tsv", "train.tsv"]
    variables = {"FOLDER1": str(tmp_path), "FOLDER2": str(tmp_path / "other")}
    run = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, env={**os.environ, **variables})
    expected = ["-m", "experiments.launch", *words[:4], words[6], "--workdir=runs/masking_cpu"]
    expected += ["-m", "experiments.report", "--workdir=runs/masking_cpu"]
    assert run.stdout.replace("//", "/").splitlines() == expected, run.stderr


def test_one_html_file_holds_the_report(tmp_path):
    made_folders.write(tmp_path, BETTER, notes=["<script>alert(1)</script> & <b>"])
    read(tmp_path)
    html = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert html.count("<img ") == html.count('src="data:image/png;base64,') == 3
    assert not re.search(r"""(src|href)=["'](?!data:)""", html), "nothing is loaded"
    assert "<td>dynamic</td>" in html and "<title>masking (cpu scale)</title>" in html


def test_a_new_folder_appears_with_every_file_or_not_at_all(tmp_path, monkeypatch):
    made_folders.write(tmp_path, BETTER)
    written = []

    def full(path, content):
        written.append(path)
        assert len(written) < 3, "the disk is full"

    with monkeypatch.context() as patched, pytest.raises(AssertionError, match="full"):
        patched.setattr("pathlib.Path.write_bytes", full)
        read(tmp_path)
    assert len(written) == 3 and not (tmp_path / "report").exists()
    (tmp_path / "report").mkdir()  # a folder of the user's, which may hold other files
    (tmp_path / "report" / "notes").touch()
    read(tmp_path)
    assert {"notes", "report.md", "report.html"} < set(os.listdir(tmp_path / "report"))


def test_paper_scale_has_no_such_line(tmp_path):
    made_folders.write(tmp_path, BETTER, scale="paper")
    assert read(tmp_path).startswith("# masking (paper scale)")


def test_same_folders_same_bytes_wherever_they_lie(tmp_path):
    made_folders.write(tmp_path / "a", BETTER)
    log = f"Error at /home/someone/data/x.txt, file:///opt/y.txt and {tmp_path}/a/static/seed-1/log.txt"
    shutil.rmtree(tmp_path / "a" / "static" / "seed-1")
    made_folders.write_job(tmp_path / "a", "static", 1, failed=["before", log])
    text = read(tmp_path / "a")
    first = {path.name: path.read_bytes() for path in (tmp_path / "a" / "report").iterdir()}
    shutil.rmtree(tmp_path / "a" / "report")
    shutil.move(tmp_path / "a", tmp_path / "b")
    read(tmp_path / "b")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "b" / "report").iterdir()}
    assert "`Error at .../x.txt, .../y.txt and WORKDIR/static/seed-1/log.txt`" in text
    assert "\n    WORKDIR=runs/masking_cpu\n" in text and '--scale=cpu --workdir="$WORKDIR"\n' in text
    for private in ("/home", str(tmp_path), "secret-host", "2026-01"):
        assert private not in text


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("figures", "said", "unsaid"),
    [
        (
            BETTER,
            ["dynamic against static: better", "excludes 0", "larger than the noise"],
            ["no difference", "Holm"],
        ),
        (
            {"static": [5.0, 5.2, 5.1], "dynamic": [5.1, 5.1, 5.2]},
            ["no difference shown", "does not show that they are equal", "more than 0.2868"],
            ["better, by", "worse, by", "excludes 0:"],
        ),
        ({"static": [5.0], "dynamic": [4.0]}, ["One pair has no spread", "no interval"], ["better,", "larger"]),
        ({"static": [5.0, 5.2], "dynamic": [4.9, 5.1]}, ["the same in all of 2 pairs"], ["better,", "larger", "95 %"]),
        ({"static": [5.0, 5.2], "dynamic": [5.0, 5.2]}, ["no difference in any of 2 pairs"], ["equal", "larger"]),
        ({"static": [5.0, 5.1], "dynamic": [4.0, 4.11]}, ["better, by", "one degree of freedom"], []),
        ({"static": [5.0, 5.1], "dynamic": [None, None]}, ["no seed has a value in both"], ["better", "equal"]),
        ({"static": [5.0, float("nan")], "dynamic": [4.0, 4.1]}, ["in the one pair (seed 0)"], ["95 %", "better,"]),
    ],
)
def test_sentences(tmp_path, figures, said, unsaid):
    made_folders.write(tmp_path, figures)
    words = in_words(read(tmp_path))
    assert all(part in words for part in said), words
    assert not any(part in words for part in unsaid), words


def test_direction_follows_the_measure(tmp_path):
    figures = {"static": [0.70, 0.71, 0.69], "dynamic": [0.60, 0.62, 0.58]}
    made_folders.write(tmp_path, figures, key="sst2/accuracy", measures=[ACCURACY])
    text = read(tmp_path)
    assert "dynamic against static: worse, by a mean difference of -0.1000 (higher is better)" in text


def test_two_pairs_say_how_wide_their_interval_is(tmp_path):
    made_folders.write(tmp_path, {"static": [5.0, 5.1], "dynamic": [4.9, 5.2]})
    text = read(tmp_path)
    assert (
        "With 2 pairs an interval reaches 9.0 standard deviations" in text
        and "t = 12.71 at 1 degree of freedom" in text
    )


def test_several_comparisons_are_allowed_for(tmp_path):
    # p = 0.026 each: its interval excludes 0, but three times 0.026 is more than 0.05.
    shift = [0.08, 0.10, 0.14]
    base = [5.0, 5.3, 5.1]
    worse = [a + b for a, b in zip(base, shift, strict=True)]
    made_folders.write(tmp_path, {"a": base, "b": worse, "c": worse, "d": worse})
    compared = comparisons.compare(results.read(tmp_path))[0].comparisons
    assert all(one.paired.leaves_out_zero and 0.02 < one.paired.p < 0.03 for one in compared)
    text = read(tmp_path)
    assert "The report has 3 intervals." in text and "about one in twenty excludes 0 by chance" in text
    assert in_words(text).count("of this report it is not (Holm-adjusted p = 0.079)") == 3
    assert "also when adjusted" not in in_words(text)


def test_only_the_arms_of_a_measure(tmp_path):
    made_folders.write(
        tmp_path,
        {"ltr": [6.0, 6.1], "pairs": [5.0, 5.1], "none": [5.0, 5.3]},
        measures=[LOSS | {"only": ["pairs", "none"]}],
    )
    text = read(tmp_path)
    table = text.split("## Final table")[1].split("n is the number")[0]
    assert "ltr" not in table and "| none | 2 | 5.1500 | 0.2121 | pairs | 2 |" in table
    assert "held-out loss (nats) is not comparable in `ltr`" in text
    assert "none against pairs" in in_words(text) and "ltr" not in in_words(text)


@pytest.mark.more
def test_own_rows_and_masks_are_told(tmp_path):
    arms = {"15": {"data.mask_rate": 0.15}, "40": {"data.mask_rate": 0.4}}
    made_folders.write(tmp_path, {"15": [5.0, 5.1], "40": [5.5, 5.7]}, arms=arms)
    assert "Arms change `data.mask_rate`, and this is measured on each arm's own rows and masks" in read(tmp_path)
    made_folders.write_experiment(
        tmp_path, ["15", "40"], [0, 1], arms=arms, measures=[LOSS | {"key": "common/mlm_loss"}]
    )
    assert "own rows and masks: a difference" not in read(tmp_path)


def test_missing_and_failed_jobs(tmp_path):
    made_folders.write(tmp_path, {"static": [5.1, 5.3, 5.2, 5.0], "dynamic": [5.0, 5.2, None]})
    shutil.rmtree(tmp_path / "static" / "seed-1")
    made_folders.write_job(tmp_path, "static", 1, failed=["Traceback", "error: config.x: `found` 3\x1b[0m", " "])
    text = read(tmp_path)
    begins = text.splitlines()
    assert begins[2].startswith("**Not complete: 3 of 8 jobs are missing")
    assert (
        "- `static/seed-1`: failed in pretrain (exit code 1); its last line: `` error: config.x: `found` 3 ``"
        in begins[:9]
    )
    assert (
        "- `dynamic/seed-2`: not finished, pre-training logged last at step 40; its last line: `step 20/40 loss 5.0`"
        in begins[:9]
    )
    assert "- `dynamic/seed-3`: not started" in begins[:9]
    assert "in the one pair (seed 0)" in text and "(Without seeds 1, 2 and 3, which have no value in both.)" in text
    assert row(text, "held-out loss (nats), lower is better", "static", "3")


def test_nothing_is_done_yet(tmp_path):
    made_folders.write(tmp_path, {"static": [None], "dynamic": [None]})
    text = read(tmp_path)
    assert "**Not complete: 2 of 2 jobs are missing" in text and "nothing to draw" in text
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.md"]


def test_code_devices_and_packages_that_differ(tmp_path):
    made_folders.write_experiment(tmp_path, ["static", "dynamic"], [0])
    made_folders.write_job(tmp_path, "static", 0, {"eval/mlm_loss": 5.0})
    start = {"commit": "fedcba", "diff": "diff-123.patch", "devices": ["gpu:H100"] * 2}
    made_folders.write_job(tmp_path, "dynamic", 0, {"eval/mlm_loss": 5.1}, **start)
    made_folders.write_job(tmp_path, "old", 7, {"eval/mlm_loss": 5.1})
    text = read(tmp_path)
    assert "Git commit `fedcba`, with local changes (`diff-123.patch` in the jobs' folders): `dynamic/seed-0`." in text
    assert "**Not all jobs ran the same code" in text and "Devices: 2 x gpu:H100: `dynamic/seed-0`." in text
    assert "but not part of the experiment: `old/seed-7`." in text


def test_fine_tuning_seeds(tmp_path):
    task = {"name": "sst2", "recipe": "finetune/sst2", "overrides": {}, "seeds": 3, "made_from_corpus": False}
    made_folders.write(
        tmp_path, {"a": [0.7, 0.8], "b": [0.7, 0.9]}, "sst2/accuracy", measures=[ACCURACY], fine_tuning=[task]
    )
    summary = tmp_path / "a" / "seed-1" / "finetune-sst2" / "summary.json"
    summary.parent.mkdir()
    summary.write_text(json.dumps({"failed": [2]}))
    text = read(tmp_path)
    assert row(text, "`a/seed-1`", "0.8")
    assert "the mean over its 3 fine-tuning seeds" in text and "Pairs and n count seeds of pre-training." in text
    assert "Fine-tuning seeds of sst2 that failed (no better than always giving the commonest" in text


def test_arms_that_saw_different_amounts_of_text(tmp_path):
    made_folders.write(tmp_path, BETTER)
    path = tmp_path / "dynamic" / "seed-1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 2.5}))
    text = read(tmp_path)
    assert "of `static`: 40 steps, 20,480 tokens (padding included), 1.25 epochs (passes over the corpus)." in text
    assert "of `dynamic`: 40 steps, 20,480 tokens (padding included), 1.25 to 2.5 epochs" in text


def test_names_are_not_read_as_markdown_or_formulas(tmp_path):
    made_folders.write(tmp_path, {"80|10": [5.0, 5.1], "$x_1$ *b*": [5.0, 5.2]}, published=[])
    text = read(tmp_path)
    assert "| 80\\|10 |" in text and "$x_1$ \\*b\\*" in text


def test_tables_and_arms_that_are_none(tmp_path):
    made_folders.write(tmp_path, BETTER, published=["bert/99"])
    with pytest.raises(UserError, match="published: found bert/99; expected of bert/5, "):
        read(tmp_path)
    made_folders.write_experiment(tmp_path, list(BETTER), range(3), measures=[LOSS | {"only": ["other"]}])
    with pytest.raises(UserError, match="measure eval/mlm_loss: only: "):
        read(tmp_path)


def damage(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("experiment.json", '{"format', "experiment.json: cannot be read"),
        ("experiment.json", "[]", "expected an object"),
        ("experiment.json", '{"format_version": 2}', "format_version: found 2; expected 1"),
        ("experiment.json", '{"format_version": 1, "seeds": [0]}', "arms: found nothing"),
    ],
)
def test_damaged_files_end_in_one_line(tmp_path, file, content, said):
    made_folders.write(tmp_path, BETTER)
    damage(tmp_path / file, content)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "report").exists()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("file", "content", "said", "again"),
    [
        ("result.json", "", "cannot be read", "remove this file"),
        ("result.json", "{", "cannot be read", "remove this file"),
        ("result.json", "[]", "expected an object", "remove this file"),
        ("result.json", '{"figures": {"a": "b"}}', "figures: a: found 'b'; expected a number", "remove this file"),
        ("starts.jsonl", '{"a\n{}\n', "starts.jsonl: line 1", "static/seed-0 away"),
        ("starts.jsonl", '{"packages": 3}\n', "starts.jsonl: found", "static/seed-0 away"),
        ("pretrain/metrics.jsonl", "5\n{}\n", "metrics.jsonl: line 1", "static/seed-0 away"),
    ],
)
def test_a_damaged_file_of_a_job_costs_its_row(tmp_path, file, content, said, again):
    made_folders.write(tmp_path, BETTER)
    whole = read(tmp_path)
    damage(tmp_path / "static" / "seed-0" / file, content)
    text = read(tmp_path)
    line = next(line for line in text.splitlines() if line.startswith("- `static/seed-0`: "))
    plain = line.replace("\\", "")
    assert said in plain and again in plain and "start the launch command again" in plain
    assert "Not complete: 1 of 6 jobs is missing" in text and "Not complete" not in whole
    assert row(text, "`static/seed-1`") and row(text, "`dynamic/seed-0`")
    names, damaged = report.write_files(tmp_path, tmp_path / "report")
    assert "report.md" in names and len(damaged) == 1 and damaged[0].startswith("static/seed-0: ")
    assert said in damaged[0] and again in damaged[0] and "\n" not in damaged[0]


@pytest.mark.more
def test_the_command_prints_a_line_for_each_damaged_job(tmp_path):
    made_folders.write(tmp_path, BETTER)
    for damaged in ([], ["static/seed-0"], ["static/seed-0", "dynamic/seed-2"]):
        for name in damaged:
            damage(tmp_path / name / "result.json", "{")
        done = subprocess.run(
            [sys.executable, "-m", "experiments.report", f"--workdir={tmp_path}"], capture_output=True, text=True
        )
        assert done.returncode == 0 and "report.md" in done.stdout, done.stderr
        lines = done.stderr.splitlines()
        assert sorted(line.partition(": ")[2].partition(": ")[0] for line in lines) == sorted(damaged)
        assert all(line.startswith("warning: ") and "cannot be read" in line for line in lines)


def test_a_line_that_a_kill_has_torn_is_none(tmp_path):
    made_folders.write(tmp_path, BETTER)
    with open(tmp_path / "static" / "seed-0" / "pretrain" / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "lo')
    assert "Not complete" not in read(tmp_path)


def test_no_experiment_or_no_job(tmp_path):
    with pytest.raises(UserError, match=r"no experiment\.json in it; expected a folder of experiments\.launch"):
        read(tmp_path)
    made_folders.write_experiment(tmp_path, ["a", "b"], [0])
    with pytest.raises(UserError, match="found no job's folder, such as a/seed-0"):
        read(tmp_path)


def test_command(tmp_path):
    made_folders.write(tmp_path / "w", BETTER)
    made = [sys.executable, "-m", "experiments.report", f"--workdir={tmp_path / 'w'}", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder, _, names = done.stdout.strip().partition(": ")
    assert folder == str(tmp_path / "out") and names.startswith("report.html, report.md, measures.png")
    assert set(names.split(", ")) == {path.name for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "w" / "report").exists()
    (tmp_path / "w" / "experiment.json").unlink()
    done = subprocess.run(made, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --workdir=") and len(done.stderr.splitlines()) == 1


def test_a_report_says_that_rates_were_not_tuned(tmp_path):
    folder = tmp_path / "runs"
    made_folders.write(folder, {"static": [3.0, 3.1], "dynamic": [2.9, 3.0]})
    text = read(folder)
    assert "Pre-training rates were not tuned for each arm" in text and "Where the spread" not in text


def test_tuned_rates_kept_checkpoints_and_spreads(tmp_path):
    """Rates of both kinds with their budget, a curve of the common evaluation, and spread by its source."""
    folder, key = tmp_path / "runs", "sst2/accuracy"
    task = {"name": "sst2", "recipe": "finetune/sst2", "overrides": {}, "seeds": 2, "made_from_corpus": False}
    made_folders.write_experiment(
        folder,
        ["no teacher", "distilled"],
        [0, 1],
        arms={"no teacher": {}, "distilled": {"distillation.teacher": "runs/teacher"}},
        measures=[made_folders.ACCURACY],
        fine_tuning=[task | {"rates": [1e-4, 1e-3]}],
        tuning={"rates": [5e-4, 1e-3, 2e-3], "measure": ""},
    )
    for arm, step in (("no teacher", 0.0), ("distilled", 0.1)):
        for seed in (0, 1):
            scores = [0.5 + step + seed / 10, 0.52 + step + seed / 10]
            job = made_folders.write_job(folder, arm, seed, {key: sum(scores) / 2}, each={key: scores})
            result = json.loads((job / "result.json").read_text())
            result["tuning"] = {"sst2": {"values": {}, "chosen": 1e-3, "runs": 2}}
            (job / "result.json").write_text(json.dumps(result))
            rows = [{"step": number, "common/mlm_loss": 5.0 - number / 20} for number in (20, 40)]
            (job / "along.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert "that has not ended" in read(folder)
    arms = {arm: {"values": {}, "chosen": rate} for arm, rate in (("no teacher", 2e-3), ("distilled", 1e-3))}
    (folder / "tuning.json").write_text(json.dumps({"measure": key, "arms": arms, "runs": 6, "tokens": 120_000}))
    text = read(folder)
    assert (
        "from 0.0005, 0.001 and 0.002 by `sst2/accuracy`" in text and "`no teacher` 0.002 and `distilled` 0.001" in text
    )
    assert "6 runs of 120,000 tokens" in text and "At an end of the grid: `no teacher`" in text
    assert "from 0.0001 and 0.001, with one run for each on a tenth of the training examples" in text
    assert "### Where the spread comes from" in text and "| 2 | 2 | 0.0700 | 0.0141 |" in text
    assert "One teacher serves all runs" in text and "curve-common-mlm_loss.png" in text
