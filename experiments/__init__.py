"""Holds experiments: a launcher of sweeps, their reports, benchmarks and notebooks.

In a checkout this package is `experiments`; an installed wheel holds it as `bert_jax.experiments`. Files of experiments
say `from experiments import scales` in both cases: the installed package also answers to the name `experiments`.
"""

import sys

# The first thing that a command does: Ctrl-C may come while it imports the rest.
if sys.argv[:1] == ["-m"] and any(word.startswith("experiments.") for word in sys.orig_argv):
    from bert_jax import interruption

    interruption.listen()

import importlib
import importlib.abc
import importlib.util

_INSTALLED = "bert_jax.experiments"


class _InstalledExperiments(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `experiments` and its modules as the modules of the installed package, never as second copies."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, rest = fullname.partition(".")
        if package != "experiments":
            return None
        if rest and importlib.util.find_spec(f"{_INSTALLED}.{rest}") is None:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        sys.modules[module.__name__] = importlib.import_module(f"bert_jax.{module.__name__}")


if __name__ == _INSTALLED and not any(isinstance(finder, _InstalledExperiments) for finder in sys.meta_path):
    sys.meta_path.insert(0, _InstalledExperiments())
