"""Ways of pooling: those that there are, and the closest to a mistyped one."""

import pytest

from bert_jax.config import pooling
from bert_jax.config.finetuning_keys import TOKEN_POOLING
from bert_jax.errors import UserError


@pytest.mark.parametrize("kind", [*TOKEN_POOLING, "second_to_last", "last_1", "last_12", "last_3_concat"])
def test_every_way_of_pooling_is_taken(kind):
    pooling.check_kind("--pooling", kind)


@pytest.mark.parametrize(
    ("kind", "near"),
    [
        ("maen", "; did you mean mean?"),
        ("clss", "; did you mean cls?"),
        ("second_last", "; did you mean second_to_last?"),
        ("last_0", "; did you mean last_4?"),
        ("last_2_cat", "; did you mean last_4_concat?"),
        ("xyz", "(any number of layers)"),
        (None, "(any number of layers)"),
    ],
)
def test_another_is_told_by_the_closest(kind, near):
    with pytest.raises(UserError) as error:
        pooling.check_kind("--pooling=X", kind)
    assert str(error.value).startswith(f"--pooling=X: found {kind!r}; expected cls, mean, max, ")
    assert str(error.value).endswith(near)
