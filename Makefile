# `make` alone lists the verbs.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
# Many tests wait for programs they started; a second process works meanwhile.
IN_TWO := -n 2 --dist loadfile

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: help install lock demo test test-jax check bench docs

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

install: $(VENV)/installed  ## make the virtual environment from the lock

# With extras: pip would look for the newest of a package that is wanted with one, pinned or not.
lock:  ## resolve requirements.lock again (needs uv)
	uv pip compile --universal --no-strip-extras --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --extra dev --python-version 3.11 pyproject.toml -o requirements.lock --quiet

demo: install  ## send real clips through everything and show the result
	$(BIN)/echobeam demo --root ./echobeam-demo

test: install  ## run the whole test suite
	$(BIN)/pytest $(IN_TWO)

test-jax: install  ## run the tests of the models on JAX
	KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=true $(BIN)/pytest $(IN_TWO) tests/unit/echo_models

check: install  ## everything CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/pytest $(IN_TWO) --cov --cov-report=term:skip-covered

bench: install  ## quick run of every benchmark
	$(BIN)/python -m benchmarks.one_machine --quick
	$(BIN)/python -m benchmarks.phantom --quick
	$(BIN)/python -m benchmarks.receive --quick
	$(BIN)/python -m benchmarks.fuzz --quick
	$(BIN)/python -m benchmarks.deid_headers --quick
	$(BIN)/python -m benchmarks.deid_frames --quick
	$(BIN)/python -m benchmarks.ledger --quick
	$(BIN)/python -m benchmarks.pool --quick
	$(BIN)/python -m benchmarks.parquet_scale --quick
	$(BIN)/python -m benchmarks.replay --quick
	$(BIN)/python -m benchmarks.crash --quick
	$(BIN)/python -m benchmarks.kill --quick
	$(BIN)/python -m benchmarks.two_nights --size toy
	$(BIN)/python -m benchmarks.fashion_mnist --quick

docs: install  ## regenerate the reference pages
	$(BIN)/python docs/generate.py
