"""Gives the tests of objectives the tiny corpus and the compiled programs of the training tests."""

from tests.training.conftest import compiled as compiled
from tests.training.conftest import corpus as corpus
from tests.training.conftest import finished as finished
