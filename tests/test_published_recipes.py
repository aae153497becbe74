"""Compares the recipes of configs/ with the table of published values (published_recipes.py)."""

import re

import pytest

from bert_jax import config as config_lib
from tests.published_recipes import COMMITS, PUBLISHED


@pytest.mark.parametrize("recipe", sorted(PUBLISHED))
def test_a_recipe_has_the_published_values(recipe):
    config = config_lib.load_recipe(recipe)
    values = config_lib.flat(config)
    phases = values.get("data.phases", ())
    for i, phase in enumerate(phases):
        for place in (i, i - len(phases)):
            values |= {f"data.phases[{place}].{key}": value for key, value in phase.items()}
    differing = {
        key: f"found {values[key]!r}; {source} has {value!r}"
        for key, (value, source) in PUBLISHED[recipe].items()
        if values[key] != value
    }
    assert not differing


def test_modernbert_larges_lower_rate_keeps_a_decay_of_1e_6_a_step():
    """As its docstring says of the rate of 5e-5, which later phases have."""
    config = config_lib.load_recipe("modernbert_large")
    lower = [phase for phase in config.data.phases if phase.get("optimizer.learning_rate") == 5e-5]
    assert len(lower) >= 3
    for phase in lower:
        share = phase.get("optimizer.weight_decay", config.optimizer.weight_decay)
        assert phase["optimizer.learning_rate"] * share == pytest.approx(1e-6)


def test_every_value_names_its_source():
    paper_or_card = r"arXiv \d{4}\.\d{5}, (section|table|appendix) .+|model card of .+"
    for recipe, values in PUBLISHED.items():
        for key, (_, source) in values.items():
            in_repository = any(source.startswith(f"{repository} ") for repository in COMMITS)
            assert in_repository or re.fullmatch(paper_or_card, source), (recipe, key, source)


def test_docstrings_say_what_the_code_did_of_bias_correction():
    """Each recipe says it, or refers to the recipe that it builds on; two are not published, embedders say no such."""
    said = r"bias.correction|corrects the bias"
    refers = r"[Ss]etting\s+is\s|RoBERTa's\s\(configs"
    for recipe in config_lib.recipe_names():
        text = config_lib.recipe_path(recipe).read_text().split('"""')[1]
        assert (
            recipe in ("quickstart", "small")
            or recipe.startswith(("embedding/", "reranker/"))
            or re.search(f"{said}|{refers}", text)
        ), recipe


def test_alberts_predictions_are_less_than_its_rate_says():
    data = config_lib.load_recipe("albert_base").data
    assert data.max_predictions / data.sequence_length == pytest.approx(0.039, abs=5e-4)
    assert "3.9 %" in config_lib.recipe_path("albert_base").read_text()
