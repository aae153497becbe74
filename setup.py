"""Finds the packages of the wheel; everything else about it is in pyproject.toml.

The wheel holds `configs` and `experiments` inside the package: bert_jax.configs and bert_jax.experiments, so that
recipes, the experiment launcher and its report work away from a checkout.
"""

from setuptools import find_packages, setup

INSIDE = {"bert_jax": "bert_jax", "bert_jax.configs": "configs", "bert_jax.experiments": "experiments"}
# Benchmarks, parity reports and notebooks write their results into the repository, so they stay in it.
OUTSIDE = ("benchmarks*", "parity*", "notebooks*", "results*")

package_dir = {}
for package, folder in INSIDE.items():
    package_dir[package] = folder
    for name in find_packages(folder, exclude=OUTSIDE):
        package_dir[f"{package}.{name}"] = f"{folder}/{name.replace('.', '/')}"

setup(packages=sorted(package_dir), package_dir=package_dir)
