# Everything on a fresh machine: `make demo` and `make test`. Python 3.10 or newer is all they need.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# One process with as many threads as there are cores; never more.
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
FROM_SCRATCH ?= 0

.PHONY: demo test test-all lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	FROM_SCRATCH=$(FROM_SCRATCH) PYTHON=$(RUN) sh benchmarks/demo.sh

test: $(VENV)/installed
	$(RUN) -m pytest

test-all: $(VENV)/installed
	$(RUN) -m pytest -m ''

lint: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) runs
