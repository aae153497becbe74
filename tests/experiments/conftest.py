"""Provides the tests of experiments with a tiny corpus."""

import pytest

from tests.training.conftest import make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("text") / "made")
