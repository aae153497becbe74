"""What folders hold is recognised, and no command writes over a thing of another kind."""

import json

import pytest

from bert_jax import outputs
from bert_jax.errors import UserError

FOLDERS = {
    outputs.CORPUS: {"manifest.json": {}, "tokenizer/vocab.txt": {}},
    outputs.UNFINISHED_CORPUS: {"parts/settings.json": {}},
    outputs.PRETRAINING: {"run.json": {}, "config.json": {"model": {}}},
    outputs.FINETUNING: {"run.json": {}, "config.json": {"task": {}}},
    outputs.MODEL: {"config.json": {"model_type": "bert"}},
    outputs.EXPERIMENT: {"experiment.json": {}},
    outputs.JOB: {"job.json": {}},
    outputs.INDEX: {"index.json": {}, "vectors.npy": {}},
    outputs.QUICKSTART: {
        "corpus/manifest.json": {},
        "corpus/tokenizer/vocab.txt": {},
        "run/run.json": {},
        "run/config.json": {},
    },
    "": {"notes.txt": {}, "config.json": {"colour": "red"}},
}


def make(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", FOLDERS)
def test_kinds(kind, tmp_path):
    folder = make(tmp_path / "x", FOLDERS[kind])
    assert outputs.kind(folder) == kind and not outputs.is_empty(folder)
    outputs.check_folder("workdir", folder, {kind})
    if kind:
        with pytest.raises(
            UserError, match=rf"^--workdir={folder}: holds {kind}; expected a new or empty folder [(].*[)]$"
        ):
            outputs.check_folder("workdir", folder, set(FOLDERS) - {kind})


def test_what_failed_commands_leave_counts_for_nothing(tmp_path):
    assert outputs.is_empty(tmp_path / "none") and outputs.kind(tmp_path / "none") == ""
    make(tmp_path, {"lock": 1, "out.12345678.partial": 1})
    assert outputs.is_empty(tmp_path)
    make(tmp_path, {"mine": 1})
    assert not outputs.is_empty(tmp_path)


OWN = (outputs.PRETRAINING,)


def test_other_files_are_not_written_beside(tmp_path):
    for name in ("none", "empty", "begun", "run"):
        folder = tmp_path / name
        if name != "none":
            make(
                folder, {} if name == "empty" else {"nohup.out": 1, ".git/x": 1, "recipe.py": 1, "lock": 1, "corpus": 1}
            )
        if name == "run":
            make(folder, FOLDERS[outputs.PRETRAINING] | {"notes.txt": 1})
        outputs.check_unused("workdir", folder, OWN, ("corpus",))
    photos = make(tmp_path / "photos", {"a.jpg": 1, "b.jpg": 1, "x.log": 1, "run": 1})
    with pytest.raises(UserError) as error:
        outputs.check_unused("workdir", photos, OWN)
    assert str(error.value) == (
        f"--workdir={photos}: holds other files, a.jpg and 2 more; expected a new or empty folder, such as "
        f"--workdir={photos}/run-2"
    )
    runs = make(tmp_path / "runs", {f"books/{name}": {} for name in FOLDERS[outputs.PRETRAINING]} | {"a.txt": 1})
    with pytest.raises(
        UserError, match=r"holds other files, books \(a run of pre-training\) and 1 more; expected a new"
    ):
        outputs.check_unused("workdir", runs, OWN)
    for kind in set(FOLDERS) - {"", *OWN}:
        with pytest.raises(UserError, match=f"holds {kind}; expected a new or empty folder"):
            outputs.check_unused("workdir", make(tmp_path / kind, FOLDERS[kind]), OWN)


def test_files(tmp_path):
    outputs.check_file("output", "-")
    outputs.check_file("output", "/dev/null")
    outputs.check_file("output", tmp_path / "new")
    for name, reason in (("", "a folder; expected a file"), ("none/x", "no such folder"), ("file/x", "no such folder")):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=reason):
            outputs.check_file("output", tmp_path / name)


CLOSED = (outputs.CORPUS, outputs.UNFINISHED_CORPUS, outputs.EXPERIMENT, outputs.INDEX)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (outputs.PRETRAINING, "config.json"),
        (outputs.PRETRAINING, "metrics.jsonl"),
        (outputs.FINETUNING, "checkpoints/10/manifest.json"),
        (outputs.FINETUNING, "tokenizer/vocab.txt"),
        (outputs.CORPUS, "manifest.json"),
        (outputs.CORPUS, "train/00000.tokens.npy"),
        (outputs.UNFINISHED_CORPUS, "parts/settings.json"),
        (outputs.MODEL, "model.safetensors"),
        (outputs.MODEL, "vocab.txt"),
        (outputs.EXPERIMENT, "experiment.json"),
        (outputs.JOB, "run.json"),
        (outputs.INDEX, "ids.txt"),
    ],
)
def test_no_file_that_a_folder_consists_of_is_written_over(kind, name, tmp_path):
    folder = make(tmp_path / "x", FOLDERS[kind] | {name: FOLDERS[kind].get(name, {}), "predictions.csv": {}})
    assert outputs.kind(folder) == kind
    (tmp_path / "link.json").symlink_to(folder / name)
    for path in (folder / name, tmp_path / "link.json", folder / ".." / "x" / name):
        with pytest.raises(UserError, match=f"{path}: {name} of {kind} .*; expected another name"):
            outputs.check_file("output", path)
    for own in ("predictions.csv", "new.jsonl") if kind not in CLOSED else ():
        outputs.check_file("output", folder / own)


@pytest.mark.parametrize("kind", CLOSED)
@pytest.mark.parametrize("name", ["x.csv", "train/x.csv", "manifest.csv"])
def test_no_new_file_goes_into_a_folder_that_is_all_of_a_command(kind, name, tmp_path, monkeypatch):
    folder = make(tmp_path / "x", FOLDERS[kind] | {"train/a": {}, "manifest.csv": {}})
    (tmp_path / "link").symlink_to(folder)
    free = name.rpartition("/")[2]
    for path in (folder / name, tmp_path / "link" / name):
        with pytest.raises(UserError) as error:
            outputs.check_file("output", path)
        assert str(error.value) == (
            f"--output={path}: inside {kind} ({folder}); expected a file elsewhere, such as --output={tmp_path}/{free}"
        )
    monkeypatch.chdir(tmp_path)
    make(tmp_path, {free: 1})
    with pytest.raises(UserError, match=rf"{kind} \(x\); expected a file elsewhere, such as --json={free}-2$"):
        outputs.check_file("json", f"x/{name}", makes_folder=True)


def test_a_file_may_lie_in_a_run_of_an_experiment_but_not_in_its_corpus(tmp_path):
    make(tmp_path / "x", FOLDERS[outputs.EXPERIMENT])
    make(tmp_path / "x" / "corpus", FOLDERS[outputs.CORPUS])
    make(tmp_path / "x" / "arm" / "seed-0", FOLDERS[outputs.JOB])
    make(tmp_path / "x" / "arm" / "seed-0" / "pretrain", FOLDERS[outputs.PRETRAINING])
    for folder in ("arm/seed-0", "arm/seed-0/pretrain"):
        outputs.check_file("output", tmp_path / "x" / folder / "new.csv")
    with pytest.raises(UserError, match=rf"inside a prepared corpus .*, such as --output={tmp_path}/new.csv$"):
        outputs.check_file("output", tmp_path / "x" / "corpus" / "new.csv")
    with pytest.raises(UserError, match="inside an experiment "):
        outputs.check_file("output", tmp_path / "x" / "arm" / "new.csv")


def test_a_folder_of_no_kind_may_hold_a_file_of_any_name(tmp_path):
    make(tmp_path, {"metrics.jsonl": {}, "config.json": {}, "ids.txt": {}})
    for name in ("metrics.jsonl", "config.json", "ids.txt"):
        outputs.check_file("output", tmp_path / name)
