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

# What the tests compare with, where nothing else sees it: tests/helpers/fidelity_oracle.py says why. No dependencies: 1.5 MB.
$(VENV)/oracles: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --upgrade --target $@ clean-fid torch-fidelity
	touch $@

demo: $(VENV)/installed
	FROM_SCRATCH=$(FROM_SCRATCH) PYTHON=$(RUN) sh benchmarks/demo.sh

test: $(VENV)/installed $(VENV)/oracles
	$(RUN) -m pytest

test-all: $(VENV)/installed $(VENV)/oracles
	$(RUN) -m pytest -m ''

lint: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) runs
