# Every target sets up what it needs in .venv; Python 3.11 or later is all that must be there.
PYTHON ?= python3
RUN = .venv/bin/python

# Eight forced CPU devices; what a target promises to test and cannot, it fails on.
PYTEST = JAX_PLATFORMS=cpu $(RUN) -m pytest --no-skips

.PHONY: quickstart test test-more test-profiler test-full test-parity test-slow test-gcs test-beam test-cloud test-demo test-trackers test-mteb test-triton test-notebooks lint types docs

quickstart: .venv/.runtime
	$(RUN) -m bert_jax.quickstart

test: .venv/.test
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check .
	BERT_JAX_TEST_COMPILER=quick $(PYTEST) -n 2 --dist loadfile

test-more: .venv/.test
	BERT_JAX_TEST_COMPILER=quick $(PYTEST) -n 2 --dist loadfile -m 'more and not full'

# In a process of its own: jaxlib's profiler has ended one by a segmentation fault after hundreds of other tests.
test-profiler: .venv/.test
	$(PYTEST) -m profiler tests/training

test-full: .venv/.test test-profiler test-gcs
	BERT_JAX_TEST_COMPILER=quick $(PYTEST) -n 2 --dist loadfile -m 'full and not parity and not gcs and not beam and not cloud and not demo and not trackers and not mteb and not triton and not slow'

test-parity: .venv/.parity
	$(PYTEST) -n 2 --dist loadfile -m parity

test-slow: .venv/.test
	$(PYTEST) -m slow

test-gcs: .venv-gcs/.test
	JAX_PLATFORMS=cpu .venv-gcs/bin/python -m pytest --no-skips -m gcs tests/runs

test-beam: .venv-beam/.test
	JAX_PLATFORMS=cpu .venv-beam/bin/python -m pytest --no-skips -m beam tests/data tests/docs

test-cloud: .venv-cloud/.test
	JAX_PLATFORMS=cpu .venv-cloud/bin/python -m pytest --no-skips -m cloud tests/experiments/test_cloud.py

test-demo: .venv-demo/.test
	JAX_PLATFORMS=cpu .venv-demo/bin/python -m pytest --no-skips -m demo tests/test_demo.py tests/docs

test-trackers: .venv-trackers/.test
	JAX_PLATFORMS=cpu .venv-trackers/bin/python -m pytest --no-skips -m trackers tests/runs

test-mteb: .venv-mteb/.test
	JAX_PLATFORMS=cpu .venv-mteb/bin/python -m pytest --no-skips -m mteb tests/inference

test-triton: .venv-triton/.test
	JAX_PLATFORMS=cpu .venv-triton/bin/python -m pytest --no-skips -m triton tests/model tests/planning tests/docs

test-notebooks: .venv/.test
	$(PYTEST) -m notebooks tests/notebooks

lint: .venv/.test types
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

types: .venv/.test
	$(RUN) -m tests.type_errors

docs: .venv/.docs
	$(RUN) docs/build.py

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

.venv/.docs: .venv/.runtime
	$(RUN) -m pip install --quiet -e '.[docs]'
	@touch $@

.venv-gcs/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-gcs
	.venv-gcs/bin/python -m pip install --quiet -e '.[test-gcs]'
	@touch $@

.venv-trackers/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-trackers
	.venv-trackers/bin/python -m pip install --quiet -e '.[test-trackers]'
	@touch $@

.venv-mteb/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-mteb
	.venv-mteb/bin/python -m pip install --quiet -e '.[test-mteb]'
	@touch $@

.venv-triton/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet -e '.[test-triton]'
	@touch $@

.venv-beam/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet -e '.[test,beam]'
	@touch $@

.venv-cloud/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-cloud
	.venv-cloud/bin/python -m pip install --quiet -e '.[test,cloud]'
	@touch $@

.venv-demo/.test: .venv/.created requirements.txt pyproject.toml
	.venv/bin/python -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet -e '.[test-demo]'
	@touch $@

.venv/.parity: .venv/.test
	$(RUN) -m pip install --quiet -e '.[test,parity]'
	@touch $@
