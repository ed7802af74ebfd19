# Everything goes through .venv, which `make venv` fills from the lock.
PYTHON ?= python3
BIN := .venv/bin
# Without huge pages XLA's CPU client spends a third of a step on page faults; it must be set before Python starts.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Tests start hundreds of processes, each of which would compile the library again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv demo test test-all test-quick cover mutants lint format docs options lock clean

# The lock names all that is needed, so nothing is resolved; what is imported is compiled then.
venv: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "jaxneg needs Python 3.11 to 3.13, this is %d.%d: make venv PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --no-deps --no-compile --requirement requirements.lock --editable .
	touch $@

demo: venv
	$(BIN)/jaxneg demo --out demo

# Two processes, a file at a time in the order of tests/conftest.py, so that a module's fixtures are made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25

# All but what only starts more processes: see CONTRIBUTING.md.
test: venv
	$(PYTEST) -m "not system"

test-all: venv
	$(PYTEST)

# As test, and which lines and branches its tests reached that are not slow.
cover: venv
	COVERAGE_FILE=.pytest_cache/coverage $(PYTEST) -m "not system" --cov jaxneg --cov-branch --cov-report term:skip-covered

# Faults put into what makes the numbers, one at a time, and which of them the tests do not see: see CONTRIBUTING.md.
mutants: venv
	$(BIN)/python -m pip install -qq --constraint requirements.lock mutmut==3.8.1
	$(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

test-quick: venv
	$(PYTEST) -m "not slow and not realdata and not system"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site is made in site/; a warning is an error. Reports of the benchmarks become pages of it.
docs: venv
	$(BIN)/python -m pip install -qq --constraint requirements.lock --editable '.[docs]'
	$(BIN)/python tools/options_page.py --check
	rm -rf docs/measured && cp -r benchmarks/results docs/measured
	$(BIN)/zensical build --strict --clean

# After a change of an option: docs/reference/options.md anew.
options: venv
	$(BIN)/python tools/options_page.py

# Needs uv (pip install uv).
lock:
	uv pip compile --universal --quiet --python-version 3.11 --extra dev --no-header --no-emit-index-url -o requirements.lock pyproject.toml

clean:
	rm -rf .venv demo site docs/measured .cache mutants
