# Each target makes the virtual environment it needs; a second run finds it ready.
#   make demo     train on the embedded digits and write a report
#   make test     the test suite
#   make check    style, types, layers, the sizes of files, classes and functions
#   make nightly  the tests that take minutes
#   make gallery  the studies of docs/, of which those stored are not run again, and their pages
#   make bench    the benchmarks that write the tables and figures of docs/
#   make arena    the default beside tuned runs and other methods, on small problems; docs/default.md and its figures
#   make peers    the benchmarks beside other libraries, in an environment of their own
#   make clean    remove everything made here

.PHONY: demo test check nightly gallery bench arena peers clean
.NOTPARALLEL:

PYTHON ?= python3
VENV ?= .venv
PEERS ?= .peers
# Of the arena's problems; PART=sealed once, when the default is finished.
PART ?= design confirmation
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
INSTALL := $(BIN)/python $(PIP) -c constraints.txt

# One thread a process: the same arithmetic whatever the number of cores, and on models this small it is the fastest.
demo test nightly gallery bench arena peers: export OMP_NUM_THREADS := 1

demo: $(VENV)/.ready-demo
	$(BIN)/rightbatch train --data digits --model cnn --epochs 30

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n 2 -q

nightly: $(VENV)/.ready-test
	$(BIN)/python -m pytest -q -m nightly

check: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_limits.py

gallery: $(VENV)/.ready-test
	$(BIN)/python benchmarks/gallery.py

bench: $(VENV)/.ready-test
	set -e; for name in noise_table overhead programs zero_tuning coverage estimators rules; do $(BIN)/python benchmarks/$$name.py --write; done

arena: $(VENV)/.ready-arena
	$(BIN)/python benchmarks/arena.py --part $(PART) --write

peers: $(PEERS)/.ready
	$(PEERS)/bin/python benchmarks/noise_overhead.py --write
	$(PEERS)/bin/python benchmarks/data.py --write

clean:
	rm -rf $(VENV) $(PEERS) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Rightbatch needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/.ready-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[test,dev]'
	touch $@ $(VENV)/.ready-demo

# What they need is there: torch and numpy.
$(VENV)/.ready-arena: $(VENV)/.ready-test benchmarks/arena_peers.txt
	$(BIN)/python $(PIP) --no-deps -r benchmarks/arena_peers.txt
	touch $@

# --no-deps: what they ask for beyond benchmarks/peers.txt, torchvision among it, they do not need here.
$(PEERS)/.ready: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP) -c constraints.txt -e '.[images,report]'
	$(PEERS)/bin/python $(PIP) --no-deps -r benchmarks/peers.txt
	touch $@
