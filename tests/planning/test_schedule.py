"""The course of a recipe, in words and as a picture, from the recipe alone."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from bert_jax import config as config_lib
from bert_jax.errors import UserError
from bert_jax.planning import schedule

ROOT = pathlib.Path(__file__).parents[2]


def test_the_course_of_modernbert():
    report = schedule.schedule(config_lib.load_recipe("modernbert_base"), "modernbert_base")
    phases = report["phases"]
    assert report["tokens"] == pytest.approx(2_019e9, rel=1e-4) == sum(phase["tokens"] for phase in phases)
    assert phases[-1]["stop"] == report["steps"]
    assert [phase["rows"] * phase["length"] for phase in phases[-2:]] == [4_718_592] * 2
    assert [phase["rotary_base"] for phase in phases] == [10_000] * 4 + [160_000] * 2
    assert [phase["rates"][-1][1] for phase in phases[3:5]] == [pytest.approx(8e-4), pytest.approx(3e-4)]
    rates = dict(phases[0]["rates"])
    assert rates[0] == 0 and max(rates.values()) == pytest.approx(8e-4)
    table = schedule.text(report).splitlines()
    assert table[0] == f"modernbert_base: {report['steps']:,} steps, 2.019T tokens"
    last = "6 10,596 50B 576 8,192 4.719M 0.0003 to 3.14e-07 0.0333 30% 160,000 10,000"
    assert " ".join(table[-1].split()) == last
    drawn = schedule.draw(report)
    assert drawn == (ROOT / "docs" / "images" / "modernbert_base.svg").read_text(), (
        "docs/pretrain.md says how it is made"
    )
    picture = xml.etree.ElementTree.fromstring(drawn)
    labels = [element.text for element in picture.iter() if element.tag.endswith("}text")]
    for label in ("learning rate", "rows of a batch", "tokens of a row", "rotary base", "0.0008", "576", "160,000"):
        assert label in labels


@pytest.mark.parametrize(
    ("recipe", "phase", "turns"),
    [
        ("eurobert_210m", 0, {2_000: 1e-4}),
        ("deberta_v3_base", 0, {10_000: 5e-4}),
        ("modernbert_large", 1, {2_300: 5e-4}),  # the warm-up ends in the second phase
    ],
)
def test_the_rate_is_known_where_it_turns(recipe, phase, turns):
    """A warm-up that is shorter than the distance of the points that are drawn, and the peak that a table names."""
    rates = dict(schedule.schedule(config_lib.load_recipe(recipe), recipe)["phases"][phase]["rates"])
    assert {step: rates[step] for step in turns} == pytest.approx(turns)


def test_the_rate_is_known_where_a_decay_begins_inside_a_phase():
    config = config_lib.load_recipe("bert_base")
    config.data.phases = ()
    config.optimizer.update(schedule="trapezoidal", decay_steps=300, warmup_steps=70)
    rates = dict(schedule.schedule(config, "bert_base")["phases"][0]["rates"])
    assert rates[70] == rates[999_700] == pytest.approx(1e-4)


def test_scaled_rotary_positions_of_a_phase_are_listed_and_checked():
    config = config_lib.load_recipe("gte_base")
    scaled = {"model.rotary_scaling": "yarn", "model.rotary_factor": 4.0, "model.rotary_trained": 2048}
    config.data.phases = (config.data.phases[0], {**config.data.phases[1], **scaled})
    report = schedule.schedule(config, "gte_base")
    assert [phase["rotary_scaling"] for phase in report["phases"]] == ["", "yarn, 4"]
    lines = schedule.text(report).splitlines()
    assert lines[-3].endswith("scaling") and lines[-2].endswith(" -") and lines[-1].endswith("yarn, 4")
    config.data.phases = (config.data.phases[0], {**config.data.phases[1], "model.rotary_trained": 0})
    with pytest.raises(UserError, match="config.model.rotary_trained: found 0, .*rotary_scaling=yarn depends on it"):
        schedule.schedule(config, "gte_base")


def test_one_phase_of_learned_positions_has_no_panel_of_rotary_bases():
    config = config_lib.load_recipe("roberta_base")
    report = schedule.schedule(config, "roberta_base")
    assert len(report["phases"]) == 1 and report["phases"][0]["rotary_base"] is None
    assert "rotary" not in schedule.draw(report)


def run(*arguments):
    command = [sys.executable, "-m", "bert_jax.plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_the_command(tmp_path):
    picture, values = tmp_path / "new" / "course.svg", tmp_path / "course.json"
    done = run("--config=mmbert_small", "--schedule", f"--output={picture}", f"--json={values}")
    assert done.returncode == 0, done.stderr
    assert "60 corpora, temperature 1.43" in done.stdout and "all corpora, temperature 3.33" in done.stdout
    assert picture.read_text().startswith("<svg ") and json.loads(values.read_text())["recipe"] == "mmbert_small"
    done = run("--config=small", "--schedule", f"--output={tmp_path}/course.png")
    assert done.returncode == 2 and "--schedule draws an SVG picture; expected a name that ends in .svg" in done.stderr
