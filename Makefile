# `make demo` and `make test` set up everything they need; the machine needs Python 3.10 or newer.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# Each process uses one thread for each core.
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# Tests start hundreds of processes: Python keeps what it compiles, even where the environment says no.
unexport PYTHONDONTWRITEBYTECODE
FROM_SCRATCH ?= 0
# Tests run in as many processes as there are cores, each of one thread, but at most 8: each needs 2 GB.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo demo-emoji test test-all lint docs clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Two libraries that tests compare with, 1.5 MB without their dependencies. They are installed in a folder of
# their own; tests/helpers/fidelity_oracle.py says why.
$(VENV)/oracles: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-deps --upgrade --target $@ clean-fid torch-fidelity
	touch $@

demo: $(VENV)/installed
	FROM_SCRATCH=$(FROM_SCRATCH) PYTHON=$(RUN) sh benchmarks/demo.sh

demo-emoji: $(VENV)/installed
	PYTHON=$(RUN) sh benchmarks/demo_emoji.sh

test: $(VENV)/installed $(VENV)/oracles
	$(PYTEST)

test-all: $(VENV)/installed $(VENV)/oracles
	$(PYTEST) -m ''

lint: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# The documentation site, in runs/site; a warning is an error.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) runs
