"""Every objective has a class, which states the same facts as the table; nothing else compares an objective's name."""

import pathlib
import re

import pytest

import bert_jax
from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax.config import objective as facts_lib

ROOT = pathlib.Path(bert_jax.__file__).parent
MAY_COMPARE = {"config/objective.py", "objectives"}
COMPARES = re.compile(r"objective(\.name|\[\"name\"\])\s*(==|!=|in\b|not in\b)|[!=]= \"(ltr|rtd|distillation)\"")


def make_config(name):
    config = config_lib.base()
    config.model.update(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=12, vocab_size=16)
    config.model.attention = facts_lib.OBJECTIVES[name].attention
    config.objective.update(name=name, next_sentence=False)
    return config


@pytest.mark.parametrize("name", facts_lib.OBJECTIVES)
def test_an_objective_is_built_by_its_name_and_states_its_facts(name):
    config = make_config(name)
    model = model_lib.build(config.model, 16, **objective_lib.heads(config.objective))
    objective = objective_lib.make(config, model)
    assert objective.facts is facts_lib.facts(config) is facts_lib.OBJECTIVES[name]
    assert type(objective) is objective_lib.implementation(name)
    assert len(objective.specs) == 1 + objective.facts.generator
    assert all(getattr(model.spec, head) for head in objective.facts.heads)


def test_no_file_outside_the_objectives_compares_their_names():
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    compare = [
        name for name, text in files.items() if COMPARES.search(text) and not {name, name.split("/")[0]} & MAY_COMPARE
    ]
    assert not compare
    assert COMPARES.search('if config.objective.name == "x"') and COMPARES.search('name = "a" if x == "ltr" else 1')
