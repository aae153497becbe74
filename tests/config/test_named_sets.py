"""Tests how several data sets are named in one key."""

import pytest

from bert_jax.config.named_sets import named_sets
from bert_jax.errors import UserError


def test_named_sets():
    sets = named_sets("matched=a.tsv,b.tsv, mismatched=tfds:x/y:test", "k")
    assert sets == {"matched": "a.tsv,b.tsv", "mismatched": "tfds:x/y:test"}
    assert named_sets("a.tsv,data/x=1/b.tsv", "k") == {"": "a.tsv,data/x=1/b.tsv"}
    for spec, message in (("a.tsv,x=b.tsv", "with and without a name"), ("x=a,y=b,x=c", "found x twice")):
        with pytest.raises(UserError, match=message):
            named_sets(spec, "k")
