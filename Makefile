# The two commands that a fresh machine needs: `make demo` and `make test`. Each builds the environments that it needs:
# .venv, and for the tests .venv-core, which has no optional part.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)
CORE   := .venv-core
COMMA  := ,
# Tests and demo start hundreds of programs, each of which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test format clean

demo: $(VENV)/.ready
	$(BIN)/sparsem demo demo

test: $(VENV)/.ready-to-test $(CORE)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadgroup --max-worker-restart 0

format: $(VENV)/.ready-to-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(CORE) demo dist

%/bin/python:
ifdef UV
	uv venv --quiet --python $(PYTHON) $*
else
	$(PYTHON) -m venv $*
endif

$(VENV)/.ready: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,$(VENV),-e .[train$(COMMA)render])
	touch $@

$(VENV)/.ready-to-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,$(VENV),-e .[test])
	touch $@ $(VENV)/.ready

$(CORE)/.ready: $(CORE)/bin/python pyproject.toml constraints.txt
	$(call install,$(CORE),-e .)
	touch $@

.PRECIOUS: %/bin/python

ifdef UV
install = uv pip install --quiet --python $(1)/bin/python --constraint constraints.txt $(2)
else
install = $(1)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(2)
endif
