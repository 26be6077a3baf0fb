# One command gives the book: `make book`. `make help` lists the rest.
# Needed: make, Python >= 3.10 with venv, and a network that reaches the package index.

PYTHON      ?= python3
# Another package index for torch, e.g. https://download.pytorch.org/whl/cpu (Linux: no CUDA libraries, 2 GB less).
TORCH_INDEX ?=
# smoke (minutes, the committed notebooks), laptop or paper
PROFILE     ?= smoke
# Processes side by side, for tests and notebooks, with one torch thread each.
JOBS        ?= 2
PORT        ?= 8000
# Extra arguments: `make unit TEST="tests/test_patches.py -x"`, `make book BOOK=--force`,
# `make notebooks BOOK="--only 00_quickstart"`.
TEST        ?=
BOOK        ?=

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed
HTML  := book/_build/html

ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PYDEVD_DISABLE_FILE_VALIDATION = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book test unit validate check notebooks serve lab bench lint clean distclean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(STAMP)  ## run every notebook and render the book to book/_build/html/index.html
	$(PY) book/build.py html --profile $(PROFILE) --jobs $(JOBS) $(BOOK)

test: unit validate  ## run the unit tests, then validate the committed notebooks with nbval

# Two processes with one torch thread each are faster than one process with two threads, and stay so on a busy machine.
unit: $(STAMP)  ## run the unit tests only (TEST="tests/test_patches.py -x" for some)
	$(ONE_THREAD) $(PY) -m pytest --numprocesses $(JOBS) --dist loadscope $(or $(TEST),tests)

# loadscope keeps the cells of a notebook together and in order.
validate: $(STAMP)  ## validate the committed notebooks only
	$(ONE_THREAD) $(PY) -m pytest --nbval-lax --nbval-current-env \
	    --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300 \
	    --numprocesses $(JOBS) --dist loadscope -p no:cacheprovider notebooks

check: $(STAMP)  ## check the rendered book: every page, title and figure is there, nothing comes from a CDN
	$(PY) book/check.py

notebooks: $(STAMP)  ## run every notebook and write the executed .ipynb beside its source
	$(PY) book/build.py notebooks --jobs $(JOBS) $(BOOK)

serve: book  ## build the book and serve it at http://localhost:8000 (PORT=...)
	$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory $(HTML)

lab: $(STAMP)  ## open the notebooks in Jupyter Lab, which the first call installs
	@$(PY) -m jupyterlab --version >/dev/null 2>&1 || $(PY) -m pip install --quiet -c constraints.txt jupyterlab
	$(PY) -m jupyterlab notebooks/00_quickstart.ipynb

bench: $(STAMP)  ## run the benchmarks
	@for script in benchmarks/*.py; do \
	    [ -e "$$script" ] || { echo "no benchmark in benchmarks/ yet"; break; }; \
	    echo "== $$script"; $(PY) "$$script" || exit 1; done

lint: $(STAMP)  ## check style with ruff
	@$(PY) -m ruff --version >/dev/null 2>&1 || $(PY) -m pip install --quiet -c constraints.txt ruff
	$(PY) -m ruff check .

clean:  ## remove what the build wrote (not .venv: `make distclean`)
	rm -rf book/_build .pytest_cache .ruff_cache .hypothesis
	find atslib tests book benchmarks data_scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean  ## remove .venv too
	rm -rf $(VENV)

# The stamp is written last, so a set-up that failed half-way is repeated by the next make.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	    echo "error: no '$(PYTHON)' on this machine; install Python >= 3.10 or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "error: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1), but Python >= 3.10 is needed; name another: make PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "error: '$(PYTHON)' has no venv or ensurepip module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f $@
	@echo "setting up $(VENV) (one to several minutes, 1.7 GB$(if $(TORCH_INDEX),, and on Linux some 2 GB more for CUDA)) ..."
	@"$(PYTHON)" -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[book,test]'
	@touch $@
