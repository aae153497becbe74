"""Finds the packages of the wheel; everything else about it is in pyproject.toml.

The wheel holds `configs` and `experiments` inside the package: bert_jax.configs and bert_jax.experiments, so that
recipes, the experiment launcher and its report work away from a checkout. An editable install has the checkout: its
packages are named as they lie there, so that one line of a path file makes it, where packages from several folders need
a finder that every start of Python would load (8 of its 17 ms).
"""

import sys

from setuptools import find_packages, setup

INSIDE = {"bert_jax": "bert_jax", "bert_jax.configs": "configs", "bert_jax.experiments": "experiments"}
# Benchmarks, parity reports and notebooks write their results into the repository, so they stay in it.
OUTSIDE = ("benchmarks*", "parity*", "notebooks*", "results*")

package_dir = {}
for package, folder in INSIDE.items():
    package_dir[package] = folder
    for name in find_packages(folder, exclude=OUTSIDE):
        package_dir[f"{package}.{name}"] = f"{folder}/{name.replace('.', '/')}"

if "editable_wheel" in sys.argv:
    setup(packages=["bert_jax", *(f"bert_jax.{name}" for name in find_packages("bert_jax"))], package_dir={"": "."})
else:
    setup(packages=sorted(package_dir), package_dir=package_dir)
