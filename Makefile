# tlskit: `make` alone lists what can be made.
# VENV may point to an environment that several checkouts share: make test VENV=../venv
# JOBS is the number of processes that the tests are shared out among, REPEATS how often a benchmark measures.

VENV   ?= .venv
PYTHON ?= python3
JOBS   ?= 2
REPEATS ?= 5
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.tlskit-lock

# The package is taken from this checkout, also where the environment is shared with another one.
export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help env demo test lab app bench lint lock clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(STAMP)  ## make the environment once (VENV=.venv), from requirements.lock

# Kept as a copy of the lock: an environment is made anew only when the lock itself has changed. pip compiles on one
# core; all cores do it in half the time. (Files that no Python 3 can compile are some packages' templates.)
$(STAMP): requirements.lock
	@if ! cmp -s requirements.lock $(STAMP); then \
	  set -e; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tlskit needs Python 3.11 or newer: make PYTHON=python3.11")'; \
	  echo "Setting up $(VENV): about 7 GB, a few minutes"; \
	  test -x $(PY) || $(PYTHON) -m venv $(VENV); \
	  $(PY) -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock; \
	  $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	  $(PY) -m compileall -qq -j 0 $(VENV)/lib || true; \
	  cp requirements.lock $(STAMP); \
	else touch $(STAMP); fi

demo: env  ## make a synthetic cohort and run the whole study on it (about 20 minutes on two cores without bf16, less with)
	$(PY) -m tlskit synth outputs/cohorts/demo --second-reader
	$(PY) -m tlskit sweep params/demo.yaml

# Files are shared out among JOBS processes, each on one core. Two browsers at a time have been seen to wait for ever:
# their files run in one process of their own, which waits for pages half of its time, beside the others.
test: export OMP_NUM_THREADS := 1
test: env  ## run the tests
	@failed=0; said=$$(mktemp); \
	$(PY) -m pytest -q tests/browser > $$said 2>&1 & browser=$$!; \
	trap 'kill $$browser 2> /dev/null; rm -f $$said' EXIT; trap 'exit 130' INT TERM; \
	$(PY) -m pytest -q --ignore=tests/browser -n $(JOBS) --dist loadfile --no-loadscope-reorder || failed=1; \
	wait $$browser || failed=1; \
	echo "In a browser:"; cat $$said; exit $$failed

lab: env  ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab --notebook-dir=.

app: env  ## open the page for people who do not code
	$(PY) -m tlskit app

bench: env  ## measure speed and memory (see tests/benchmarks)
	$(PY) -m tests.benchmarks --repeats $(REPEATS)

lint: env  ## check the style
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

lock:  ## resolve pyproject.toml into requirements.lock and environment.yml (needs uv, and the environment)
	uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --upgrade -o requirements.lock
	$(PYTHON) .ci/environment.py

clean:  ## remove everything that was made, the archive of runs included
	rm -rf outputs .venv build *.egg-info
