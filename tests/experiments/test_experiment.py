"""Files of experiments: what is read, what is refused, and what tasks are made of."""

import dataclasses
import json
import pathlib

import pytest

from bert_jax.data.corpus import Corpus
from bert_jax.errors import UserError
from experiments import experiment as experiment_lib
from experiments import scales
from experiments.launching import folders, preparing

FILE = """
from experiments import scales
from experiments.experiment import Tuning


def get_experiment(scale):
    return scales.experiment(
        scale,
        question="Does the width of the MLP matter?",
        arms={{"narrow": {{}}, "wide": {{{arm}}}}},
        {fields}
    )
"""


def write(tmp_path, arm='"model.intermediate_size": 128', fields=""):
    path = tmp_path / "width.py"
    path.write_text(FILE.format(arm=arm, fields=fields))
    return path


def test_a_word_stands_for_the_value_of_a_key():
    for recipe in ("small", "finetune/sst2"):
        assert experiment_lib.configured(recipe, {"train.microbatches": "auto"}).train.microbatches == 0
    with pytest.raises(UserError, match="config.train.microbatches: found 'aut'"):
        experiment_lib.configured("small", {"train.microbatches": "aut"})


def test_a_short_file_is_an_experiment(tmp_path):
    experiment = experiment_lib.load(write(tmp_path, fields='notes=("of two",)'), "smoke")
    assert list(experiment.arms) == ["narrow", "wide"] and experiment.seeds == (0, 1)
    assert [measure.key for measure in experiment.measures] == ["common/mlm_loss", "bigram_shift/accuracy"]
    jobs = experiment_lib.jobs(experiment, "somewhere", {"bigram_shift": {"task.train": "a.jsonl"}})
    assert [job.name for job in jobs] == ["narrow/seed-0", "wide/seed-0", "narrow/seed-1", "wide/seed-1"]
    assert jobs[1].overrides["model.intermediate_size"] == 128 and jobs[1].overrides["data.corpus"] == "somewhere"
    assert jobs[3].fine_tuning[0]["overrides"]["task.train"] == "a.jsonl"


def test_rates_are_chosen_on_what_is_not_reported(tmp_path):
    """Each arm has as many tuning jobs, with a seed of their own, on other rows or a tenth of the training examples."""
    experiment = experiment_lib.load(write(tmp_path, fields="tuning=Tuning((1e-3, 2e-3))"), "smoke")
    jobs = experiment_lib.tuning_jobs(experiment, "somewhere", {})
    assert [job.name for job in jobs] == [
        "narrow/tune-0.001",
        "wide/tune-0.001",
        "narrow/tune-0.002",
        "wide/tune-0.002",
    ]
    assert {job.overrides["seed"] for job in jobs}.isdisjoint(experiment.seeds)
    assert jobs[2].overrides["optimizer.learning_rate"] == 2e-3 and not jobs[2].fine_tuning
    assert jobs[0].evaluation == {**experiment.evaluation, "skip": experiment.evaluation["batches"]}
    by_task = dataclasses.replace(experiment, tuning=experiment_lib.Tuning((1e-3, 2e-3), "bigram_shift/accuracy"))
    (task,) = experiment_lib.tuning_jobs(by_task, "somewhere", {"bigram_shift": {"task.held_out": "dev"}})[
        0
    ].fine_tuning
    assert task["overrides"]["task.held_out"] == "" and task["overrides"]["task.test"] == ""
    reported = experiment_lib.jobs(experiment, "somewhere", {}, {"narrow": 1e-3, "wide": 2e-3})
    assert [job.overrides["optimizer.learning_rate"] for job in reported] == [1e-3, 2e-3] * 2
    assert reported[0].evaluation == experiment.evaluation
    assert experiment_lib.chosen_rate({1e-3: 2.0, 2e-3: float("nan"), 3e-3: 1.0}, higher_is_better=True) == 1e-3
    assert experiment_lib.chosen_rate({1e-3: 2.0, 2e-3: 1.0, 3e-3: 1.0}, higher_is_better=False) == 2e-3


def test_a_teacher_for_each_seed(tmp_path):
    experiment = experiment_lib.load(write(tmp_path), "smoke")
    arms = {
        **experiment.arms,
        "wide": {"objective.name": "distillation", "distillation.teacher": "runs/teacher-{seed}"},
    }
    jobs = experiment_lib.jobs(dataclasses.replace(experiment, arms=arms), "somewhere", {})
    assert [job.overrides.get("distillation.teacher") for job in jobs][1::2] == ["runs/teacher-0", "runs/teacher-1"]


def test_an_experiment_without_tuning_is_written_as_before_there_was_any(tmp_path):
    experiment = experiment_lib.load(write(tmp_path), "smoke")
    content = folders.described(experiment, "width", "smoke", "corpus", "python -m experiments.launch")
    assert "tuning" not in content and "rates" not in content["fine_tuning"][0]
    (job, *_) = experiment_lib.jobs(experiment, "somewhere", {})
    assert set(job.fine_tuning[0]) == {"name", "recipe", "overrides"}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"arm": '"model.intermediate_sise": 1'}, "arm wide: config.model.intermediate_sise: unknown key"),
        ({"arm": '"model.intermediate_size": "a"'}, "wide: config.model.intermediate_size: found 'a'; expected a int"),
        ({"arm": '"data.mask_rate": 2.0'}, "arm wide: config.data.mask_rate"),
        ({"arm": '"seed": 3'}, "arm wide: found seed, which Experiment.seeds sets"),
        ({"arm": '"data.corpus": "x"'}, "arm wide: found data.corpus, which the launcher .* sets"),
        ({"fields": "notes=1 / 0"}, "ZeroDivisionError"),
        ({"fields": 'published=("bert/99",)'}, "published: found bert/99; expected one of"),
        ({"fields": 'only=("wider",)'}, "measure common/mlm_loss: found arms .'wider'.; expected some of"),
        ({"fields": "tuning=Tuning((1e-3,))"}, "tuning: rates: found .0.001,.; expected two or more different rates"),
        ({"fields": 'tuning=Tuning((1e-3, 2e-3), "sst2/f1")'}, "tuning: measure: found sst2/f1; expected one of"),
        (
            {"arm": '"optimizer.learning_rate": 1e-3', "fields": "tuning=Tuning((1e-3, 2e-3))"},
            "arm wide: found optimizer.learning_rate, which Experiment.tuning sets",
        ),
        ({"fields": "notes=nothing"}, "NameError: name 'nothing' is not defined"),
        ({"fields": "question_=1"}, "TypeError: .*question_"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, file, message):
    with pytest.raises(UserError, match=message):
        experiment_lib.load(write(tmp_path, **file), "smoke")


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"--experiment=.*absent.py: no such file"):
        experiment_lib.load(tmp_path / "absent.py", "smoke")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes.txt: not an experiment; expected a Python file"):
        experiment_lib.load(tmp_path / "notes.txt", "smoke")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="no function get_experiment"):
        experiment_lib.load(tmp_path / "empty.py", "smoke")
    (tmp_path / "other.py").write_text("def get_experiment(scale):\n    return 1\n")
    with pytest.raises(UserError, match="returned int; expected an Experiment"):
        experiment_lib.load(tmp_path / "other.py", "smoke")


def test_another_experiment_in_the_folder(tmp_path):
    experiment = experiment_lib.load(write(tmp_path), "smoke")
    folders.write_experiment(tmp_path, folders.described(experiment, "width", "smoke", "c", "launch --jobs=1"))
    folders.write_experiment(tmp_path, folders.described(experiment, "width", "smoke", "c", "launch --jobs=2"))
    more = dataclasses.replace(experiment, seeds=(0, 1, 2))
    folders.write_experiment(tmp_path, folders.described(more, "width", "smoke", "c", "launch --seeds=3"))
    assert json.loads((tmp_path / "experiment.json").read_text())["seeds"] == [0, 1, 2]
    longer = dataclasses.replace(more, fine_tuning=tuple(scales.task("sst2", "smoke") for _ in range(1)))
    with pytest.raises(UserError, match="fine_tuning.bigram_shift.name is .bigram_shift. there, but .sst2. was asked"):
        folders.write_experiment(tmp_path, folders.described(longer, "width", "smoke", "c", ""))
    other = experiment_lib.load(write(tmp_path, '"model.intermediate_size": 96'), "smoke")
    with pytest.raises(UserError, match="arms.wide.model.intermediate_size is 128 there, but 96 was asked for"):
        folders.write_experiment(tmp_path, folders.described(other, "width", "smoke", "c", ""))


def test_an_experiment_goes_on_with_the_checkpoints_that_it_began_with(tmp_path):
    experiment = experiment_lib.load(write(tmp_path), "smoke")
    assert experiment.overrides["train.keep_every"] == 20
    older = {key: value for key, value in experiment.overrides.items() if key != "train.keep_every"}
    began = dataclasses.replace(experiment, overrides=older)
    (tmp_path / "runs").mkdir()
    for one in (began, experiment):
        content = folders.described(one, "width", "smoke", "corpus", "python -m experiments.launch")
        folders.write_experiment(tmp_path / "runs", content)
        folder = folders.write_job(tmp_path / "runs", experiment_lib.jobs(one, "corpus", {})[0])
    assert "train.keep_every" not in folders.read_job(folder).overrides
    own = scales.experiment("smoke", question="?", arms=experiment.arms, overrides={"train.checkpoint_every": 3})
    assert "train.keep_every" not in own.overrides


def test_paths_in_the_folder_move_with_it(tmp_path):
    experiment = experiment_lib.load(write(tmp_path), "smoke")
    job = experiment_lib.jobs(experiment, f"{folders.HERE}/corpus", {})[0]
    folders.write_job(tmp_path / 'a "b"', job)
    (tmp_path / 'a "b"').rename(tmp_path / "c")
    assert folders.read_job(tmp_path / "c" / job.name).overrides["data.corpus"] == str(tmp_path / "c" / "corpus")


def test_neighbours_are_swapped(corpus, tmp_path):
    overrides = preparing.make_bigram_shift(Corpus.open(corpus), tmp_path)
    texts = {}
    for name in ("train", "held_out"):
        rows = [json.loads(line) for line in pathlib.Path(overrides[f"task.{name}"]).read_text().splitlines()]
        labels = [row["label"] for row in rows]
        assert abs(labels.count("shifted") - labels.count("original")) <= 1
        texts[name] = {row["sentence"] for row in rows if row["label"] == "original"}
    text = (corpus.parent / "text.txt").read_text()
    assert all(sentence in text for sentence in texts["train"] | texts["held_out"])
    shifted = next(row["sentence"] for row in rows if row["label"] == "shifted")
    assert shifted not in text
    before = (tmp_path / "train.jsonl").read_bytes()
    assert preparing.make_bigram_shift(Corpus.open(corpus), tmp_path) == overrides
    assert (tmp_path / "train.jsonl").read_bytes() == before


@pytest.mark.parametrize("scale", scales.SCALES)
def test_every_scale_names_tasks_that_exist(scale):
    for name in scales.get(scale).tasks:
        assert scales.score(scales.task(name, scale)).key.startswith(f"{name}/")
    with pytest.raises(UserError, match="--scale=huge: unknown; expected one of smoke, cpu, gpu, paper"):
        scales.get("huge")


def test_arms_with_names_that_are_taken():
    made = {"question": "?", "arms": {"a": {}, "corpus": {"model.hidden_dropout": 0.1}}}
    for arms in (made["arms"], {"a": {}, "x" * 81: {}}, {1: {}, 2: {}}):
        with pytest.raises(UserError, match="arms: found .*names that can be a folder's"):
            experiment_lib.check(scales.experiment("smoke", **made | {"arms": arms}), "here")
    with pytest.raises(UserError, match="arms: found .'a', 'b'.; expected {name: {key: value}}"):
        experiment_lib.check(scales.experiment("smoke", **made | {"arms": ["a", "b"]}), "here")
    with pytest.raises(UserError, match="--tasks=nosuch: unknown; expected some of bigram_shift, cola"):
        scales.task("nosuch", "cpu")


@pytest.mark.parametrize("name", ["masking", "masking.py", "experiments/masking.py", "experiments/masking"])
def test_an_experiment_of_this_package_is_found_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(experiment_lib.load(name, "smoke").arms) == ["static", "dynamic"]


def test_an_unknown_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--experiment=elsewhere/masking.py: no such file"):
        experiment_lib.load("elsewhere/masking.py", "smoke")
