# Every target sets up what it needs in .venv; Python 3.11 or later is all that must be there.
PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: quickstart test test-parity test-slow test-beam test-cloud lint

quickstart: .venv/.runtime
	$(RUN) -m bert_jax.quickstart

test: .venv/.test
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check .
	JAX_PLATFORMS=cpu BERT_JAX_TEST_COMPILER=quick $(RUN) -m pytest -n 2 --dist loadfile

test-parity: .venv/.parity
	JAX_PLATFORMS=cpu $(RUN) -m pytest -m parity

test-slow: .venv/.test
	JAX_PLATFORMS=cpu $(RUN) -m pytest -m slow

test-beam: .venv-beam/.test
	JAX_PLATFORMS=cpu .venv-beam/bin/python -m pytest -m beam tests/data

test-cloud: .venv-cloud/.test
	JAX_PLATFORMS=cpu .venv-cloud/bin/python -m pytest -m cloud tests/experiments/test_cloud.py

lint: .venv/.test
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit("bert_jax needs Python 3.11 or later; found %d.%d. Name another with: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.runtime: .venv/.created requirements.txt pyproject.toml
	$(RUN) -m pip install --quiet -e .
	@touch $@

.venv/.test: .venv/.runtime
	$(RUN) -m pip install --quiet -e '.[test]'
	@touch $@

.venv-beam/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet -e '.[test,beam]'
	@touch $@

.venv-cloud/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-cloud
	.venv-cloud/bin/python -m pip install --quiet -e '.[test,cloud]'
	@touch $@

.venv/.parity: .venv/.test
	$(RUN) -m pip install --quiet -e '.[test,parity]'
	@touch $@
