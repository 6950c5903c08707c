# make demo : build a database from the shipped example cohort and ask it a question
# make test : everything that CI runs, in the same order
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo

.PHONY: demo test lint env cohort bench bench-gpu soak clean

env: $(VENV)/.installed

# torch is pinned in constraints.txt: an unpinned torch pulls gigabytes of CUDA packages.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "molquery needs Python 3.11 or newer; say make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@

demo: env
	$(BIN)/molquery demo $(DEMO) --overwrite

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The whole pipeline on a real paired cohort that is not part of the project; see benchmarks/README.md.
COHORT ?= ../shared/data/tcga_hif
cohort: env
	$(BIN)/python benchmarks/tcga_hif.py $(COHORT)

# Speed, recall, memory and size beside other libraries; see benchmarks/README.md. What has been
# measured is kept in build/bench: a second call measures only what is missing.
#   make bench PARTS="exact filters" ROWS=100000
PARTS ?=
ROWS  ?= 100000 1000000
bench: env
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,bench]'
	$(BIN)/python -m benchmarks.scale $(PARTS) --rows $(ROWS) $(BENCH)

# The same on a machine with a GPU, in an environment with the extra gpu or cuvs.
bench-gpu:
	$(BIN)/python benchmarks/gpu.py --output benchmarks/results/gpu.tsv $(BENCH)

# Hundreds of killed commands, full disks (on a file system of its own: hence unshare), a crowd on
# one database, thousands of hostile inputs, a thousand changed bytes: an hour.
soak: env
	unshare -Urm $(BIN)/python tests/soak.py --kills 500 --interrupts 100 --disks 100 --minutes 5
	$(BIN)/python tests/hostile.py --count 10000
	$(BIN)/python benchmarks/soak_corruption.py --count 1000

clean:
	rm -rf $(VENV) build dist *.egg-info demo
